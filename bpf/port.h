/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Finding a port for a new flow (rule Q4): the pod's own where it lies in a block of this node and is free; else the first
 * free one after a start that is the same for one remote, so that the words of hints are few, and another after a reboot.
 * What decides is always that the mirror was absent when it was made, which the kernel does in one step.
 * Ports that just closed keep their bit, so they come last: when no bit is left, each port is looked at. */
#pragma once

#define WORD_STEPS 64 /* OWN_WORDS, and some for ports that were taken though the word of their block was lost */
#define SEARCHED_BLOCKS 4
#define SEARCH_PAUSE_NS 50000000ULL /* after a search that found nothing, so that a pod cannot burn a CPU with SYNs */
#define TIME_WAIT_NS (60 * SECOND_NS) /* of most remotes: for so long a closed port comes last */
#define MIRROR_SETTLES_NS SECOND_NS /* a mirror is made before its flow */

/* Make a mirror where there is none; 0 where it is made, or names this flow already. */
static inline int claim(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow)
{
    struct mirror *present;

    if (key->protocol != PROTOCOL_TCP) {
        if (mirrors_datagram.insert(key, mirror) == 0)
            return 0;
        present = mirrors_datagram.lookup(key);
        return present && names(present, flow) ? 0 : -1;
    }
    if (mirrors_young.insert(key, mirror) != 0) {
        present = mirrors_young.lookup(key);
        return present && names(present, flow) ? 0 : -1;
    }
    /* After it is written: what moves to the other place looks here after it has written there (move_to_open). */
    present = mirrors_open.lookup(key);
    if (!present)
        return 0;
    if (names(present, flow))
        return 0;
    mirrors_young.delete(key);
    return -1;
}

#define PORT_TAKEN 0
#define PORT_CLOSED 1 /* to be had if there is no other: in TIME_WAIT */
#define PORT_ABANDONED 2

/* What is to be had of a port that is taken. */
static inline int judge_port(struct mirror_key *key, u64 now_ns)
{
    struct mirror *mirror = find_mirror(key);
    struct flow_key owner;
    struct flow *flow;
    u64 made_ns;

    if (!mirror)
        return PORT_ABANDONED;
    owner = flow_of(key, mirror);
    made_ns = mirror->made_ns;
    flow = find_flow(&owner);
    if (!flow || flow->floating_ip != key->floating_ip || flow->nat_port != key->nat_port)
        return now_ns > made_ns + MIRROR_SETTLES_NS ? PORT_ABANDONED : PORT_TAKEN;
    if (is_flow_over(flow, now_ns))
        return PORT_ABANDONED;
    if (key->protocol != PROTOCOL_TCP || flow->state != FLOW_CLOSING)
        return PORT_TAKEN;
    return now_ns > flow->last_ns + TIME_WAIT_NS ? PORT_ABANDONED : PORT_CLOSED;
}

/* Take a port over from a flow that is over. Two CPUs may try: who does not find its mirror afterwards has lost. */
static inline int take_over(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow)
{
    if (key->protocol != PROTOCOL_TCP) {
        mirrors_datagram.delete(key);
    } else {
        mirrors_open.delete(key);
        mirrors_young.delete(key);
    }
    return claim(key, mirror, flow);
}

/* Where the clear bits begin, from bit `start` on and around: how many ones are below the lowest zero. Without branches,
 * which the verifier would have to walk in each step of a search. */
static inline u32 first_clear(u64 word, u32 start)
{
    u64 clear = start ? ~word >> start | ~word << (64 - start) : ~word;
    u64 below = (clear & -clear) - 1;

    below = below - (below >> 1 & 0x5555555555555555ULL);
    below = (below & 0x3333333333333333ULL) + (below >> 2 & 0x3333333333333333ULL);
    below = (below + (below >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
    return (start + (u32)(below * 0x0101010101010101ULL >> 56)) & 63;
}

static inline u32 start_of(const struct mirror_key *key, u64 seed)
{
    u64 mixed = (seed ^ key->remote_ip ^ (u64)key->remote_port << 32 ^ (u64)key->protocol << 48) * 0x9e3779b97f4a7c15ULL;

    return mixed >> 40;
}

static inline u64 own_word(const struct own_blocks *own, u64 index)
{
    /* The barrier keeps the compiler from dropping the comparison that the verifier wants to see. */
    asm volatile("" : "+r"(index));
    return index < OWN_WORDS ? own->bits[index] : 0;
}

static inline void mark_hint(struct hint_key *key, u64 bit)
{
    u64 *hint = port_hints.lookup(key);

    if (hint)
        *hint |= bit;
    else
        port_hints.update(key, &bit);
}

/* By the hints: the first block that has a clear bit, and in it the first port whose bit is clear. */
static inline int search_hints(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow,
                               struct own_blocks *own, u64 seed)
{
    u32 start = start_of(key, seed);
    u32 index = start >> 12 & (OWN_WORDS - 1);
    struct hint_key full_key = hint_of(key, 0);
    struct hint_key hint_key = hint_of(key, 0);
    u32 step;

    for (step = 0; step < WORD_STEPS; step++) {
        u64 *hint;
        u64 word;
        u32 bit;
        u64 left;

        full_key.block = FULL_BLOCKS + index;
        hint = port_hints.lookup(&full_key);
        left = own_word(own, index) & ~(hint ? *hint : 0);
        if (left == 0) {
            index = (index + 1) & (OWN_WORDS - 1);
            if (index == (start >> 12 & (OWN_WORDS - 1)))
                return -1;
            continue;
        }
        bit = first_clear(~left, start >> 6 & 63);
        hint_key.block = index * 64 + bit;
        hint = port_hints.lookup(&hint_key);
        word = hint ? *hint : 0;
        if (word == ~0ULL) {
            mark_hint(&full_key, 1ULL << bit);
            continue;
        }
        bit = first_clear(word, start & 63);
        key->nat_port = bpf_htons(FIRST_PORT + hint_key.block * PORTS_PER_BLOCK + bit);
        mark_hint(&hint_key, 1ULL << bit);
        if (claim(key, mirror, flow) == 0)
            return 0;
    }
    return -1;
}

/* The own block that follows a place in the order of numbers, from the first one on after the last. */
static inline u32 own_block_from(const struct own_blocks *own, u32 place)
{
    u32 index = place >> 6 & (OWN_WORDS - 1);
    u64 later = own_word(own, index) & (~0ULL << (place & 63));
    u32 step;

    for (step = 0; step <= OWN_WORDS; step++) {
        if (later)
            return index * 64 + first_clear(~later, 0);
        index = (index + 1) & (OWN_WORDS - 1);
        later = own_word(own, index);
    }
    return NO_BLOCK;
}

/* In one block, whose bits say nothing any more: a port whose flow is over; else one that is closed goes into `closed`. */
static inline int search_block(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow, u32 block,
                               __be16 *closed, u64 now_ns)
{
    u32 step;

    for (step = 0; step < PORTS_PER_BLOCK; step++) {
        int judgement;

        key->nat_port = bpf_htons(FIRST_PORT + block * PORTS_PER_BLOCK + step);
        judgement = judge_port(key, now_ns);
        if (judgement == PORT_CLOSED)
            *closed = key->nat_port;
        if (judgement == PORT_ABANDONED && take_over(key, mirror, flow) == 0)
            return 0;
    }
    return -1;
}

/* No bit is clear: look at the ports themselves, some blocks at a time, from where the last search ended. In each block
 * one that is over goes before one that is closed. */
static inline int search_ports(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow,
                               struct own_blocks *own, u64 now_ns, u32 *block)
{
    __be16 closed = 0;
    u32 round;

    for (round = 0; round < SEARCHED_BLOCKS; round++) {
        *block = own_block_from(own, *block);
        if (*block >= BLOCKS)
            return -1;
        if (search_block(key, mirror, flow, *block, &closed, now_ns) == 0)
            return 0;
        *block = *block + 1;
        key->nat_port = closed;
        if (closed && take_over(key, mirror, flow) == 0)
            return 0;
    }
    return -1;
}

static inline int keep_port(struct mirror_key *key, struct mirror *mirror, const struct flow_key *flow,
                            struct own_blocks *own)
{
    u32 offset = (u32)bpf_ntohs(flow->pod_port) - FIRST_PORT;
    u32 block = offset / PORTS_PER_BLOCK;
    struct hint_key hint_key = hint_of(key, block);

    if (bpf_ntohs(flow->pod_port) < FIRST_PORT || !(own_word(own, block / 64) >> (block % 64) & 1))
        return -1;
    key->nat_port = flow->pod_port;
    if (claim(key, mirror, flow) != 0)
        return -1;
    mark_hint(&hint_key, 1ULL << (offset % PORTS_PER_BLOCK));
    return 0;
}

/* Reserve a port of this node for a flow and put it into `key`. Returns a drop reason. */
static inline u32 reserve_port(struct mirror_key *key, const struct flow_key *flow, u64 seed, u64 now_ns)
{
    struct mirror mirror = {.made_ns = now_ns, .pod_ip = flow->pod_ip, .pod_port = flow->pod_port};
    __be32 floating_ip = key->floating_ip;
    struct own_blocks *own = own_blocks.lookup(&floating_ip);
    struct hint_key in_vain = hint_of(key, NO_BLOCK);
    u64 *last;
    u64 ended;
    u32 block;
    u32 reason;

    if (!own)
        return DROP_NO_PORTS;
    if (keep_port(key, &mirror, flow, own) == 0 || search_hints(key, &mirror, flow, own, seed) == 0)
        return DROP_NONE;
    last = port_hints.lookup(&in_vain);
    if (last && now_ns < *last + SEARCH_PAUSE_NS)
        return DROP_PORTS_EXHAUSTED;
    block = last ? *last & (OWN_BITS - 1) : 0;
    reason = search_ports(key, &mirror, flow, own, now_ns, &block) == 0 ? DROP_NONE : DROP_PORTS_EXHAUSTED;
    ended = block & (OWN_BITS - 1);
    if (reason != DROP_NONE)
        ended |= now_ns & ~(OWN_BITS - 1ULL);
    port_hints.update(&in_vain, &ended);
    return reason;
}
