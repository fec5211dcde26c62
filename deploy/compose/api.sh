#!/bin/sh
# The API server of docker-compose.yml, and before it, once: keys, and a kubeconfig for the operator, agents, controllers.
set -eu
cd /cluster
if [ ! -f admin ]; then
  openssl genrsa -out service-account.key 2048 2>/dev/null
  umask 022
  openssl rand -hex 32 > keyring
  account=system:serviceaccount
  group=system:serviceaccounts
  : > tokens.csv
  for user in agent controller admin; do
    token=$(openssl rand -hex 16)
    case $user in
      admin) echo "$token,admin,admin,system:masters" ;;
      *) echo "$token,$account:egressgw-system:egressgw-$user,$user,\"$group,$group:egressgw-system\"" ;;
    esac >> tokens.csv
    # The certificate is made by the API server when it first starts.
    cat > "$user" <<YAML
apiVersion: v1
kind: Config
current-context: compose
contexts: [{name: compose, context: {cluster: compose, user: $user}}]
users: [{name: $user, user: {token: $token}}]
clusters:
- name: compose
  cluster: {server: "https://172.30.99.2:6443", certificate-authority: /cluster/certificates/apiserver.crt}
YAML
  done
fi
# Pods are made here without a controller manager that would give them service accounts.
exec /opt/kubernetes/kube-apiserver --etcd-servers=http://172.30.99.3:2379 --cert-dir=/cluster/certificates \
  --secure-port=6443 --bind-address=0.0.0.0 --advertise-address=172.30.99.2 \
  --service-account-key-file=service-account.key --service-account-signing-key-file=service-account.key \
  --service-account-issuer=https://kubernetes.default.svc --token-auth-file=tokens.csv \
  --authorization-mode=Node,RBAC --service-cluster-ip-range=10.96.0.0/16 \
  --disable-admission-plugins=ServiceAccount
