"""etcd, API server, controller manager and scheduler of a cluster, in a network namespace of their own."""

import secrets
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.lab.cluster.assets import etcd, program
from service.lab.cluster.cni import daemon
from service.lab.cluster.runtime import LEASE_S
from service.lab.namespace import NETNS_FOLDER
from service.lab.plan import POD_CIDR, SERVICE_CIDR, Plan, PlannedController
from service.model.errors import OperatorError

API_PORT = 6443
_ETCD = "http://127.0.0.1:2379"
_PEER = "http://127.0.0.1:2380"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_GRACE_S = LEASE_S + 4
"""How long a silent node counts as ready."""


def member_of(plan: Plan) -> PlannedController:
    """Where the control plane runs: a cluster's plan has this one member beside its nodes."""
    return plan.controllers[0]


class ControlPlane:
    """The files and command lines; `Cluster` starts them."""

    port = API_PORT

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder / member_of(plan).name
        self._lab_folder = folder
        self._plan = plan
        self._member = member_of(plan)

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster's administrator."""
        return self._lab_folder / "kubeconfig"

    @property
    def kubectl(self) -> Path:
        """The script that runs kubectl where the API server can be reached."""
        return self._lab_folder / "kubectl"

    @property
    def certificate(self) -> Path:
        """Made by the API server when it first starts."""
        return self.folder / "certificates" / "apiserver.crt"

    def write_files(self) -> None:
        """Credentials of every component, each under the identity that Kubernetes' own roles are bound to."""
        self.folder.mkdir(exist_ok=True)
        self._key.write_bytes(_private_key())
        self._key.chmod(0o600)
        users = {self.kubeconfig: ("admin", "system:masters")}
        names = ("kube-controller-manager", "kube-scheduler", "kube-proxy", daemon(self._plan.options.cni))
        for name in filter(None, names):
            users[self._lab_folder / f"{name}.kubeconfig"] = (f"system:{name}", "")
        for node in self._plan.nodes:
            users[self._lab_folder / node.name / "kubelet.kubeconfig"] = (f"system:node:{node.name}", "system:nodes")
        lines = []
        for path, (user, group) in users.items():
            token = secrets.token_hex(16)
            lines.append(f'{token},{user},{user},"{group}"\n')
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.kubeconfig_text(token), encoding="ascii")
        self._tokens.write_text("".join(lines), encoding="ascii")
        self._tokens.chmod(0o600)
        self._write_kubectl()

    @property
    def _key(self) -> Path:
        return self.folder / "service-account.key"

    @property
    def _tokens(self) -> Path:
        return self.folder / "tokens.csv"

    def _write_kubectl(self) -> None:
        script = f"""#!/bin/sh
export KUBECONFIG={self.kubeconfig} KUBECACHEDIR={self._lab_folder}/kubectl-cache
exec nsenter --net={NETNS_FOLDER / self._member.netns} {program("kubectl")} "$@"
"""
        self.kubectl.write_text(script, encoding="ascii")
        self.kubectl.chmod(0o755)

    def kubeconfig_text(self, token: str) -> str:
        """For whoever has that token: `tokens.csv` says who that is."""
        cluster = {
            "server": f"https://{self._member.ip}:{API_PORT}",
            "certificate-authority": str(self.certificate),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "clusters": [{"name": "lab", "cluster": cluster}],
        }
        return yaml.safe_dump(document)

    def command(self, name: str) -> tuple[str, ...]:
        """Of one of PROGRAMS. Raises OperatorError where it is not installed."""
        if name == "etcd":
            return self._etcd()
        if name == "kube-apiserver":
            return self._api_server()
        shared = (f"--kubeconfig={self._lab_folder / f'{name}.kubeconfig'}", "--leader-elect=false")
        return (str(program(name)), *shared, *(self._controller_options() if name.endswith("manager") else ()))

    def _etcd(self) -> tuple[str, ...]:
        found = etcd()
        if found is None:
            raise OperatorError("etcd is not installed (Debian's etcd-server)")
        return (
            str(found),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_PEER}",
            f"--initial-advertise-peer-urls={_PEER}",
            f"--initial-cluster=default={_PEER}",
            "--unsafe-no-fsync",
        )

    def _api_server(self) -> tuple[str, ...]:
        return (
            str(program("kube-apiserver")),
            f"--etcd-servers={_ETCD}",
            f"--cert-dir={self.certificate.parent}",
            f"--secure-port={API_PORT}",
            f"--bind-address={self._member.ip}",
            f"--advertise-address={self._member.ip}",
            f"--service-account-key-file={self._key}",
            f"--service-account-signing-key-file={self._key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self._tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-delay-duration=0s",
        )

    def _controller_options(self) -> tuple[str, ...]:
        return (
            f"--service-account-private-key-file={self._key}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={POD_CIDR}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--node-monitor-period=2s",
            f"--node-monitor-grace-period={NODE_GRACE_S}s",
        )


def _private_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
