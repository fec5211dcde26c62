#!/bin/sh
# Install what `kubectl apply -k deploy/` would, but the workloads: the containers of docker-compose.yml are those.
set -eu
rm -f /tmp/done
kubectl apply -f /deploy/namespace.yaml -f /deploy/crds -f /deploy/rbac.yaml
kubectl wait --for=condition=Established --timeout=60s crd --all
kubectl apply -f /compose/objects.yaml
# No kubelet says so here.
for number in 1 2 3; do
  kubectl patch node node$number --subresource=status --type=merge -p "{\"status\": {
    \"addresses\": [{\"type\": \"InternalIP\", \"address\": \"172.30.99.1$number\"}],
    \"conditions\": [{\"type\": \"Ready\", \"status\": \"True\", \"reason\": \"Compose\"}]}}"
  kubectl patch pod pod$number -n alice --subresource=status --type=merge -p "{\"status\": {
    \"phase\": \"Running\", \"podIP\": \"10.244.$number.10\", \"podIPs\": [{\"ip\": \"10.244.$number.10\"}]}}"
done
touch /tmp/done
exec sleep infinity
