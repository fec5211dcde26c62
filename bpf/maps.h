/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Every map. Who writes which is in docs/datapath.md. A map whose shape changes gets another name (rule U1). */
#pragma once

#ifndef OPEN_FLOWS
#define OPEN_FLOWS 131072
#endif
#ifndef YOUNG_FLOWS
#define YOUNG_FLOWS 65536
#endif
#ifndef DATAGRAM_FLOWS
#define DATAGRAM_FLOWS 131072
#endif
#ifndef POD_ROWS
#define POD_ROWS 16384 /* two for each selected pod */
#endif
#ifndef RULES
#define RULES 262144
#endif
#ifndef FLOATING_IPS
#define FLOATING_IPS 4096
#endif

BPF_TABLE_PINNED("array", u32, struct config, config, 1, PIN_DIR "/config");
BPF_TABLE_PINNED("array", u32, struct flow_settings, flow_settings, 1, PIN_DIR "/flow_settings");
BPF_TABLE_PINNED("hash", u64, struct limits, limits, 4096, PIN_DIR "/limits");
BPF_TABLE_PINNED("hash", struct selected_key, struct selected_value, selected, POD_ROWS, PIN_DIR "/selected");
BPF_TABLE_PINNED("hash", u32, u32, direct_devices, 16384, PIN_DIR "/direct_devices", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", __be32, struct way, ways, FLOATING_IPS, PIN_DIR "/ways");
BPF_TABLE_PINNED("lru_hash", __be32, struct way_hint, way_hints, FLOATING_IPS, PIN_DIR "/way_hints");
BPF_TABLE_PINNED("array", u32, u64, agent_beat, 1, PIN_DIR "/agent_beat");
BPF_TABLE_PINNED("hash", __be32, struct floating_ip, floating_ips, FLOATING_IPS, PIN_DIR "/floating_ips");
BPF_TABLE_PINNED("hash", __be32, struct lease, lease_deadlines, FLOATING_IPS, PIN_DIR "/lease_deadlines");
BPF_TABLE_PINNED("hash", struct member_key, u32, members, 16384, PIN_DIR "/members");
BPF_TABLE_PINNED("hash", __be32, u32, tunnel_members, 16384, PIN_DIR "/tunnel_members");
BPF_TABLE_PINNED("hash", __be32, struct own_blocks, own_blocks, FLOATING_IPS, PIN_DIR "/own_blocks", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct block_key, struct block, blocks, 524288, PIN_DIR "/blocks", BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", __be32, u64, trusts, FLOATING_IPS, PIN_DIR "/trusts");
BPF_TABLE_PINNED("lru_hash", struct next_hop_key, struct next_hop, next_hops, 16384, PIN_DIR "/next_hops");
BPF_TABLE_PINNED("lru_hash", __be32, struct tunnel_hop, tunnel_hops, 16384, PIN_DIR "/tunnel_hops");
BPF_TABLE_PINNED("lru_hash", struct refused_key, u64, refused_blocks, 1024, PIN_DIR "/refused_blocks");

/* Of the agent alone, for the next one of this boot: whose each block is and by which stamp (rules Q1, Q3). */
BPF_TABLE_PINNED("hash", struct block_key, struct gateway_row, gateway_rows, 524288, PIN_DIR "/gateway_rows",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("hash", struct block_key, struct owner_row, owner_rows, 65536, PIN_DIR "/owner_rows",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("array", u32, u64, block_memory, 1, PIN_DIR "/block_memory");

/* Flows and their mirrors (rule B5). What evicts nothing has answered, open TCP alone. */
BPF_TABLE_PINNED("hash", struct flow_key, struct flow, flows_open, OPEN_FLOWS, PIN_DIR "/flows_open");
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct flow, flows_young, YOUNG_FLOWS, PIN_DIR "/flows_young");
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct flow, flows_datagram, DATAGRAM_FLOWS, PIN_DIR "/flows_datagram");
BPF_TABLE_PINNED("hash", struct mirror_key, struct mirror, mirrors_open, OPEN_FLOWS, PIN_DIR "/mirrors_open");
BPF_TABLE_PINNED("lru_hash", struct mirror_key, struct mirror, mirrors_young, YOUNG_FLOWS, PIN_DIR "/mirrors_young");
BPF_TABLE_PINNED("lru_hash", struct mirror_key, struct mirror, mirrors_datagram, DATAGRAM_FLOWS,
                 PIN_DIR "/mirrors_datagram");
BPF_TABLE_PINNED("lru_hash", struct hint_key, u64, port_hints, 65536, PIN_DIR "/port_hints");
BPF_TABLE_PINNED("hash", struct pod_key, struct pod_load, pod_loads, 16384, PIN_DIR "/pod_loads");
BPF_TABLE_PINNED("hash", struct pod_key, u64, pod_spares, 16384, PIN_DIR "/pod_spares");
/* The last state of flows that a program has removed, until the agent has counted them (rule B6). */
BPF_TABLE_PINNED("lru_hash", struct flow_key, struct flow, departed_flows, 4096, PIN_DIR "/departed_flows");
BPF_TABLE_PINNED("hash", struct traffic_key, struct traffic, policy_traffic, 8192, PIN_DIR "/policy_traffic",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lru_hash", struct fragment_key, struct fragment, fragments, 8192, PIN_DIR "/fragments");

BPF_TABLE_PINNED("hash", u32, __be32, uplink_addresses, 256, PIN_DIR "/uplink_addresses");
BPF_TABLE_PINNED("array", u32, struct probe_target, probe_target, 1, PIN_DIR "/probe_target");
BPF_TABLE_PINNED("array", u32, u64, generations, 2, PIN_DIR "/generations");
BPF_TABLE_PINNED("lru_hash", struct error_key, u64, error_times, 4096, PIN_DIR "/error_times");

BPF_TABLE_PINNED("lru_percpu_hash", struct drop_key, struct tally, drops, 8192, PIN_DIR "/drops");
BPF_TABLE_PINNED("percpu_array", u32, u64, counts, COUNTERS, PIN_DIR "/counts");
BPF_TABLE_PINNED("lpm_trie", struct rule_key, struct rule_value, rules, RULES, PIN_DIR "/rules",
                 BPF_F_NO_PREALLOC);
BPF_TABLE_PINNED("lpm_trie", struct cluster_key, u32, cluster, 16384, PIN_DIR "/cluster", BPF_F_NO_PREALLOC);
