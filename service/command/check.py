"""`egressgw check`: does a node suit an agent? Looked at as the agent would, and changed nowhere.

Imports happen when it runs.
"""

import sys
from typing import TYPE_CHECKING

import click

from service.command.console import print_json

if TYPE_CHECKING:
    from service.network.inspection import Finding


@click.command()
@click.option("--pre", is_flag=True, help="Before an agent is here: its ports have to be free.")
@click.option("--config", metavar="FILE", help="Settings that the agent will have; else the defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(pre: bool, config: str | None, as_json: bool) -> None:
    """Say what of this node suits an agent and what does not, each with the mend.

    Looks at kernel, rights, programs, CNI, uplinks, MTU, rp_filter, mark bits, routing table, hooks, clock, connection
    tracking and ports, and changes nothing. Run it as root on the node, in its own network namespace.

    Exit status: 0 an agent would start and serve, perhaps with warnings, 1 it would not.
    """
    from dataclasses import asdict

    from service.agent.node_check import look
    from service.host.signals import run_until_signalled
    from service.network.inspection import Level
    from service.settings import Settings, load_settings

    settings = load_settings(config) if config else Settings(node="unnamed")
    findings: list[Finding] = []

    async def run() -> None:
        findings.extend(await look(settings, is_fresh=pre))

    run_until_signalled(run)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    sys.exit(1 if any(finding.level is Level.GRAVE for finding in findings) else 0)


def _print(findings: "list[Finding]") -> None:
    for finding in findings:
        click.echo(f"{finding.level.value:<5} {finding.topic + ':':<11} {finding.said}")
        if finding.mend:
            click.echo(f"{'':<5} {'':<11} -> {finding.mend}")
    grave = sum(finding.level == "fail" for finding in findings)
    doubtful = sum(finding.level == "warn" for finding in findings)
    click.echo(f"{len(findings)} looked at, {doubtful} doubtful, {grave} in the way")
