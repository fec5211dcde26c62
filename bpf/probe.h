/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What agents ask each other over the data path (rule X1): frames like those of pods, which the agent makes and reads. */
#pragma once

/* The floating IP of a frame that is a question or an answer, 0 where it is none. Most packets cost one comparison. */
static inline __be32 probed_address(struct __sk_buff *skb, const struct ipv4 *ip)
{
    u32 zero = 0;
    struct probe_target *target;
    __be16 port;

    if (ip->source != bpf_htonl(PROBE_OUTSIDE) && ip->destination != bpf_htonl(PROBE_OUTSIDE))
        return 0;
    target = probe_target.lookup(&zero);
    if (!target || !target->address || ip->protocol != PROTOCOL_UDP || (ip->version_ihl & 0x0f) != 5 ||
        bpf_skb_load_bytes(skb, ETHERNET_BYTES + IPV4_BYTES + 2, &port, sizeof(port)) < 0 || port != target->port)
        return 0;
    return ip->source == bpf_htonl(PROBE_OUTSIDE) ? ip->destination : ip->source;
}

/* Up to this node's agent, from the floating IP: that address is on the segment, so no rp_filter objects. It has no UDP
 * checksum; what it says is sealed. */
static inline int take_probe(struct __sk_buff *skb, __be32 floating_ip)
{
    u32 zero = 0;
    struct probe_target *target = probe_target.lookup(&zero);
    __be32 address;

    if (!target || !sender_number(skb))
        return drop(skb, DROP_WRONG_NODE, floating_ip);
    address = target->address;
    if (write_address(skb, 1, floating_ip) < 0 || write_address(skb, 0, address) < 0)
        return drop(skb, DROP_MALFORMED, floating_ip);
    return TC_ACT_UNSPEC;
}

/* A question of this node's agent leaves, to a member alone, which need not be the holder: it may be so next. */
static inline int is_question_to_member(struct __sk_buff *skb, const struct ipv4 *ip)
{
    struct member_key member = {.ifindex = skb->ifindex};

    return probed_address(skb, ip) && bpf_skb_load_bytes(skb, 0, member.mac, MAC_BYTES) == 0 &&
           members.lookup(&member);
}
