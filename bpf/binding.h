/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Life of a NAT binding: states and timeouts (RFC 5382 REQ-5, RFC 4787 REQ-5, RFC 5508 REQ-2). */
#pragma once

#define SECOND_NS 1000000000ULL

enum binding_state {
    BINDING_NEW,          /* seen from the pod only */
    BINDING_ESTABLISHED,  /* answered */
    BINDING_POD_FIN,      /* half closed: the other side may go on for hours */
    BINDING_REMOTE_FIN,
    BINDING_CLOSING,      /* FIN of both, or RST */
};

static inline __u64 binding_timeout_ns(__u8 protocol, __u8 state)
{
    if (protocol == PROTOCOL_TCP) {
        if (state == BINDING_NEW)
            return 60 * SECOND_NS;
        if (state == BINDING_CLOSING)
            return 10 * SECOND_NS;
        return 8000 * SECOND_NS;
    }
    if (protocol == PROTOCOL_UDP)
        return state == BINDING_NEW ? 60 * SECOND_NS : 300 * SECOND_NS;
    return 60 * SECOND_NS;
}

static inline int is_binding_over(__u64 last_ns, __u8 protocol, __u8 state, __u64 now_ns)
{
    return now_ns > last_ns && now_ns - last_ns > binding_timeout_ns(protocol, state);
}

/* State after one more packet. A SYN reopens a closing binding (port reuse in TIME_WAIT). */
static inline __u8 next_binding_state(__u8 state, const struct flow *flow, int from_pod)
{
    if (flow->protocol == PROTOCOL_TCP) {
        __u8 own = from_pod ? BINDING_POD_FIN : BINDING_REMOTE_FIN;
        __u8 other = from_pod ? BINDING_REMOTE_FIN : BINDING_POD_FIN;

        if (flow->tcp_flags & TCP_RST)
            return BINDING_CLOSING;
        if (flow->tcp_flags & TCP_FIN)
            return (state == other || state == BINDING_CLOSING) ? BINDING_CLOSING : own;
        if (state >= BINDING_POD_FIN)
            return (from_pod && (flow->tcp_flags & TCP_SYN)) ? BINDING_NEW : state;
    }
    return from_pod ? state : BINDING_ESTABLISHED;
}

/* A stray FIN or RST after the binding's end must not make a new one. */
static inline int may_create_binding(const struct flow *flow)
{
    return flow->protocol != PROTOCOL_TCP || !(flow->tcp_flags & (TCP_FIN | TCP_RST));
}
