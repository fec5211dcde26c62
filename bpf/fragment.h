/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Fragments: the first one, which has the ports, is remembered, and the later ones follow it. One that comes before its
 * first is dropped: nobody knows whose it is. */
#pragma once

#define FRAGMENT_NS (30 * SECOND_NS) /* as long as a receiver waits for the rest (RFC 1122, 3.3.2: 60 s at most) */

static inline struct fragment_key fragment_of(const struct packet *packet, u8 stage)
{
    struct fragment_key key = {
        .source = packet->source,
        .destination = packet->destination,
        .id = packet->id,
        .protocol = packet->protocol,
        .stage = stage,
    };

    return key;
}

static inline void remember_fragment(const struct packet *packet, u8 stage, u32 value)
{
    struct fragment_key key = fragment_of(packet, stage);
    struct fragment fragment = {.until_ns = flow_clock_ns() + FRAGMENT_NS, .value = value};

    if (packet->fragment == FRAGMENT_FIRST)
        fragments.update(&key, &fragment);
}

/* What the first one of a later fragment left; 0 where there was none. */
static inline u32 recall_fragment(const struct packet *packet, u8 stage)
{
    struct fragment_key key = fragment_of(packet, stage);
    struct fragment *fragment = fragments.lookup(&key);

    return fragment && flow_clock_ns() < fragment->until_ns ? fragment->value : 0;
}
