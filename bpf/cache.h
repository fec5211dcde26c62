/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Verdicts that hold for a moment (rule F5): packets of one tuple that follow each other within half a second cost two
 * lookups instead of ten. What is told here is nowhere decided: it was, by the rows, at the packet before. */
#pragma once

#define VERDICTS 4096 /* a slot for each hash of a tuple, on each CPU; who comes to a taken one takes it over */
#define VERDICT_SHIFT 52
#define VERDICT_NS 500000000ULL

#define VERDICT_OUT 1     /* of a pod: to the holder, which is another node */
#define VERDICT_FORWARD 2 /* of a member, from a floating IP that is held here: to the outside */
#define VERDICT_RETURN 3  /* to a floating IP that is held here: to the node of its block */
#define VERDICT_DELIVER 4 /* to a floating IP: to a pod of this node */

struct tuple {
    __be32 source;
    __be32 destination;
    __be16 source_port;
    __be16 destination_port;
    __u32 protocol;
};

/* One cache line. */
struct known_verdict {
    u64 until_ns; /* CLOCK_MONOTONIC, coarse */
    union {
        u64 token;          /* of the lease under which it holds; 0: of none */
        __be32 floating_ip; /* OUT */
    };
    __be32 source;
    __be32 destination;
    __be16 source_port;
    __be16 destination_port;
    u32 generation;
    u32 in_ifindex; /* OUT: 0, since the pod's row says by which device it comes */
    u16 mtu;
    u8 protocol;
    u8 kind;
    u8 sender_mac[MAC_BYTES];
    __be16 pod_port; /* DELIVER */
    union {
        struct {
            u32 pod; /* its number, as the flow has it */
            __be32 pod_ip;
            u32 back_ifindex; /* 0: it went by the stack */
        } deliver;
        struct {
            u32 ifindex;
            u8 mac[MAC_BYTES];
            u8 own_mac[MAC_BYTES];
        } out; /* all others */
    };
};
_Static_assert(sizeof(struct known_verdict) == 64, "known_verdict");
/* Not pinned: other programs begin with none. A program is not interrupted by another one on its CPU. */
BPF_TABLE("percpu_array", u32, struct known_verdict, known_verdicts, VERDICTS);

/* Of the rows that verdicts are made of. Read before any of them: a row that changes meanwhile makes it another one. 0: of
 * none. */
static inline u32 present_generation(void)
{
    u32 by_agent = GENERATION_AGENT;
    u32 by_program = GENERATION_PROGRAM;
    u64 *written = generations.lookup(&by_agent);
    u64 *learned = generations.lookup(&by_program);

    return written && learned ? (u32)(*written + *learned) : 0;
}

static inline void begin_generation(void)
{
    u32 by_program = GENERATION_PROGRAM;
    u64 *learned = generations.lookup(&by_program);

    if (learned)
        lock_xadd(learned, 1);
}

static inline int is_of(const struct known_verdict *known, const struct tuple *tuple)
{
    return known->source == tuple->source && known->destination == tuple->destination &&
           known->source_port == tuple->source_port && known->destination_port == tuple->destination_port &&
           known->protocol == tuple->protocol;
}

static inline struct known_verdict *slot_of(const struct tuple *tuple)
{
    u64 mixed = ((u64)tuple->source << 32 | tuple->destination) * 0x9e3779b97f4a7c15ULL;
    u32 slot;

    mixed ^= (u64)tuple->protocol << 32 | (u32)tuple->source_port << 16 | tuple->destination_port;
    mixed *= 0xbf58476d1ce4e5b9ULL;
    slot = mixed >> VERDICT_SHIFT;
    return known_verdicts.lookup(&slot);
}

/* Of the packet whose tuple it is; NULL where it is to be judged by the rows. `in_ifindex`: 0 for a pod's. */
static inline struct known_verdict *find_verdict(const struct tuple *tuple, u32 in_ifindex, u32 generation, u64 now_ns)
{
    struct known_verdict *known = slot_of(tuple);

    if (!known || !is_of(known, tuple) || now_ns >= known->until_ns ||
        known->generation != generation || known->in_ifindex != in_ifindex)
        return NULL;
    return known;
}

/* Only what is judged alike in each packet: not ICMP, and no fragments. */
static inline int is_lasting(const struct packet *packet)
{
    return (packet->protocol == PROTOCOL_TCP || packet->protocol == PROTOCOL_UDP) && !packet->fragment;
}

static inline struct tuple tuple_of(const struct packet *packet)
{
    struct tuple tuple = {
        .source = packet->source,
        .destination = packet->destination,
        .source_port = packet->source_port,
        .destination_port = packet->destination_port,
        .protocol = packet->protocol,
    };

    return tuple;
}

/* The slot of a packet, with what all kinds have, for the caller to complete; NULL where nothing is to be kept. */
static inline struct known_verdict *keep_verdict(struct __sk_buff *skb, const struct packet *packet, u32 kind,
                                                 u32 generation, u64 until_ns)
{
    struct tuple tuple = tuple_of(packet);
    struct known_verdict *known;
    u8 *data = frame_start(skb);

    if (!generation || !is_lasting(packet) || (void *)data + 2 * MAC_BYTES > frame_end(skb))
        return NULL;
    known = slot_of(&tuple);
    if (!known)
        return NULL;
    __builtin_memset(known, 0, sizeof(*known));
    known->until_ns = until_ns;
    known->source = packet->source;
    known->destination = packet->destination;
    known->source_port = packet->source_port;
    known->destination_port = packet->destination_port;
    known->generation = generation;
    known->in_ifindex = kind == VERDICT_OUT ? 0 : skb->ifindex;
    known->protocol = packet->protocol;
    known->kind = kind;
    copy_mac(known->sender_mac, data + MAC_BYTES);
    return known;
}

/* Out of a device to a MAC, as `hop` says: what all kinds but DELIVER have. NULL where nothing is kept. */
static inline struct known_verdict *keep_passage(struct __sk_buff *skb, const struct packet *packet, u32 kind,
                                                 u32 generation, u32 ifindex, const struct next_hop *hop)
{
    struct known_verdict *known = keep_verdict(skb, packet, kind, generation, hop->until_ns);

    if (!known)
        return NULL;
    known->mtu = hop->mtu;
    known->out.ifindex = ifindex;
    copy_mac(known->out.mac, hop->mac);
    copy_mac(known->out.own_mac, hop->own_mac);
    return known;
}
