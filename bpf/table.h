/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The table of flows and its mirror: three places of each (rule B5). An entry that moves is in the new place before it
 * leaves the old one; who misses it in both looks again in the first. */
#pragma once

#define IN_OPEN 0
#define IN_YOUNG 1
#define IN_DATAGRAM 2

static inline u64 flow_clock_ns(void)
{
    return bpf_ktime_get_coarse_ns();
}

static inline struct flow *find_flow(struct flow_key *key)
{
    struct flow *flow;

    if (key->protocol != PROTOCOL_TCP)
        return flows_datagram.lookup(key);
    flow = flows_open.lookup(key);
    if (flow)
        return flow;
    flow = flows_young.lookup(key);
    if (flow)
        return flow;
    return flows_open.lookup(key);
}

static inline struct mirror *find_mirror(struct mirror_key *key)
{
    struct mirror *mirror;

    if (key->protocol != PROTOCOL_TCP)
        return mirrors_datagram.lookup(key);
    mirror = mirrors_open.lookup(key);
    if (mirror)
        return mirror;
    mirror = mirrors_young.lookup(key);
    if (mirror)
        return mirror;
    return mirrors_open.lookup(key);
}

static inline int names(const struct mirror *mirror, const struct flow_key *key)
{
    return mirror->pod_ip == key->pod_ip && mirror->pod_port == key->pod_port;
}

static inline struct mirror_key mirror_of(const struct flow_key *key, const struct flow *flow)
{
    struct mirror_key mirror = {
        .remote_ip = key->remote_ip,
        .floating_ip = flow->floating_ip,
        .remote_port = key->remote_port,
        .nat_port = flow->nat_port,
        .protocol = key->protocol,
    };

    return mirror;
}

static inline struct flow_key flow_of(const struct mirror_key *key, const struct mirror *mirror)
{
    struct flow_key flow = {
        .pod_ip = mirror->pod_ip,
        .remote_ip = key->remote_ip,
        .pod_port = mirror->pod_port,
        .remote_port = key->remote_port,
        .protocol = key->protocol,
    };

    return flow;
}

/* Of a flow that moves: not on the stack, where there is no room, and not the row itself, which others change. */
BPF_TABLE("percpu_array", u32, struct flow, moved_flows, 1);

static inline struct flow *copy_of(const struct flow *flow)
{
    u32 zero = 0;
    struct flow *moved = moved_flows.lookup(&zero);

    if (moved)
        __builtin_memcpy(moved, flow, sizeof(*moved));
    return moved;
}

/* An answered flow goes to where nothing is evicted. Where that is full it stays, and may be evicted. */
static inline void move_to_open(struct flow_key *key, struct flow *flow)
{
    struct mirror_key mirror_key = mirror_of(key, flow);
    struct mirror mirror = {.made_ns = flow->last_ns, .pod_ip = key->pod_ip, .pod_port = key->pod_port};
    struct mirror *young;
    struct flow *moved = copy_of(flow);

    if (!moved)
        return;
    if (mirrors_open.insert(&mirror_key, &mirror) != 0) {
        count(COUNT_OPEN_FLOWS_FULL);
        return;
    }
    /* Where the young one was evicted, another flow may have the port by now: both looked after they had written. */
    young = mirrors_young.lookup(&mirror_key);
    if (young && !names(young, key)) {
        mirrors_open.delete(&mirror_key);
        return;
    }
    if (flows_open.insert(key, moved) != 0) {
        mirrors_open.delete(&mirror_key);
        count(COUNT_OPEN_FLOWS_FULL);
        return;
    }
    flows_young.delete(key);
    mirrors_young.delete(&mirror_key);
}

static inline void move_to_young(struct flow_key *key, struct flow *flow)
{
    struct mirror_key mirror_key = mirror_of(key, flow);
    struct mirror mirror = {.made_ns = flow->last_ns, .pod_ip = key->pod_ip, .pod_port = key->pod_port};
    struct flow *moved = copy_of(flow);

    if (!moved)
        return;
    mirrors_young.update(&mirror_key, &mirror);
    flows_young.update(key, moved);
    flows_open.delete(key);
    mirrors_open.delete(&mirror_key);
}

/* Of a rule set, else the node's; none where not even that is there. */
static inline struct limits *limits_of(u64 rule_set)
{
    struct limits *own = limits.lookup(&rule_set);
    u64 node = 0;

    return own ? own : limits.lookup(&node);
}

/* Plain additions: of two packets of one flow and direction in the same instant on two CPUs one may be missed (rule B6). */
static inline void tally_packet(struct flow *flow, const struct packet *packet, int from_pod)
{
    u32 packets = 1 + packet->segments;
    u32 bytes = packet->length + packet->headers;

    if (from_pod) {
        flow->out_packets += packets;
        flow->out_bytes += bytes;
    } else {
        flow->in_packets += packets;
        flow->in_bytes += bytes;
    }
}

/* A packet of a flow, either way, of whatever state. */
static inline void refresh_flow(struct flow *flow, const struct packet *packet, int from_pod, u64 now_ns)
{
    if (from_pod && packet->protocol == PROTOCOL_TCP) {
        if (packet->tcp_flags & TCP_ACK)
            flow->acked = packet->acked;
        else if (is_opening(packet))
            flow->acked = 0;
    }
    flow->last_ns = now_ns;
    tally_packet(flow, packet, from_pod);
}

/* The same, and on to its next state. */
static inline void advance_flow(struct flow_key *key, struct flow *flow, const struct packet *packet, int from_pod,
                                u64 now_ns)
{
    u8 state = next_flow_state(flow->state, packet, from_pod);
    u8 former = flow->state;

    refresh_flow(flow, packet, from_pod, now_ns);
    if (state == former)
        return;
    flow->state = state;
    flow->life_s = flow_life_s(key, state, limits_of(flow->rule_set));
    if (is_open_tcp(key->protocol, state) && !is_open_tcp(key->protocol, former))
        move_to_open(key, flow);
    else if (!is_open_tcp(key->protocol, state) && is_open_tcp(key->protocol, former))
        move_to_young(key, flow);
}

static inline void count_flow(__be32 pod_ip, u32 pod, int is_made)
{
    struct pod_key key = {.pod_ip = pod_ip, .pod = pod};
    struct pod_load *load = pod_loads.lookup(&key);

    if (!load) {
        struct pod_load none = {};

        pod_loads.insert(&key, &none);
        load = pod_loads.lookup(&key);
    }
    count(is_made ? COUNT_FLOWS_MADE : COUNT_FLOWS_ENDED);
    if (!load)
        return;
    if (is_made)
        lock_xadd(&load->made, 1);
    else
        lock_xadd(&load->ended, 1);
}

static inline int is_over_quota(__be32 pod_ip, u32 pod, const struct limits *own)
{
    struct pod_key key = {.pod_ip = pod_ip, .pod = pod};
    struct pod_load *load = pod_loads.lookup(&key);
    u64 *spare = pod_spares.lookup(&key);
    u64 allowed = own && own->flows_per_pod ? own->flows_per_pod : FLOWS_PER_POD;

    if (spare)
        allowed += *spare;
    /* Signed: more may have ended than were made here, such as those that the agent wrote. */
    return load && (s64)(load->made - load->ended) >= (s64)allowed;
}

static inline struct hint_key hint_of(const struct mirror_key *key, u16 block)
{
    struct hint_key hint = {
        .remote_ip = key->remote_ip,
        .floating_ip = key->floating_ip,
        .remote_port = key->remote_port,
        .block = block,
        .protocol = key->protocol,
    };

    return hint;
}

/* Forget a flow, and give its port back, unless that names another flow by now. */
static inline void remove_flow(struct flow_key *key, const struct flow *flow)
{
    struct mirror_key mirror_key = mirror_of(key, flow);
    struct mirror *mirror = find_mirror(&mirror_key);
    u16 offset = bpf_ntohs(mirror_key.nat_port) - FIRST_PORT;
    struct hint_key hint = hint_of(&mirror_key, offset / PORTS_PER_BLOCK);
    struct hint_key full = hint_of(&mirror_key, FULL_BLOCKS + offset / PORTS_PER_BLOCK / 64);
    u64 *word = port_hints.lookup(&hint);
    u64 *full_word = port_hints.lookup(&full);

    count_flow(key->pod_ip, flow->pod, 0);
    departed_flows.update(key, (struct flow *)flow);
    if (mirror && names(mirror, key)) {
        if (word)
            *word &= ~(1ULL << (offset % PORTS_PER_BLOCK));
        if (full_word)
            *full_word &= ~(1ULL << (offset / PORTS_PER_BLOCK % 64));
        if (key->protocol != PROTOCOL_TCP) {
            mirrors_datagram.delete(&mirror_key);
        } else {
            mirrors_open.delete(&mirror_key);
            mirrors_young.delete(&mirror_key);
        }
    }
    if (key->protocol != PROTOCOL_TCP) {
        flows_datagram.delete(key);
    } else {
        flows_open.delete(key);
        flows_young.delete(key);
    }
}
