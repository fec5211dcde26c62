/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Keys and values of every map: the contract with service/datapath/layout.py, byte for byte.
 * Addresses and ports are in network byte order, everything else in the host's. Padding is explicit and zero: keys are
 * compared as bytes. A change here needs a new LAYOUT_VERSION there, because maps outlive the agent as pins. */
#pragma once

#define MAC_BYTES 6

struct config {
    __u32 mark;        /* the one mark bit (rule W6) */
    __u32 egw_ifindex; /* the steering device */
    __u8 egw_mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct config) == 16, "config");

/* Classified pods of this node. Selected ones have two rows: with the pod's device, and with ifindex 0 for lookups behind
 * the bridge. Those that no policy selects have the first alone (rule W11). */
struct selected_key {
    __be32 pod_ip;
    __u32 ifindex;
};
struct selected_value {
    __u64 rule_set;
    __u32 state;
    __u32 _pad;
};
#define SELECTED_STEER 1
#define SELECTED_PENDING 2  /* marked, and dropped at egw0: what is left to wait for is the gateway */
#define SELECTED_CHANGING 3 /* dropped before netfilter, so that no connection-tracking entry is made (rule W10) */
#define SELECTED_NOT 4      /* classified, and left alone */
_Static_assert(sizeof(struct selected_key) == 8, "selected_key");
_Static_assert(sizeof(struct selected_value) == 16, "selected_value");

/* What pod_ingress gives a packet of a classified pod as its priority, for netfilter to know it by (rule W11): no device's
 * nor bridge's name tells that there, a pod cannot set it, and forwarding overwrites it. */
#define CLASSIFIED_PRIORITY 0x65677730

/* {rule set, destination} -> what to do. prefixlen counts the 64 bits of the rule set too. */
struct rule_key {
    __u32 prefixlen;
    __u32 rule_set_high;
    __u32 rule_set_low;
    __be32 destination;
};
struct rule_value {
    __be32 floating_ip;
    __u32 action;
};
#define RULE_STEER 1
#define RULE_EXCLUDED 2
#define RULE_SET_BITS 64
_Static_assert(sizeof(struct rule_key) == 16, "rule_key");
_Static_assert(sizeof(struct rule_value) == 8, "rule_value");

/* In-cluster and never-steered destinations. */
struct cluster_key {
    __u32 prefixlen;
    __be32 address;
};
_Static_assert(sizeof(struct cluster_key) == 8, "cluster_key");
#define CLUSTER_POD 1
#define CLUSTER_SERVICE 2
#define CLUSTER_NODE 4

/* floating IP -> the way to its holder (rule W1). */
struct way {
    __u64 token;
    __u32 kind;
    __u32 ifindex;
    __u8 own_mac[MAC_BYTES];
    __u8 gateway_mac[MAC_BYTES];
    __u32 _pad;
};
#define WAY_L2 1
#define WAY_LOCAL 2
_Static_assert(sizeof(struct way) == 32, "way");

/* floating IP -> a way that only gratuitous ARP has told of (rule W2): under the token of the authenticated way it stands
 * in for, 0 where there is none. Not in force where `until_ns` (CLOCK_BOOTTIME) is 0. */
struct way_hint {
    struct way way;
    __u64 until_ns;
};
_Static_assert(sizeof(struct way_hint) == 40, "way_hint");
#define HINT_NS 500000000ULL
/* An agent whose last beat is older hears no authenticated word: hints then stay in force. */
#define AGENT_AWAY_NS 3000000000ULL

/* Every floating IP of the spec, with this node's interface on its segment (ifindex 0: none). */
struct floating_ip {
    __u32 ifindex;
    __u8 mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct floating_ip) == 12, "floating_ip");

/* Written by the lease keeper alone: the dead-man switch (rule G2). */
struct lease {
    __u64 deadline_ns; /* CLOCK_BOOTTIME */
    __u64 token;
};
_Static_assert(sizeof(struct lease) == 16, "lease");

/* Pods this node may translate for (rule G4), by the interface their packets come in on. */
struct endpoint_key {
    __be32 pod_ip;
    __u32 ifindex;
};
struct endpoint {
    __u64 rule_set;
    __u8 node_mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct endpoint_key) == 8, "endpoint_key");
_Static_assert(sizeof(struct endpoint) == 16, "endpoint");

/* MACs of members per interface: whose gratuitous ARP is believed (rule W2). */
struct member_key {
    __u32 ifindex;
    __u8 mac[MAC_BYTES];
    __u16 _pad;
};
_Static_assert(sizeof(struct member_key) == 12, "member_key");

/* NAT bindings: two entries a flow. The reverse entry is the reservation of the port. ICMP echo: the id is the port. */
struct binding_key {
    __be32 pod_ip;
    __be32 remote_ip;
    __be16 pod_port;
    __be16 remote_port;
    __u8 protocol;
    __u8 _pad[3];
};
struct binding {
    __be32 floating_ip;
    __be16 nat_port;
    __u16 _pad;
};
struct reverse_key {
    __be32 remote_ip;
    __be32 floating_ip;
    __be16 remote_port;
    __be16 nat_port;
    __u8 protocol;
    __u8 _pad[3];
};
struct reverse_binding {
    __u64 last_ns; /* CLOCK_BOOTTIME of the last packet either way */
    __be32 pod_ip;
    __u32 ifindex; /* where the pod's packets come from */
    __be16 pod_port;
    __u8 state;
    __u8 _pad[5];
};
_Static_assert(sizeof(struct binding_key) == 16, "binding_key");
_Static_assert(sizeof(struct binding) == 8, "binding");
_Static_assert(sizeof(struct reverse_key) == 16, "reverse_key");
_Static_assert(sizeof(struct reverse_binding) == 24, "reverse_binding");

struct drop_key {
    __be32 floating_ip; /* 0 where none is known yet */
    __u32 reason;
};
struct tally {
    __u64 packets;
    __u64 bytes;
};
_Static_assert(sizeof(struct drop_key) == 8, "drop_key");
_Static_assert(sizeof(struct tally) == 16, "tally");

enum counter {
    COUNT_MARKED,
    COUNT_STEERED,
    COUNT_TRANSLATED,
    COUNT_REVERSED,
    COUNT_ARP_ANSWERED,
    COUNT_ECHO_ANSWERED,
    COUNT_WAY_LEARNED,
    COUNT_BINDINGS_CREATED,
    COUNTERS,
};
