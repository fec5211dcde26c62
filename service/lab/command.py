"""`egressgw lab`: up, info, fault, down, exec and demo."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from service.lab.demo import run_demo
from service.lab.fault import Fault, apply_fault
from service.lab.lab import Lab, lab_down, lab_up
from service.lab.plan import DEFAULT_NAME, LabOptions
from service.lab.state import locked
from service.model.lease import ProfileName

name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Name of the lab.")


@click.group()
def lab() -> None:
    """A site of network namespaces on this machine: nodes, pods, a router and an outside server."""


@lab.command()
@name_option
@click.option("--nodes", default=3, show_default=True, help="One control-plane node, the rest workers.")
@click.option("--pods-per-node", default=3, show_default=True)
@click.option("--controllers", default=2, show_default=True)
@click.option("--electors", default=0, help="1, 3, 5 or 7; as many as there are nodes for (up to 5) if not given.")
@click.option("--profile", type=click.Choice([str(name) for name in ProfileName]), default="default", show_default=True)
@click.option("--source", type=click.Path(path_type=Path), help="Folder whose manifests the lab starts with.")
@click.option("--replace", is_flag=True, help="Clear a lab of that name first.")
@click.option("--no-processes", is_flag=True, help="Only the site and the outside server.")
@click.option("--no-wait", is_flag=True, help="Do not wait until agents and controllers are ready.")
def up(
    name: str,
    nodes: int,
    pods_per_node: int,
    controllers: int,
    electors: int,
    profile: str,
    source: Path | None,
    replace: bool,
    no_processes: bool,
    no_wait: bool,
) -> None:
    """Build a lab and start its programs."""
    options = LabOptions(
        name=name,
        nodes=nodes,
        pods_per_node=pods_per_node,
        controllers=controllers,
        electors=electors,
        profile=profile,
    )
    console = _console()
    with console.status("building the lab") as status:
        built = lab_up(
            options,
            source=source,
            processes=not no_processes,
            replace=replace,
            wait=not no_wait,
            report=status.update,
        )
    print_info(console, built.info())


@lab.command()
@name_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(name: str, as_json: bool) -> None:
    """Describe the lab that is up."""
    described = Lab.find(name).info()
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
    come back. restart: start again what is dead.
    """
    with locked(name):
        done = apply_fault(Lab.find(name), member, Fault(action), only=only)
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
    """Run a command in the network of a pod (NAMESPACE/NAME), node, controller, `router`, `outside` or `fabric`."""
    found = Lab.find(name)
    words = found.enter(pod, *command)
    os.execvp(words[0], words)


@lab.command()
@name_option
@click.option("--keep", is_flag=True, help="Leave the lab up at the end.")
def demo(name: str, keep: bool) -> None:
    """Show it all: build a lab, apply a policy, kill a node; each step proven by what the outside server saw."""
    raise SystemExit(run_demo(name, keep=keep, console=_console()))


def _console() -> Console:
    # A pipe has no width; a table folded for 80 columns is of no use to grep.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def print_info(console: Console, described: dict[str, Any]) -> None:
    members = Table("member", "role", "address", "namespace", "programs", title=f"lab {described['name']}")
    for node in described["nodes"]:
        programs = ", ".join(f"{kind} {node[f'{kind}_pid']}" for kind in ("agent", "keeper") if node[f"{kind}_pid"])
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
        pods.add_row(f"{pod['namespace']}/{pod['name']}", labels, pod["ip"], pod["node"], pod["attached"])
    console.print(pods)
    console.print(f"manifests: {described['manifests']}")
    console.print(f"outside server: tcp {outside['tcp_port']}, udp {outside['udp_port']}, log {outside['log']}")
