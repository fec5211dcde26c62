/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The fence: towards anybody but members only the holder speaks for a floating IP (rules G2, H3). */
#pragma once

/* To the holder that the way names; a member without the lease drops it. By whatever uplink: it may be the one below the
 * way's, of a VLAN or a macvlan. */
static inline int is_on_the_way(struct __sk_buff *skb, __be32 floating_ip)
{
    struct way *way = find_way(floating_ip);
    u8 destination[MAC_BYTES];

    return way && way->kind == WAY_L2 &&
           bpf_skb_load_bytes(skb, 0, destination, MAC_BYTES) == 0 && same_mac(destination, way->gateway_mac);
}

/* `is_ours`: a program of ours made it. It may have waited for a neighbour since. */
static inline int fence_packet(struct __sk_buff *skb, __be32 floating_ip, int is_ours)
{
    struct ipv4 ip;

    if (!is_ours)
        return drop(skb, DROP_FORGED_SOURCE, floating_ip);
    if (!skb->vlan_present && load_ipv4(skb, &ip) && is_question_to_member(skb, &ip))
        return TC_ACT_UNSPEC;
    if (is_lease_live(floating_ip) || is_on_the_way(skb, floating_ip))
        return TC_ACT_UNSPEC;
    return drop(skb, DROP_LEASE_EXPIRED_EGRESS, floating_ip);
}

/* ARP in a floating IP's name is the agent's too, so there is no mark to ask for. This node's own question for what it
 * holds nobody else would answer (rule H2). */
static inline int fence_arp(struct __sk_buff *skb)
{
    struct floating_ip *floating;
    struct arp arp;
    __be32 address;

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &arp, sizeof(arp)) < 0 || !is_ipv4_arp(&arp))
        return TC_ACT_UNSPEC;
    address = arp.sender_ip;
    if (floating_ips.lookup(&address))
        return is_lease_live(address) ? TC_ACT_UNSPEC : drop(skb, DROP_LEASE_EXPIRED_EGRESS, address);
    address = arp.target_ip;
    floating = floating_ips.lookup(&address);
    if (!floating || arp.operation != bpf_htons(ARP_REQUEST) || floating->ifindex != skb->ifindex ||
        arp.sender_ip == 0 || !is_lease_live(address))
        return TC_ACT_UNSPEC;
    return answer_arp(skb, &arp, floating, BPF_F_INGRESS);
}

/* With tags: what a VLAN device above this one sends, or what nobody should (rule H5). Judged like all else. */
static inline int fence_tagged(struct __sk_buff *skb, int is_ours, const struct config *settings)
{
    __be16 type;
    u32 at = skip_tags(skb, &type);
    __be32 source = claimed_source(skb, &type);

    if (!is_ours && settings && type == bpf_htons(ETHERTYPE_IPV4) && is_for_tunnel(skb, at, settings))
        return drop(skb, DROP_FORGED_TUNNEL, 0);
    if (!source || !floating_ips.lookup(&source))
        return TC_ACT_UNSPEC;
    if (type != bpf_htons(ETHERTYPE_ARP))
        return fence_packet(skb, source, is_ours);
    return is_lease_live(source) ? TC_ACT_UNSPEC : drop(skb, DROP_LEASE_EXPIRED_EGRESS, source);
}
