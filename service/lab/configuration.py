"""The settings file of every agent, keeper and controller of a lab (service/settings.py is their reader)."""

from pathlib import Path
from typing import Any

import yaml

from service.lab.cache import cache_folder
from service.lab.plan import POD_CIDR, SERVICE_CIDR, Plan, PlannedController, PlannedNode
from service.model.gateway_node import NodeRole

MAX_LEASE_MS = 1000


def member_folder(folder: Path, name: str) -> Path:
    """Where one member keeps its settings, logs, state and pins."""
    return folder / name


def manifests_folder(folder: Path) -> Path:
    """Shared by all members: what Kubernetes is to a cluster."""
    return folder / "manifests"


def write_configuration(folder: Path, plan: Plan, member: PlannedNode | PlannedController, key: str) -> Path:
    """Write the settings of one member, make its folders, and return the file. `key`: 64 hexadecimal digits."""
    home = member_folder(folder, member.name)
    for name in ("state", "run", "bpf"):
        (home / name).mkdir(parents=True, exist_ok=True)
    role = member.role if isinstance(member, PlannedNode) else NodeRole.CONTROLLER
    path = home / "config.yaml"
    uplinks = [f"eth{segment}" for segment in (member.segments if isinstance(member, PlannedNode) else (0,))]
    settings = _settings(folder, plan, member.name, str(member.ip), role, uplinks)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    (home / "keyring").write_text(f"{key}\n", encoding="ascii")
    return path


def _settings(folder: Path, plan: Plan, name: str, address: str, role: NodeRole, uplinks: list[str]) -> dict[str, Any]:
    home = member_folder(folder, name)
    return {
        "node": name,
        "cluster": plan.options.name,
        "role": str(role),
        "source": f"manifests:{manifests_folder(folder)}",
        "bind_address": address,
        "keyring_file": str(home / "keyring"),
        "state_dir": str(home / "state"),
        "run_dir": str(home / "run"),
        "gossip": {"seeds": [str(node.ip) for node in plan.nodes]},
        "electors": {
            "epoch": 1,
            "members": [{"name": node.name, "address": str(node.ip)} for node in plan.electors],
        },
        # Electors without memory keep silent for the longest lease; a new lab shall not wait the usual 15 s for that.
        "lease": {"profile": plan.options.profile, "max_lease_ms": MAX_LEASE_MS},
        "datapath": {
            "uplinks": uplinks,
            "transport": plan.options.transport,
            "pod_cidrs": [str(POD_CIDR)],
            "service_cidrs": [str(SERVICE_CIDR)],
            "bpf_dir": str(home / "bpf"),
            # All nodes of all labs are this machine, so one compiles for all.
            "compiled_dir": str(cache_folder() / "compiled"),
        }
        | plan.options.datapath,
        "kafka": {"bootstrap_servers": [plan.options.kafka] if plan.options.kafka else []},
    }
