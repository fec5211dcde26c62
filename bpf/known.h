/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Packets at an uplink whose like was judged a moment ago (rule F5). TC_ACT_UNSPEC: it is to be judged by the rows. */
#pragma once

static inline int pass_as_before(struct __sk_buff *skb, const struct packet *packet, const struct known_verdict *known,
                                 const struct config *settings)
{
    if (write_ttl(skb, packet->ttl - 1) < 0 || write_macs(skb, known->out.mac, known->out.own_mac) < 0)
        return TC_ACT_SHOT;
    count(known->kind == VERDICT_FORWARD ? COUNT_FORWARDED : COUNT_RETURNED);
    return send_judged(skb, known->out.ifindex, settings);
}

/* To the pod: the flow itself says whether it lives, and whether replies of it need not ask netfilter. */
static inline int deliver_as_before(struct __sk_buff *skb, const struct packet *packet, const struct known_verdict *known,
                                    u64 now_ns, const struct config *settings)
{
    struct flow_key key = {
        .pod_ip = known->deliver.pod_ip,
        .remote_ip = packet->source,
        .pod_port = known->pod_port,
        .remote_port = packet->source_port,
        .protocol = packet->protocol,
    };
    struct flow *flow = find_flow(&key);
    u32 ifindex = 0;

    if (!flow || flow->pod != known->deliver.pod || flow->floating_ip != packet->destination ||
        flow->nat_port != packet->destination_port || is_flow_over(flow, now_ns) ||
        flow->is_ended || is_always_asked(packet) || next_flow_state(flow->state, packet, 0) != flow->state)
        return TC_ACT_UNSPEC;
    if (is_approved(flow, packet, flow->back_until_ns, now_ns)) {
        ifindex = flow->back_ifindex;
        /* Its MTU has not been asked for. */
        if (ifindex != known->deliver.back_ifindex)
            return TC_ACT_UNSPEC;
        if (write_ttl(skb, packet->ttl - 1) < 0 || write_macs(skb, flow->pod_mac, flow->node_mac) < 0)
            return drop(skb, DROP_MALFORMED, packet->destination);
    } else {
        mark_seen(skb, packet, &key, SEEN_FOR_POD);
    }
    refresh_flow(flow, packet, 0, now_ns);
    if (translate(skb, packet, 0, key.pod_ip, key.pod_port) < 0)
        return drop(skb, DROP_MALFORMED, packet->destination);
    count(ifindex ? COUNT_DIRECT_BACK : COUNT_REVERSED);
    return ifindex ? bpf_redirect_peer(ifindex, 0) : to_pod(skb, settings, packet->destination);
}

static inline int take_known(struct __sk_buff *skb, const struct ipv4 *ip, u32 generation, const struct config *settings)
{
    struct tuple tuple = {.source = ip->source, .destination = ip->destination, .protocol = ip->protocol};
    u64 now_ns = flow_clock_ns();
    struct known_verdict *known;
    struct packet *packet;
    u8 *data = frame_start(skb);

    if ((ip->protocol != PROTOCOL_TCP && ip->protocol != PROTOCOL_UDP) || ip->version_ihl != 0x45 ||
        (ip->fragment & bpf_htons(0x3fff)) || ip->ttl <= 1 || skb->vlan_present ||
        (void *)data + ETHERNET_BYTES + IPV4_BYTES + 4 > frame_end(skb))
        return TC_ACT_UNSPEC;
    tuple.source_port = *(__be16 *)(data + ETHERNET_BYTES + IPV4_BYTES);
    tuple.destination_port = *(__be16 *)(data + ETHERNET_BYTES + IPV4_BYTES + 2);
    known = find_verdict(&tuple, skb->ifindex, generation, now_ns);
    if (!known || known->kind == VERDICT_OUT || !same_mac(known->sender_mac, data + MAC_BYTES))
        return TC_ACT_UNSPEC;
    if (known->token && live_token(known->kind == VERDICT_FORWARD ? ip->source : ip->destination) != known->token)
        return TC_ACT_UNSPEC;
    packet = arrived_packet();
    if (!packet || load_packet(skb, ip, packet) != DROP_NONE || is_too_big(skb, packet, known->mtu))
        return TC_ACT_UNSPEC;
    return known->kind == VERDICT_DELIVER ? deliver_as_before(skb, packet, known, now_ns, settings)
                                          : pass_as_before(skb, packet, known, settings);
}
