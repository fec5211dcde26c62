"""`egressgw drain`, `undrain`, `move` and `rebalance`: what an operator does on purpose.

They ask the controller or the agent of this machine, over a socket that only its owner may open; any member will do. In
Kubernetes they are run in a pod, by whoever may execute there.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from service.command.following import Watch, follow_drain, follow_move, follow_rebalance, follow_undrain
from service.web.order_client import OrderClient

F = TypeVar("F", bound=Callable[..., Any])

_run_dir = click.option(
    "--run-dir", default="/run/egressgw", show_default=True, metavar="DIR", help="That of the process to ask."
)


def _timeout(seconds: float) -> Callable[[F], F]:
    text = "Seconds to wait for what was ordered."
    return click.option("--timeout", default=seconds, show_default=True, type=click.FloatRange(1, 3600), help=text)


def _watch(run_dir: str) -> Watch:
    return Watch(OrderClient(run_dir), click.echo, time.monotonic, time.sleep)


@click.command()
@click.argument("node", metavar="NODE")
@_run_dir
@_timeout(60.0)
def drain(node: str, run_dir: str, timeout: float) -> None:
    """Move every floating IP off a node, and give it none until `undrain`. It survives restarts of everything.

    Exit status: 0 where the node has none any more, 1 where some could not be moved; the drain is in force either way.
    """
    sys.exit(0 if follow_drain(_watch(run_dir), node, timeout_s=timeout) else 1)


@click.command()
@click.argument("node", metavar="NODE")
@_run_dir
def undrain(node: str, run_dir: str) -> None:
    """Let a node hold floating IPs again. Nothing moves back by itself."""
    follow_undrain(_watch(run_dir), node)


@click.command()
@click.argument("floating_ip", metavar="IP")
@click.argument("node", metavar="[NODE]", default="")
@_run_dir
@_timeout(30.0)
def move(floating_ip: str, node: str, run_dir: str, timeout: float) -> None:
    """Move a floating IP to a node, or to the best other one.

    Exit status: 0 where it is there, 1 where it is not; then it is not tried any more.
    """
    sys.exit(0 if follow_move(_watch(run_dir), floating_ip, node, timeout_s=timeout) else 1)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would move.")
@_run_dir
@_timeout(30.0)
def rebalance(dry_run: bool, run_dir: str, timeout: float) -> None:
    """Spread the floating IPs evenly over the nodes, with the fewest moves, one after the other.

    Exit status: 0 where all of them moved, or none had to, 1 where one did not. --timeout is that of each move.
    """
    sys.exit(0 if follow_rebalance(_watch(run_dir), is_dry=dry_run, timeout_s=timeout) else 1)
