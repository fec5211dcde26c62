"""`egressgw lab`: up, info, fault, down, exec and demo."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from service.lab.cluster.build import cluster_up
from service.lab.cluster.cluster import Cluster, find_lab
from service.lab.cluster.demo import ClusterDemo
from service.lab.cluster.fault import apply_cluster_fault
from service.lab.demo import LabDemo
from service.lab.demonstration import demonstrate
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab, lab_down, lab_up
from service.lab.plan import CNIS, DEFAULT_NAME, PROXY_MODES, TRANSPORTS, LabOptions, far_nodes
from service.lab.state import locked
from service.model.lease import ProfileName

name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Name of the lab.")


kubernetes_option = click.option(
    "--kubernetes", is_flag=True, help="A real cluster: API server, kubelets, containerd, pods."
)
proxy_option = click.option(
    "--proxy-mode", type=click.Choice(PROXY_MODES), default=PROXY_MODES[0], help="Of kube-proxy, with --kubernetes."
)
cni_option = click.option(
    "--cni", type=click.Choice(CNIS), default=CNIS[0], help="What connects the pods, with --kubernetes."
)
segments_option = click.option(
    "--segments",
    type=click.IntRange(1, 2),
    default=1,
    help="2: a half of the nodes is behind the router, with --kubernetes and flannel-vxlan.",
)
keep_option = click.option("--keep", is_flag=True, help="Leave the lab up at the end.")


@click.group(invoke_without_command=True)
@kubernetes_option
@name_option
@proxy_option
@cni_option
@keep_option
@click.pass_context
def lab(context: click.Context, kubernetes: bool, name: str, proxy_mode: str, cni: str, keep: bool) -> None:
    """A site of network namespaces on this machine: nodes, pods, a router and an outside server.

    With --kubernetes and no command: build a cluster, install the service, apply the user's two objects, and prove by
    the outside server's log that they have their effect; then clear it all, unless --keep.
    """
    if context.invoked_subcommand is None:
        if not kubernetes:
            click.echo(context.get_help())
            context.exit(2)
        options = LabOptions(name=name, kubernetes=True, proxy_mode=proxy_mode, cni=cni)
        raise SystemExit(demonstrate(ClusterDemo(options), keep=keep, console=_console()))
    if kubernetes:
        raise click.UsageError(f"write `egressgw lab {context.invoked_subcommand}` and its options after it")


@lab.command()
@name_option
@click.option("--nodes", default=3, show_default=True, help="One control-plane node, the rest workers.")
@click.option("--pods-per-node", default=3, show_default=True)
@click.option("--controllers", default=2, show_default=True)
@click.option("--electors", default=0, help="1, 3, 5 or 7; as many as there are nodes for (up to 5) if not given.")
@click.option("--profile", type=click.Choice([str(name) for name in ProfileName]), default="default", show_default=True)
@click.option(
    "--far-nodes", "far", default=0, help="So many of the workers are on a segment of their own, behind the router."
)
@click.option("--witness", is_flag=True, help="One elector more, on a host of its own: for two nodes.")
@click.option("--transport", type=click.Choice(TRANSPORTS), default=TRANSPORTS[0], show_default=True)
@click.option("--source", type=click.Path(path_type=Path), help="Folder whose manifests the lab starts with.")
@click.option("--replace", is_flag=True, help="Clear a lab of that name first.")
@click.option("--no-processes", is_flag=True, help="Only the site and the outside server.")
@click.option("--no-wait", is_flag=True, help="Do not wait until agents and controllers are ready.")
@kubernetes_option
@proxy_option
@cni_option
@segments_option
def up(
    name: str,
    nodes: int,
    pods_per_node: int,
    controllers: int,
    electors: int,
    profile: str,
    far: int,
    witness: bool,
    transport: str,
    source: Path | None,
    replace: bool,
    no_processes: bool,
    no_wait: bool,
    kubernetes: bool,
    proxy_mode: str,
    cni: str,
    segments: int,
) -> None:
    """Build a lab and start its programs; with --kubernetes a cluster, in which the service is not yet installed."""
    options = LabOptions(
        name=name,
        nodes=nodes,
        pods_per_node=pods_per_node,
        controllers=controllers,
        electors=electors,
        profile=profile,
        kubernetes=kubernetes,
        proxy_mode=proxy_mode,
        cni=cni,
        far_nodes=far or far_nodes(nodes, segments),
        transport=transport,
        witness=witness,
    )
    console = _console()
    with console.status(f"building the {'cluster' if kubernetes else 'lab'}") as status:
        build: Callable[..., Lab] = cluster_up
        if not kubernetes:
            build = partial(lab_up, source=source, processes=not no_processes, wait=not no_wait)
        built = build(options, replace=replace, report=status.update)
    print_info(console, built.info())


@lab.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(name: str, as_json: bool) -> None:
    """Describe the lab that is up."""
    described = find_lab(name).info()
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        print_info(_console(), described)


@lab.command()
@name_option
@click.argument("member")
@click.argument("action", type=click.Choice([str(fault) for fault in Fault]))
@click.option("--only", type=click.Choice(["agent", "keeper"]), help="For kill, stop, cont and restart.")
def fault(name: str, member: str, action: str, only: str | None) -> None:
    """Break a node or controller, or mend it.

    kill: SIGKILL its programs. stop, cont: freeze and thaw them. cut, heal: its links to both segments go silent, and
    come back. restart: start again what is dead. In a cluster kill, stop and cont mean every process of the node:
    kubelet, containerd and all containers; the API server's member is `kubernetes`.
    """
    with locked(name):
        found = find_lab(name)
        break_it = partial(apply_cluster_fault, found) if isinstance(found, Cluster) else partial(apply_fault, found)
        done = break_it(member, Fault(action), only=only)
    for line in done or ["nothing to do"]:
        click.echo(line)


@lab.command()
@name_option
def down(name: str) -> None:
    """Clear the lab: programs, mounts, namespaces, files."""
    click.echo(f"the lab {name!r} is gone" if lab_down(name) else f"there was no lab {name!r}")


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, pod: str, command: tuple[str, ...]) -> None:
    """Run a command in the network of a pod (NAMESPACE/NAME), node, controller, `router`, `outside` or `fabric`.

    In a cluster a pod's command runs in its container, by `kubectl exec`, and a node's sees the node's files.
    """
    found = find_lab(name)
    words = found.enter(pod, *command)
    os.execvp(words[0], words)


@lab.command()
@name_option
@keep_option
def demo(name: str, keep: bool) -> None:
    """Show it all: build a lab, apply a policy, kill a node; each step proven by what the outside server saw."""
    raise SystemExit(demonstrate(LabDemo(name), keep=keep, console=_console()))


def _console() -> Console:
    # A pipe has no width; a table folded for 80 columns is of no use to grep.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_info(console: Console, described: dict[str, Any]) -> None:
    """The tables of `lab info`, from the document that `--json` prints."""
    members = Table("member", "role", "address", "namespace", "programs", title=f"lab {described['name']}")
    for node in described["nodes"]:
        pids = node.get("programs", {}) | {kind: node[f"{kind}_pid"] for kind in ("agent", "keeper")}
        programs = ", ".join(f"{kind} {pid}" for kind, pid in pids.items() if pid)
        members.add_row(node["name"], node["role"], node["ip"], node["netns"], programs or "none")
    for controller in described["controllers"]:
        programs = f"controller {controller['pid']}" if controller["pid"] else "none"
        members.add_row(controller["name"], "controller", controller["ip"], controller["netns"], programs)
    outside = described["outside"]
    members.add_row("outside", "server", ", ".join(outside["ips"]), outside["netns"], f"outside {outside['pid']}")
    console.print(members)
    pods = Table("pod", "labels", "address", "node", "attached by")
    for pod in described["pods"]:
        labels = " ".join(f"{key}={value}" for key, value in pod["labels"].items())
        name = f"{pod['namespace']}/{pod['name']}"
        pods.add_row(name, labels, pod["ip"] or "none", pod["node"] or "none", pod["attached"])
    console.print(pods)
    console.print(f"manifests: {described['manifests']}")
    if "kubectl" in described:
        console.print(f"kubectl: {described['kubectl']}, kubeconfig: {described['kubeconfig']}")
    console.print(f"outside server: tcp {outside['tcp_port']}, udp {outside['udp_port']}, log {outside['log']}")
