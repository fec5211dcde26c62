/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Every map that outlives the programs: pinned. Who writes which is in docs/datapath.md. A map whose shape changes gets
 * another name (rule U1). */
#pragma once

/* How many rows it has is settings' and memory's to say, when it is made: service/datapath/map_size.py. */
#define SIZED 1

BPF_TABLE("array", u32, struct config, config, 1);
BPF_TABLE("array", u32, struct flow_settings, flow_settings, 1);
BPF_TABLE("hash", u64, struct limits, limits, 4096);
BPF_TABLE("hash", struct selected_key, struct selected_value, selected, SIZED);
BPF_F_TABLE("hash", u32, u32, direct_devices, 16384, BPF_F_NO_PREALLOC);
BPF_TABLE("hash", __be32, struct way, ways, SIZED);
BPF_TABLE("lru_hash", __be32, struct way_hint, way_hints, SIZED);
BPF_TABLE("array", u32, u64, agent_beat, 1);
BPF_TABLE("hash", __be32, struct floating_ip, floating_ips, SIZED);
BPF_TABLE("hash", __be32, struct lease, lease_deadlines, SIZED);
BPF_TABLE("lru_hash", __be32, struct handover, handovers, SIZED);
BPF_TABLE("array", u32, struct handover_device, handover_device, 1);
BPF_TABLE("hash", struct member_key, u32, members, 16384);
BPF_TABLE("hash", __be32, u32, tunnel_members, 16384);
BPF_F_TABLE("hash", __be32, struct own_blocks, own_blocks, SIZED, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct block_key, struct block, blocks, 524288, BPF_F_NO_PREALLOC);
BPF_TABLE("hash", __be32, u64, trusts, SIZED);
BPF_TABLE("lru_hash", struct next_hop_key, struct next_hop, next_hops, 16384);
BPF_TABLE("lru_hash", __be32, struct tunnel_hop, tunnel_hops, 16384);
BPF_TABLE("lru_hash", struct refused_key, u64, refused_blocks, 1024);

/* Of the agent alone, for the next one of this boot: whose each block is and by which stamp (rules Q1, Q3). */
BPF_F_TABLE("hash", struct block_key, struct gateway_row, gateway_rows, 524288, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct block_key, struct owner_row, owner_rows, 65536, BPF_F_NO_PREALLOC);
BPF_TABLE("array", u32, u64, block_memory, 1);

/* Flows and their mirrors (rule B5). What evicts nothing has answered, open TCP alone. */
BPF_TABLE("hash", struct flow_key, struct flow, flows_open, SIZED);
BPF_TABLE("lru_hash", struct flow_key, struct flow, flows_young, SIZED);
BPF_TABLE("lru_hash", struct flow_key, struct flow, flows_datagram, SIZED);
BPF_TABLE("hash", struct mirror_key, struct mirror, mirrors_open, SIZED);
BPF_TABLE("lru_hash", struct mirror_key, struct mirror, mirrors_young, SIZED);
BPF_TABLE("lru_hash", struct mirror_key, struct mirror, mirrors_datagram, SIZED);
BPF_TABLE("lru_hash", struct hint_key, u64, port_hints, 65536);
BPF_TABLE("hash", struct pod_key, struct pod_load, pod_loads, 16384);
BPF_TABLE("hash", struct pod_key, u64, pod_spares, 16384);
/* The last state of flows that a program has removed, until the agent has counted them (rule B6). */
BPF_TABLE("lru_hash", struct flow_key, struct flow, departed_flows, 4096);
BPF_F_TABLE("hash", struct traffic_key, struct traffic, policy_traffic, 8192, BPF_F_NO_PREALLOC);
BPF_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, 8192);

BPF_TABLE("hash", u32, __be32, uplink_addresses, 256);
BPF_TABLE("array", u32, struct probe_target, probe_target, 1);
BPF_TABLE("array", u32, u64, generations, 2);
BPF_TABLE("lru_hash", struct error_key, u64, error_times, 4096);

BPF_TABLE("lru_percpu_hash", struct drop_key, struct tally, drops, 8192);
BPF_TABLE("percpu_array", u32, u64, counts, COUNTERS);
BPF_F_TABLE("lpm_trie", struct rule_key, struct rule_value, rules, SIZED, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct cluster_key, u32, cluster, 16384, BPF_F_NO_PREALLOC);
