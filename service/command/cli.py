"""The command `egressgw`. Every command imports what it needs when it runs, so that the short ones start fast.

Exit status: 0 done (for the processes also: stopped by a signal), 1 the answer is bad or somebody did not answer,
2 wrong use or configuration, told in one line.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.command.audit import audit
from service.command.check import check
from service.command.console import console, print_json
from service.command.electors import electors
from service.command.keys import keys
from service.command.orders import drain, move, rebalance, undrain
from service.command.validate import validate
from service.model.errors import OperatorError, TransientError
from service.version import VERSION

if TYPE_CHECKING:
    # Loaded where a command needs it: the short ones start fast.
    from service.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:9642"

F = TypeVar("F", bound=Callable[..., Any])


class _Commands(click.Group):
    """Tells our own errors in one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            failures = list(_leaves(error))
            if all(isinstance(failure, OperatorError) for failure in failures):
                raise _WrongUse(failures) from None
            if all(isinstance(failure, OperatorError | TransientError) for failure in failures):
                raise _Failure(failures) from None
            raise


class _Failure(click.ClickException):
    def __init__(self, failures: list[BaseException]) -> None:
        super().__init__("; ".join(dict.fromkeys(" ".join(str(failure).split()) for failure in failures)))

    def show(self, file: Any = None) -> None:
        click.echo(f"egressgw: {self.message}", file=file, err=file is None)


class _WrongUse(_Failure):
    exit_code = 2


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in an exception group, as task groups raise them."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="egressgw")
def main() -> None:
    """Egress NAT gateway: floating source IPs for selected pods."""


def _process_options(command: F) -> F:
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info"),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
        click.option("--keyring-file", metavar="FILE", help="File with one 64-digit hexadecimal key per line."),
        click.option("--run-dir", metavar="DIR", help="Promises and sockets; in shared memory."),
        click.option("--state-dir", metavar="DIR", help="Audit outbox and leader terms; durable."),
        click.option("--bind-address", metavar="IP", help="IPv4 address other members reach this process at."),
        click.option("--role", type=click.Choice(["worker", "control-plane"]), help="What the node is."),
        click.option("--source", metavar="SRC", help="`kubernetes` or `manifests:DIR`."),
        click.option("--cluster", metavar="NAME", help="Label all members share."),
        click.option("--node", metavar="NAME", help="Name of this node; else $NODE_NAME, else the host's name."),
        click.option("--config", required=True, metavar="FILE", help="YAML file of settings; flags go before it."),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--witness", is_flag=True, help="Be an elector and nothing else: the third vote of two nodes.")
@_process_options
def agent(witness: bool, **options: Any) -> None:
    """Run the agent of a node: membership, datapath, announcements."""
    _run_process("agent", module="service.keeper.witness" if witness else "", **options)


@main.command()
@_process_options
def keeper(**options: Any) -> None:
    """Run the lease keeper of a node: elector and lease holder."""
    _run_process("keeper", **options)


@main.command()
@_process_options
def controller(**options: Any) -> None:
    """Run a controller: one of them leads, assigns floating IPs and writes status."""
    _run_process("controller", **options)


@main.command()
@click.option("--config", required=True, metavar="FILE", help="The settings file of the node's agent.")
@click.option("--purge", is_flag=True, help="Remove state and audit records too, published or not.")
def uninstall(config: str, purge: bool) -> None:
    """Take everything an agent put on this node away. Stop its agent and its keeper first."""
    from service.host.signals import run_until_signalled
    from service.settings import load_settings

    settings = load_settings(config)
    module = _import("service.agent.agent", "the agent")
    run_until_signalled(lambda: module.uninstall(settings, purge=purge))
    click.echo(f"{settings.node}: programs, rules, devices and pins are removed")


def _introduction(name: str, settings: "Settings") -> str:
    """Who this process is. Members that cannot hear each other differ in one of these."""
    from service.wire.envelope import key_id

    keyring = settings.keys()
    keys = ", ".join(key_id(key).hex() for key in keyring)
    electors = "chosen by the controllers" if settings.electors == "auto" else f"of epoch {settings.electorate.epoch}"
    return (
        f"{name} {VERSION} of node {settings.node}, cluster {settings.cluster}, at {settings.bind_address}: "
        f"gossip port {settings.ports.gossip}, objects from {settings.source}, lease profile {settings.lease.profile}, "
        f"electors {electors}, keys {keys}"
    )


def _run_process(
    name: str, *, config: str, log_format: str, log_level: str, module: str = "", **overrides: Any
) -> None:
    from service.host.log import configure_logging
    from service.host.signals import run_until_signalled
    from service.settings import load_settings

    configure_logging(log_format=log_format, level=log_level)
    settings = load_settings(config, overrides)
    found = _import(module or f"service.{name}.{name}", f"the {name}")
    log.info("%s", _introduction(name, settings))
    try:
        run_until_signalled(lambda: found.run(settings))
    except Exception as error:
        if not all(isinstance(failure, OperatorError | TransientError) for failure in _leaves(error)):
            # Through the log rather than as a bare traceback: whoever reads JSON lines gets it whole.
            log.critical("%s ends: %s", name, error, exc_info=True)
            sys.exit(1)
        raise


def _import(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OperatorError(f"this installation lacks {what}: {error}") from error


@main.command()
@click.option("--url", default=DEFAULT_URL, show_default=True, metavar="URL", help="Agent or controller to ask.")
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the document as it is at /v1/status.")
def status(url: str, timeout: float, as_json: bool) -> None:
    """Say whether all is well, and show nodes, floating IPs, policies and drops as one process sees them.

    Exit status: 0 healthy, 1 where something is wrong or the process does not answer.
    """
    from service.web.client import fetch_status
    from service.web.verdict import troubles

    document = fetch_status(url, timeout_s=timeout)
    if as_json:
        print_json(document)
    else:
        from service.web.tables import print_status

        print_status(document, console())
    sys.exit(1 if troubles(document) else 0)


@main.command()
@click.argument("floating_ip", metavar="IP")
@click.option("--url", default=DEFAULT_URL, show_default=True, metavar="URL", help="Agent or controller to ask.")
@click.option("--timeout", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def why(floating_ip: str, url: str, timeout: float, as_json: bool) -> None:
    """Say which node holds a floating IP, or why none does: nodes, electors and policies as far as they matter for it.

    Exit status: 0 where a node holds it, 1 where none does or the process does not answer.
    """
    from ipaddress import IPv4Address

    from service.web.client import fetch_status
    from service.web.explanation import explain

    try:
        address = str(IPv4Address(floating_ip))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    found = explain(fetch_status(url, timeout_s=timeout), address)
    if as_json:
        facts = [{"of": subject, "is": fact} for subject, fact in found.facts]
        print_json({"floatingIP": address, "held": found.is_held, "verdict": found.verdict, "facts": facts})
    else:
        from service.web.tables import print_explanation

        print_explanation(found, console())
    sys.exit(0 if found.is_held else 1)


main.add_command(validate)
main.add_command(check)
main.add_command(audit)
main.add_command(electors)
main.add_command(keys)
main.add_command(drain)
main.add_command(undrain)
main.add_command(move)
main.add_command(rebalance)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    short_help="Build a small site in network namespaces.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def lab(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Build a small site in network namespaces of this machine, with real agents and eBPF."""
    # A stand-in: the group itself is imported only when it is asked for.
    group = _import("service.lab.command", "the lab").lab
    ctx.exit(group.main(args=list(arguments), prog_name="egressgw lab", standalone_mode=False) or 0)
