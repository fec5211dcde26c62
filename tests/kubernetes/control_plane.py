"""A real API server with its etcd, on loopback, for tests marked `kubernetes`."""

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from service.lab.cluster.assets import API_PROGRAMS, etcd, missing_programs, program

REPOSITORY = Path(__file__).resolve().parents[2]
CRDS = REPOSITORY / "deploy" / "crds"
_READY_S = 60.0
_ADMIN_TOKEN = "admin-token"


def missing() -> str:
    """What stands in the way of starting an API server; empty where nothing does."""
    return missing_programs(API_PROGRAMS)


class Kubectl:
    """kubectl with one kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def run(self, *arguments: str, text: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        return subprocess.run(
            [str(program("kubectl")), *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=check,
            env=environment,
            timeout=60,
        )

    def __call__(self, *arguments: str) -> str:
        return self.run(*arguments).stdout

    def apply(self, *documents: dict[str, Any] | str) -> None:
        self.run("apply", "-f", "-", text=_text(documents))

    def refusal(self, document: dict[str, Any] | str) -> str:
        """Apply what must be refused; return what the user reads."""
        found = self.run("apply", "-f", "-", text=_text((document,)), check=False)
        assert found.returncode != 0, f"accepted: {document}"
        return found.stderr

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "-o", "json"))


def _text(documents: tuple[dict[str, Any] | str, ...]) -> str:
    return "---\n".join(item if isinstance(item, str) else json.dumps(item) + "\n" for item in documents)


class ControlPlane:
    """etcd and kube-apiserver as processes of ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubeconfig = folder / "kubeconfig"
        self.kubectl = Kubectl(self.kubeconfig)

    def start(self) -> None:
        key = self._folder / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (self._folder / "tokens.csv").write_text(f'{_ADMIN_TOKEN},admin,admin,"system:masters"\n', encoding="ascii")
        self.write_kubeconfig(self.kubeconfig, _ADMIN_TOKEN)
        etcd_program = etcd()
        assert etcd_program is not None
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            [
                str(etcd_program),
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                # It is thrown away afterwards.
                "--unsafe-no-fsync",
            ],
        )
        self.start_api_server()

    def start_api_server(self) -> None:
        folder = self._folder
        self._spawn(
            "kube-apiserver",
            [
                str(program("kube-apiserver")),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                f"--cert-dir={folder / 'certificates'}",
                f"--secure-port={self.port}",
                "--bind-address=127.0.0.1",
                f"--service-account-key-file={folder / 'service-account.key'}",
                f"--service-account-signing-key-file={folder / 'service-account.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=Node,RBAC",
                "--service-cluster-ip-range=10.96.0.0/16",
                # Pods are made here without a controller manager that would give them service accounts.
                "--disable-admission-plugins=ServiceAccount",
                "--shutdown-delay-duration=0s",
            ],
        )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        context = ssl._create_unverified_context()
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/readyz", headers={"Authorization": f"Bearer {_ADMIN_TOKEN}"}
        )
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=2, context=context):
                    return
            except (urllib.error.URLError, OSError) as error:
                dead = [name for name, process in self._processes.items() if process.poll() is not None]
                if dead or time.monotonic() > deadline:
                    raise RuntimeError(f"not ready ({error}); ended: {dead}\n{self._last_words()}") from error
            time.sleep(0.1)

    def kill_api_server(self) -> None:
        """As a crash would."""
        self._end("kube-apiserver", signal.SIGKILL)

    def freeze_api_server(self) -> None:
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def thaw_api_server(self) -> None:
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        for name in list(self._processes):
            self._end(name, signal.SIGKILL)

    def compact(self) -> None:
        """Let etcd forget every older version, and the API server with it: old watches get `410 Gone`."""
        revision = self._ask_etcd("maintenance/status", {})["header"]["revision"]
        self._ask_etcd("kv/compaction", {"revision": revision})

    def _ask_etcd(self, method: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{method}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=5) as response:
            return json.load(response)

    def write_kubeconfig(self, path: Path, token: str) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        # Made by the API server when it first starts.
                        "certificate-authority": str(self._folder / "certificates" / "apiserver.crt"),
                    },
                }
            ],
        }
        path.write_text(yaml.safe_dump(document), encoding="utf-8")

    def _spawn(self, name: str, command: list[str]) -> None:
        log = (self._folder / f"{name}.log").open("ab")
        with log:
            self._processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(number)
            process.wait(timeout=30)

    def _last_words(self) -> str:
        return "\n".join(
            f"{log.name}: {log.read_text(encoding='utf-8', errors='replace')[-1500:]}"
            for log in self._folder.glob("*.log")
        )


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(folder)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
