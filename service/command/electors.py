"""`egressgw electors`: who grants leases, and how an operator begins anew when a majority is lost for good (M6)."""

from typing import Any

import click

from service.command.console import console, print_json
from service.model.errors import OperatorError

_CONTROLLER_URL = "http://127.0.0.1:9642"


@click.group(invoke_without_command=True)
@click.option("--url", default=_CONTROLLER_URL, show_default=True, metavar="URL", help="Controller or agent to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the electorate as it is in /v1/status.")
@click.pass_context
def electors(context: click.Context, url: str, as_json: bool) -> None:
    """Show the electorate: epoch, members, and, if a controller is asked, who of them votes."""
    if context.invoked_subcommand is not None:
        return
    from service.web.client import fetch_status

    found = fetch_status(url).get("electorate")
    if not found:
        raise OperatorError(f"{url} does not know an electorate yet")
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from service.web.layout import plain, print_table

    console().print(f"epoch {found['epoch']}{'' if found.get('inForce', True) else ', not yet in force'}")
    keepers = found.get("keepers", {})
    rows = []
    for name, address in found["members"].items():
        said = keepers.get(name)
        votes = None if not keepers else "no answer" if said is None else "yes" if said["voting"] else "not yet"
        rows.append((name, address, votes, said and said["epoch"]))
    print_table(("ELECTOR", "ADDRESS", "VOTES", "EPOCH"), rows, console())
    if found.get("trouble"):
        console().print(plain(found["trouble"]))


@electors.command("reset")
@click.option("--keep", "names", multiple=True, required=True, metavar="NAME", help="A member that goes on; repeat it.")
@click.option("--namespace", default="egressgw-system", show_default=True, help="Where the electorate object is.")
@click.option("--yes", is_flag=True, help="Do not ask: what must be true, is.")
def reset_command(names: tuple[str, ...], namespace: str, yes: bool) -> None:
    """Begin a new epoch with members that are left, after a majority was lost for good.

    Uses $KUBECONFIG. Without Kubernetes, stop every keeper, remove STATE_DIR/electorate on every node, configure the
    new electors with a higher epoch, wait as long as this command would, and start them.
    """
    # The event loop only where it is needed: short commands start fast.
    from service.electorate.reset import begin_anew
    from service.host.signals import run_until_signalled

    run_until_signalled(lambda: begin_anew(names, namespace, is_sure=yes))
