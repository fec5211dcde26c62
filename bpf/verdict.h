/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What is asked of the rows that agent and keeper write, and how a packet that goes nowhere is counted. */
#pragma once

static inline void count(u32 which)
{
    u64 *value = counts.lookup(&which);

    if (value)
        *value += 1;
}

static inline int drop(struct __sk_buff *skb, u32 reason, __be32 floating_ip)
{
    struct drop_key key = {.floating_ip = floating_ip, .reason = reason};
    struct tally *tally = drops.lookup(&key);

    if (tally) {
        tally->packets += 1;
        tally->bytes += skb->len;
    } else {
        struct tally first = {.packets = 1, .bytes = skb->len};

        drops.update(&key, &first);
    }
    return TC_ACT_SHOT;
}

/* The precise clock: the coarse one is a jiffy late (rule G2). */
static inline int is_lease_live(__be32 floating_ip)
{
    struct lease *lease = lease_deadlines.lookup(&floating_ip);

    return lease && bpf_ktime_get_boot_ns() < lease->deadline_ns;
}

/* The token of a lease that is live here; 0 where there is none. */
static inline u64 live_token(__be32 floating_ip)
{
    struct lease *lease = lease_deadlines.lookup(&floating_ip);

    return lease && bpf_ktime_get_boot_ns() < lease->deadline_ns ? lease->token : 0;
}

static inline int is_agent_away(u64 now_ns)
{
    u32 zero = 0;
    u64 *beat_ns = agent_beat.lookup(&zero);

    return !beat_ns || now_ns > *beat_ns + AGENT_AWAY_NS;
}

/* Whether a hint stands in for the authenticated way now: never for a newer one, nor for long while there is an agent to
 * hear the authenticated word, nor ever again once it has ended while there was one (rule W2). */
static inline int is_hint_in_force(const struct way_hint *hint, u64 token)
{
    u64 now_ns = bpf_ktime_get_boot_ns();
    u32 zero = 0;
    u64 *beat_ns = agent_beat.lookup(&zero);

    if (hint->way.token != token || hint->until_ns == 0)
        return 0;
    return now_ns < hint->until_ns || (is_agent_away(now_ns) && (!beat_ns || hint->until_ns > *beat_ns));
}

/* The way to this node itself. */
BPF_TABLE("percpu_array", u32, struct way, local_ways, 1);

/* The way to the holder as it is now (rules W1, W2). That it is this node the fence knows before any agent does; where
 * there is no way at all, the address is listed no more. */
static inline struct way *find_way(__be32 floating_ip)
{
    struct way *way = ways.lookup(&floating_ip);
    struct way_hint *hint;
    u32 zero = 0;

    if (is_lease_live(floating_ip)) {
        way = way ? local_ways.lookup(&zero) : NULL;
        if (way)
            way->kind = WAY_LOCAL;
        return way;
    }
    hint = way_hints.lookup(&floating_ip);
    return hint && is_hint_in_force(hint, way ? way->token : 0) ? &hint->way : way;
}

static inline struct rule_value *find_rule(u64 rule_set, __be32 destination)
{
    struct rule_key key = {
        .prefixlen = RULE_SET_BITS + 32,
        .rule_set_high = rule_set >> 32,
        .rule_set_low = (u32)rule_set,
        .destination = destination,
    };
    struct rule_value *rule = rules.lookup(&key);

    return rule && rule->action == RULE_STEER ? rule : NULL;
}

static inline u32 cluster_flags(__be32 address)
{
    struct cluster_key key = {.prefixlen = 32, .address = address};
    u32 *flags = cluster.lookup(&key);

    return flags ? *flags : 0;
}

/* How a packet came to this node. */
#define BY_WIRE 0
#define BY_ITSELF 1 /* of a pod of this node, or of the node */
#define BY_TUNNEL 2

/* The number of the member whose MAC a frame came from; 0 where it is nobody's. */
static inline u32 sender_number(struct __sk_buff *skb)
{
    struct member_key key = {.ifindex = skb->ifindex};
    u32 *number;

    if (bpf_skb_load_bytes(skb, MAC_BYTES, key.mac, MAC_BYTES) < 0)
        return 0;
    number = members.lookup(&key);
    return number ? *number : 0;
}

/* Whether this node was the holder until a moment ago, and has let go on purpose: what still comes for the address, from
 * who has not heard of the successor, goes on to the nodes of its blocks as before (rule R4). Nothing is sent in its name. */
static inline int is_handing_on(__be32 floating_ip)
{
    struct handover *handover = handovers.lookup(&floating_ip);
    u64 *token = trusts.lookup(&floating_ip);

    return handover && token && handover->token == *token &&
           bpf_ktime_get_boot_ns() < handover->since_ns + HANDED_ON_NS;
}

/* Whether the rows of blocks are vouched for under the present tenure of the lease: those of a former one may be old, and
 * the agent late, or dead (rule R3). */
static inline int is_trusted(__be32 floating_ip)
{
    struct lease *lease = lease_deadlines.lookup(&floating_ip);
    u64 *token = trusts.lookup(&floating_ip);

    if (!lease)
        return is_handing_on(floating_ip);
    return token && lease->token == *token;
}

/* The tenure that they are vouched for under; 0: none. */
static inline u64 trusted_token(__be32 floating_ip)
{
    u64 *token = trusts.lookup(&floating_ip);

    return token ? *token : 0;
}

/* The row of a port's block; NULL for a port below all blocks too, and where no row counts. */
static inline struct block *find_block(__be32 floating_ip, __be16 port)
{
    u16 number = bpf_ntohs(port);
    struct block_key key = {.floating_ip = floating_ip, .block = (u32)(number - FIRST_PORT) / PORTS_PER_BLOCK};

    if (number < FIRST_PORT || !is_trusted(floating_ip))
        return NULL;
    return blocks.lookup(&key);
}

/* Out of an uplink, past its fence: this is where it was judged. */
static inline int send_judged(struct __sk_buff *skb, u32 ifindex, const struct config *settings)
{
    skb->mark = skb->mark | settings->mark;
    skb->cb[0] = JUST_JUDGED;
    return bpf_redirect(ifindex, 0);
}
