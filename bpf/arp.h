/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* ARP for floating IPs: no interface has one, so the holder's programs answer; and what gratuitous ARP tells (rule W2). */
#pragma once

static inline int answer_arp(struct __sk_buff *skb, const struct arp *request, const struct floating_ip *floating,
                             u64 direction)
{
    struct arp reply = {
        .hardware = bpf_htons(1),
        .protocol = bpf_htons(ETHERTYPE_IPV4),
        .hardware_bytes = MAC_BYTES,
        .protocol_bytes = 4,
        .operation = bpf_htons(ARP_REPLY),
        .sender_ip = request->target_ip,
        .target_ip = request->sender_ip,
    };

    copy_mac(reply.sender_mac, floating->mac);
    copy_mac(reply.target_mac, request->sender_mac);
    if (bpf_skb_store_bytes(skb, ETHERNET_BYTES, &reply, sizeof(reply), 0) < 0 ||
        write_macs(skb, request->sender_mac, floating->mac) < 0)
        return TC_ACT_SHOT;
    count(COUNT_ARP_ANSWERED);
    return bpf_redirect(skb->ifindex, direction);
}

/* A member announces a floating IP: the fence lets only the holder do so, so the way to it is known at once (W2). But
 * anybody may forge it: it is a hint, and while the agent lives there is one under each token. */
static inline void learn_way(struct __sk_buff *skb, const struct arp *arp, const struct floating_ip *floating)
{
    struct member_key member = {.ifindex = skb->ifindex};
    struct way_hint learned = {.way = {.kind = WAY_L2, .ifindex = skb->ifindex}};
    u64 now_ns = bpf_ktime_get_boot_ns();
    __be32 floating_ip = arp->sender_ip;
    struct way_hint *hint;
    struct way *present;

    copy_mac(member.mac, arp->sender_mac);
    if (!members.lookup(&member) || floating->ifindex != skb->ifindex || is_lease_live(floating_ip))
        return;
    present = ways.lookup(&floating_ip);
    hint = way_hints.lookup(&floating_ip);
    if (present) {
        /* By the tunnel, nothing heard on a segment says the way. */
        if (present->kind == WAY_TUNNEL)
            return;
        learned.way.token = present->token;
        if (present->kind == WAY_L2 && present->ifindex == learned.way.ifindex &&
            same_mac(present->gateway_mac, arp->sender_mac)) {
            /* The holder of the authenticated word speaks: no hint stands in for it any more. */
            if (hint) {
                hint->until_ns = 0;
                begin_generation();
            }
            if (!handover_token(floating_ip, present))
                end_waiting(skb, arp, floating_ip);
            return;
        }
    }
    if (hint && hint->way.token == learned.way.token && !is_agent_away(now_ns))
        return;
    copy_mac(learned.way.own_mac, floating->mac);
    copy_mac(learned.way.gateway_mac, arp->sender_mac);
    learned.until_ns = now_ns + HINT_NS;
    way_hints.update(&floating_ip, &learned);
    begin_generation();
    count(COUNT_WAY_LEARNED);
    end_waiting(skb, arp, floating_ip);
}

static inline int arp_ingress(struct __sk_buff *skb)
{
    struct floating_ip *floating;
    struct arp arp;
    __be32 address;

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &arp, sizeof(arp)) < 0 || !is_ipv4_arp(&arp))
        return TC_ACT_UNSPEC;
    address = arp.sender_ip;
    floating = floating_ips.lookup(&address);
    if (floating && arp.sender_ip == arp.target_ip) {
        learn_way(skb, &arp, floating);
        return TC_ACT_UNSPEC;
    }
    address = arp.target_ip;
    floating = floating_ips.lookup(&address);
    if (!floating || arp.operation != bpf_htons(ARP_REQUEST))
        return TC_ACT_UNSPEC;
    /* Whoever asks as an address held here is in conflict (rule A2), and the agent's listener comes after tc. What the
     * host might answer by proxy ARP the fence keeps in. */
    if (is_lease_live(arp.sender_ip))
        return TC_ACT_UNSPEC;
    if (floating->ifindex == skb->ifindex && is_lease_live(address))
        return answer_arp(skb, &arp, floating, 0);
    /* Not ours to answer, nor the host's (proxy ARP): only the holder answers. */
    return TC_ACT_SHOT;
}
