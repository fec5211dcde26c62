/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The pod's node, outwards: whose flow a packet is, what the flow's address and port are, and the way to the holder. */
#pragma once

struct nat {
    __be32 floating_ip;
    __be16 port;
    __u16 is_of_old; /* the flow was there before */
};

/* What is known of the packet at hand. Not on the stack, where the verifier would follow each value of each field through
 * the searches for a port, more steps than it has. A program is not interrupted by another one on its CPU. */
struct scratch {
    struct packet packet;
    struct packet quoted; /* of an error */
    struct nat nat;
    struct flow_key key;
};
BPF_TABLE("percpu_array", u32, struct scratch, scratches, 1);

/* For what came by an uplink or the tunnel: empty, and not on the stack, where there is no room for it. */
static inline struct packet *arrived_packet(void)
{
    u32 zero = 0;
    struct scratch *scratch = scratches.lookup(&zero);

    if (scratch)
        __builtin_memset(&scratch->packet, 0, sizeof(scratch->packet));
    return scratch ? &scratch->packet : NULL;
}

static inline struct flow_key flow_from_pod(const struct packet *packet)
{
    struct flow_key key = {
        .pod_ip = packet->source,
        .remote_ip = packet->destination,
        .pod_port = packet->source_port,
        .remote_port = packet->destination_port,
        .protocol = packet->protocol,
    };

    return key;
}

static inline struct flow_key flow_to_pod(const struct packet *packet)
{
    struct flow_key key = {
        .pod_ip = packet->destination,
        .remote_ip = packet->source,
        .pod_port = packet->destination_port,
        .remote_port = packet->source_port,
        .protocol = packet->protocol,
    };

    if (packet->protocol == PROTOCOL_ICMP) {
        key.pod_port = packet->source_port;
        key.remote_port = 0;
    }
    return key;
}

/* The flow that a pod's ICMP error is about: what it quotes came from the remote. */
static inline struct flow_key flow_of_quoted(const struct packet *quoted)
{
    struct flow_key key = {
        .pod_ip = quoted->destination,
        .remote_ip = quoted->source,
        .pod_port = quoted->destination_port,
        .remote_port = quoted->source_port,
        .protocol = quoted->protocol,
    };

    if (quoted->protocol == PROTOCOL_ICMP) {
        key.pod_port = quoted->source_port;
        key.remote_port = 0;
    }
    return key;
}

/* Make a flow under a rule of its pod, with a port of this node (rules B1, B4, D4, Q4). Returns a drop reason. */
static inline u32 make_flow(struct __sk_buff *skb, const struct packet *packet, struct flow_key *key,
                            const struct selected_value *row, u64 now_ns, struct nat *nat)
{
    struct rule_value *rule = find_rule(row->rule_set, key->remote_ip);
    u32 zero = 0;
    struct flow_settings *settings = flow_settings.lookup(&zero);
    struct limits *own = limits_of(row->rule_set);
    struct flow fresh = {
        .rule_set = row->rule_set,
        .last_ns = now_ns,
        .pod = row->pod,
        .ifindex = skb->ingress_ifindex,
        .state = FLOW_NEW,
    };
    struct mirror_key mirror = {};
    struct flow *present;
    int is_made;
    u32 reason;

    if (!rule)
        return DROP_NOT_SELECTED;
    if (!settings || !may_make_flow(packet, settings))
        return DROP_NO_STATE;
    fresh.floating_ip = rule->floating_ip;
    nat->floating_ip = rule->floating_ip;
    if (is_over_quota(key->pod_ip, row->pod, own))
        return DROP_QUOTA;
    fresh.life_s = flow_life_s(key, FLOW_NEW, own);
    tally_packet(&fresh, packet, 1);
    mirror = mirror_of(key, &fresh);
    reason = reserve_port(&mirror, key, settings->seed, now_ns);
    if (reason != DROP_NONE)
        return reason;
    fresh.nat_port = mirror.nat_port;
    is_made = key->protocol == PROTOCOL_TCP ? flows_young.insert(key, &fresh) == 0
                                            : flows_datagram.insert(key, &fresh) == 0;
    nat->port = fresh.nat_port;
    if (is_made) {
        count_flow(key->pod_ip, row->pod, 1);
        return DROP_NONE;
    }
    /* Another CPU has made the same flow with another port: that one it is. */
    present = find_flow(key);
    if (!present)
        return DROP_MAP_FULL;
    if (present->nat_port != fresh.nat_port || present->floating_ip != fresh.floating_ip) {
        if (key->protocol == PROTOCOL_TCP)
            mirrors_young.delete(&mirror);
        else
            mirrors_datagram.delete(&mirror);
    }
    tally_packet(present, packet, 1);
    nat->floating_ip = present->floating_ip;
    nat->port = present->nat_port;
    return DROP_NONE;
}

/* Whether the reservation of a flow still names it (rule Q4); made again where it was only evicted. */
static inline int keeps_port(struct flow_key *key, const struct flow *flow, u64 now_ns)
{
    struct mirror_key mirror_key = mirror_of(key, flow);
    struct mirror again = {.made_ns = now_ns, .pod_ip = key->pod_ip, .pod_port = key->pod_port};
    struct mirror *mirror = find_mirror(&mirror_key);

    if (mirror)
        return names(mirror, key);
    return claim(&mirror_key, &again, key) == 0;
}

/* Another rule set: judged anew. Where the floating IP is the same, nothing else happens but that it lives by the
 * timeouts of the new one (rule E1); else the flow has ended, and drops both ways (rule E2). Returns whether it is no flow
 * any more instead: datagrams that have another floating IP now. A new socket may have the ports of an old one, and its
 * first request would be lost; connection tracking has no address of them that would have to go first. */
static inline int judge_again(const struct flow_key *key, struct flow *flow, const struct selected_value *row)
{
    struct rule_value *rule = find_rule(row->rule_set, key->remote_ip);

    if (rule && rule->floating_ip != flow->floating_ip && key->protocol != PROTOCOL_TCP && !flow->is_ended)
        return 1;
    flow->rule_set = row->rule_set;
    if (rule && rule->floating_ip == flow->floating_ip) {
        flow->life_s = flow_life_s(key, flow->state, limits_of(row->rule_set));
        return 0;
    }
    flow->is_ended = 1;
    if (flow->life_s > ENDED_S)
        flow->life_s = ENDED_S;
    return 0;
}

/* The flow that a pod's packet is of by its own tuple, and its key into `scratch`. */
static inline struct flow *flow_of_tuple(struct scratch *scratch)
{
    if (scratch->packet.fragment == FRAGMENT_LATER || is_error(&scratch->packet))
        return NULL;
    scratch->key = flow_from_pod(&scratch->packet);
    return find_flow(&scratch->key);
}

/* The address and port of a packet's flow, which is made where there is none. Returns a drop reason. */
static inline u32 follow_flow(struct __sk_buff *skb, const struct packet *packet, const struct selected_value *row,
                              struct flow_key *key, struct flow *flow, u64 now_ns, struct nat *nat)
{
    if (flow && flow->pod == row->pod && !is_flow_over(flow, now_ns) &&
        (flow->rule_set == row->rule_set || !judge_again(key, flow, row))) {
        nat->floating_ip = flow->floating_ip;
        nat->port = flow->nat_port;
        if (!flow->is_ended && !keeps_port(key, flow, now_ns))
            flow->is_ended = 1;
        /* The pod's stack has no socket any more, and tells the remote so. */
        if (!flow->is_ended || (flow->is_ended == ENDED_RESET && (packet->tcp_flags & TCP_RST))) {
            if (was_seen(skb, key, SEEN_FROM_POD))
                flow->out_until_ns = now_ns + APPROVED_NS;
            advance_flow(key, flow, packet, 1, now_ns);
            nat->is_of_old = 1;
            return DROP_NONE;
        }
        if (!is_opening(packet) || packet->protocol != PROTOCOL_TCP) {
            flow->last_ns = now_ns;
            return DROP_FLOW_ENDED;
        }
    }
    if (flow)
        remove_flow(key, flow);
    return make_flow(skb, packet, key, row, now_ns, nat);
}

/* A pod's ICMP error about what came for a flow of its own (rule H2). Anybody's, so the flow is neither refreshed nor
 * changed. */
static inline u32 judge_error(struct __sk_buff *skb, const struct selected_value *row, struct scratch *scratch)
{
    struct packet *quoted = &scratch->quoted;
    u32 reason = load_quoted(skb, &scratch->packet, quoted);
    struct flow_key key;
    struct flow *flow;

    if (reason != DROP_NONE)
        return reason;
    if (quoted->destination != scratch->packet.source)
        return DROP_MALFORMED;
    key = flow_of_quoted(quoted);
    flow = find_flow(&key);
    if (!flow || flow->is_ended || flow->pod != row->pod || is_flow_over(flow, flow_clock_ns()))
        return DROP_NO_FLOW;
    scratch->nat.floating_ip = flow->floating_ip;
    scratch->nat.port = flow->nat_port;
    return DROP_NONE;
}

/* Whose a pod's packet is, of that flow or a new one: floating IP and port, in `scratch`. Nothing of the packet is changed.
 * Returns a drop reason. */
static inline u32 judge_outwards(struct __sk_buff *skb, const struct selected_value *row, struct scratch *scratch,
                                 struct flow *flow, u64 now_ns)
{
    struct packet *packet = &scratch->packet;
    struct nat *nat = &scratch->nat;

    if (packet->fragment == FRAGMENT_LATER) {
        nat->floating_ip = recall_fragment(packet, STAGE_STEER);
        return nat->floating_ip ? DROP_NONE : DROP_FRAGMENT;
    }
    if (is_error(packet))
        return judge_error(skb, row, scratch);
    return follow_flow(skb, packet, row, &scratch->key, flow, now_ns, nat);
}

/* In an error the outer source and the quoted destination become what the remote knows. */
static inline u32 translate_outwards(struct __sk_buff *skb, const struct scratch *scratch)
{
    const struct packet *packet = &scratch->packet;
    const struct nat *nat = &scratch->nat;
    int failed;

    if (packet->fragment == FRAGMENT_LATER) {
        failed = write_address(skb, 1, nat->floating_ip) < 0;
    } else if (is_error(packet)) {
        failed = translate_quoted(skb, packet, &scratch->quoted, 0, nat->floating_ip, nat->port) < 0 ||
                 write_address(skb, 1, nat->floating_ip) < 0;
    } else {
        remember_fragment(packet, STAGE_STEER, nat->floating_ip);
        failed = translate(skb, packet, 1, nat->floating_ip, nat->port) < 0;
    }
    return failed ? DROP_MALFORMED : DROP_NONE;
}

/* Only of an authenticated way by the segment: a hint ends by itself (rule F5). */
static inline void keep_way(struct __sk_buff *skb, const struct packet *packet, __be32 floating_ip, const struct way *way,
                            u32 mtu, u32 generation, u64 now_ns)
{
    struct next_hop hop = {.until_ns = now_ns + VERDICT_NS, .mtu = mtu};
    struct known_verdict *known;

    if (way->kind != WAY_L2 || !mtu || ways.lookup(&floating_ip) != way)
        return;
    copy_mac(hop.mac, way->gateway_mac);
    copy_mac(hop.own_mac, way->own_mac);
    known = keep_passage(skb, packet, VERDICT_OUT, generation, way->ifindex, &hop);
    if (known)
        known->floating_ip = floating_ip;
}

/* How big a packet may be on a way; 0: the holder is this node, which judges it by its next hop. */
static inline u32 way_mtu(struct __sk_buff *skb, const struct way *way, const struct config *settings)
{
    if (way->kind == WAY_TUNNEL)
        return tunnel_mtu(skb, way->node, settings);
    return way->kind == WAY_L2 ? device_mtu(skb, way->ifindex) : 0;
}

/* To the holder (rule W1). With our mark: the fence takes it off what our programs made, and so does the uplink's
 * ingress where the holder is this node (rules H3, H4). */
static inline int send_to_holder(struct __sk_buff *skb, __be32 floating_ip, const struct way *way,
                                 const struct config *settings)
{
    struct floating_ip *floating;
    u32 ifindex = way->ifindex;

    if (way->kind == WAY_LOCAL) {
        floating = floating_ips.lookup(&floating_ip);
        if (!floating || !floating->ifindex)
            return drop(skb, DROP_NO_GATEWAY, floating_ip);
        ifindex = floating->ifindex;
        if (write_macs(skb, floating->mac, floating->mac) < 0)
            return drop(skb, DROP_MALFORMED, floating_ip);
        skb->mark = skb->mark | settings->mark;
        count(COUNT_STEERED);
        return bpf_redirect(ifindex, BPF_F_INGRESS);
    }
    if (way->kind == WAY_TUNNEL) {
        count(COUNT_STEERED);
        return send_by_tunnel(skb, way->node, floating_ip, settings);
    }
    if (way->kind != WAY_L2)
        return drop(skb, DROP_NO_TRANSPORT, floating_ip);
    if (write_macs(skb, way->gateway_mac, way->own_mac) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    count(COUNT_STEERED);
    return send_judged(skb, ifindex, settings);
}

/* Behind netfilter, as the packet before it (rule F5): neither the port's reservation nor the way is looked up. Of the flow
 * nothing but its counts and its time may change. TC_ACT_UNSPEC: to be judged by the rows. */
static inline int steer_as_before(struct __sk_buff *skb, const struct selected_value *row, struct scratch *scratch,
                                  struct flow *flow, u32 generation, u64 now_ns, const struct config *settings)
{
    struct packet *packet = &scratch->packet;
    struct tuple tuple = tuple_of(packet);
    struct known_verdict *known;

    if (is_always_asked(packet) || flow->pod != row->pod || flow->rule_set != row->rule_set || flow->is_ended ||
        is_flow_over(flow, now_ns) || next_flow_state(flow->state, packet, 1) != flow->state)
        return TC_ACT_UNSPEC;
    known = find_verdict(&tuple, 0, generation, now_ns);
    if (!known || known->kind != VERDICT_OUT || flow->floating_ip != known->floating_ip ||
        is_too_big(skb, packet, known->mtu))
        return TC_ACT_UNSPEC;
    scratch->nat.floating_ip = flow->floating_ip;
    scratch->nat.port = flow->nat_port;
    if (was_seen(skb, &scratch->key, SEEN_FROM_POD))
        flow->out_until_ns = now_ns + APPROVED_NS;
    refresh_flow(flow, packet, 1, now_ns);
    if (translate(skb, packet, 1, scratch->nat.floating_ip, scratch->nat.port) < 0 ||
        write_macs(skb, known->out.mac, known->out.own_mac) < 0)
        return drop(skb, DROP_MALFORMED, scratch->nat.floating_ip);
    count(COUNT_STEERED);
    return send_judged(skb, known->out.ifindex, settings);
}
