/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Life of a flow (rule B3): states and lifetimes (RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-1, RFC 7857). */
#pragma once

#define SECOND_NS 1000000000ULL

#define TCP_OPEN_S 7440
#define TCP_NEW_S 240 /* longer than the pauses between the SYNs of a patient client */
#define TCP_CLOSING_S 240
#define UDP_S 300
#define UDP_NEW_S 120
#define DNS_S 10 /* one question and one answer from a port that is not used again (RFC 4787 REQ-5a lets it be short) */
#define DNS_PORT 53
#define ICMP_S 60
#define ENDED_S 240 /* of silence, after another verdict */
#define FLOWS_PER_POD 32768

enum flow_state {
    FLOW_NEW,          /* seen from the pod only */
    FLOW_ESTABLISHED,  /* answered */
    FLOW_POD_FIN,      /* half closed: the other side may go on for hours */
    FLOW_REMOTE_FIN,
    FLOW_CLOSING,      /* FIN of both, or RST */
};

/* `limits` may be absent; 0 in it means the default. */
static inline __u32 flow_life_s(const struct flow_key *key, __u8 state, const struct limits *limits)
{
    __u8 protocol = key->protocol;
    __u32 set = 0;

    if (protocol == PROTOCOL_TCP) {
        if (state == FLOW_NEW)
            return limits && limits->tcp_new_s ? limits->tcp_new_s : TCP_NEW_S;
        if (state == FLOW_CLOSING)
            return limits && limits->tcp_closing_s ? limits->tcp_closing_s : TCP_CLOSING_S;
        return limits && limits->tcp_open_s ? limits->tcp_open_s : TCP_OPEN_S;
    }
    if (protocol == PROTOCOL_UDP) {
        if (key->remote_port == bpf_htons(DNS_PORT))
            return DNS_S;
        if (state == FLOW_NEW)
            return limits && limits->udp_new_s ? limits->udp_new_s : UDP_NEW_S;
        return limits && limits->udp_s ? limits->udp_s : UDP_S;
    }
    set = limits ? limits->icmp_s : 0;
    return set ? set : ICMP_S;
}

static inline int is_flow_over(const struct flow *flow, __u64 now_ns)
{
    return now_ns > flow->last_ns && now_ns - flow->last_ns > flow->life_s * SECOND_NS;
}

/* Opening SYN: SYN with FIN or RST is no connection, SYN with ACK answers one. */
static inline int is_opening(const struct packet *packet)
{
    return (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_SYN;
}

/* A RST of the remote side that anybody may have sent: not at the sequence that the pod waits for. */
static inline int is_stray_reset(const struct flow *flow, const struct packet *packet)
{
    return packet->protocol == PROTOCOL_TCP && (packet->tcp_flags & TCP_RST) && packet->sequence != flow->acked;
}

/* State after one more packet. A SYN of the pod reopens a closing flow (port reuse in TIME_WAIT). */
static inline __u8 next_flow_state(__u8 state, const struct packet *packet, int from_pod)
{
    if (packet->protocol == PROTOCOL_TCP) {
        __u8 own = from_pod ? FLOW_POD_FIN : FLOW_REMOTE_FIN;
        __u8 other = from_pod ? FLOW_REMOTE_FIN : FLOW_POD_FIN;

        if ((packet->tcp_flags & (TCP_SYN | TCP_FIN)) == (TCP_SYN | TCP_FIN))
            return state;
        if (packet->tcp_flags & TCP_RST)
            return FLOW_CLOSING;
        if (packet->tcp_flags & TCP_FIN)
            return (state == other || state == FLOW_CLOSING) ? FLOW_CLOSING : own;
        if (state >= FLOW_POD_FIN)
            return (from_pod && is_opening(packet)) ? FLOW_NEW : state;
        if (!(packet->tcp_flags & TCP_ACK))
            return state;
    }
    return from_pod ? state : FLOW_ESTABLISHED;
}

/* Answered and not closing: what must never be evicted (rule B5). */
static inline int is_open_tcp(__u8 protocol, __u8 state)
{
    return protocol == PROTOCOL_TCP && state != FLOW_NEW && state != FLOW_CLOSING;
}

/* Whether a packet of a pod that no flow knows makes one (rule D4). */
static inline int may_make_flow(const struct packet *packet, const struct flow_settings *settings)
{
    __u16 port = bpf_ntohs(packet->source_port);

    if (packet->protocol == PROTOCOL_ICMP)
        return packet->icmp_type == ICMP_ECHO_REQUEST;
    if (packet->protocol != PROTOCOL_TCP || is_opening(packet))
        return 1;
    if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))
        return 0;
    return packet->has_data && port >= settings->ephemeral_first && port <= settings->ephemeral_last;
}
