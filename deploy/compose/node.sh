#!/bin/sh
# A node of docker-compose.yml: what the kernel of a machine and its CNI provide, then agent and keeper.
set -eu
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
ip route replace 203.0.113.0/24 via 172.30.99.8

# The pod is process 1: this container is in its process namespace. A link, and the node as its router, as ptp CNIs do.
if ! ip link show pod >/dev/null 2>&1; then
  ip link add pod type veth peer name eth0 netns 1
  ip link set pod up
  ip addr add 169.254.1.1/32 dev pod
  ip route add "$POD_ADDRESS/32" dev pod
  nsenter --target 1 --net sh -c "
    ip link set lo up; ip link set eth0 up; ip addr add $POD_ADDRESS/32 dev eth0
    ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1"
  # What no policy selects leaves with the node's address.
  nft 'add table ip cni; add chain ip cni post { type nat hook postrouting priority 100; };
    add rule ip cni post ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 oifname eth0 masquerade'
fi

trap 'kill $keeper $agent 2>/dev/null' TERM INT
egressgw keeper --config /compose/config.yaml & keeper=$!
egressgw agent --config /compose/config.yaml & agent=$!
# Whichever ends first ends the node; the signal above ends both.
while kill -0 $keeper 2>/dev/null && kill -0 $agent 2>/dev/null; do sleep 1; done
kill $keeper $agent 2>/dev/null || true
wait
