"""`egressgw validate`: manifests judged before anybody applies them. Imports happen when it runs.

Errors are what a folder source or the API server would refuse. Warnings are of objects that are good each by itself and
do not do what was meant: exit status 0 all the same.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from service.model.cluster_range import ClusterRanges
    from service.model.errors import ObjectError
    from service.model.objects import EgressPolicy, NetworkGateway, Object, ObjectKey
    from service.sources.schema import Schemas


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="DIR|FILE...")
@click.option("--crds", metavar="DIR", type=click.Path(path_type=Path), help="Other definitions than this version's.")
@click.option("--config", metavar="FILE", help="Settings, for the cluster's own ranges, which are never steered.")
def validate(paths: tuple[Path, ...], crds: Path | None, config: str | None) -> None:
    """Check manifests as a folder source and the API server would, and warn of what does not do what it seems to.

    Exit status: 0 every object is taken, perhaps with warnings, 1 one is refused.
    """
    from service.sources.schema import Schemas, definitions

    schemas = Schemas(crds or definitions())
    objects: list[Object] = []
    errors: list[ObjectError] = []
    for path in paths:
        good, bad = _judge_folder(path, schemas) if path.is_dir() else _judge_file(path, schemas)
        objects.extend(good)
        errors.extend(bad)
    warnings = [*_warnings(objects, _ranges(config))]
    for error in errors:
        click.echo(str(error))
    for warning in warnings:
        click.echo(f"warning: {warning}")
    summary = f"{len(objects)} objects are valid, {len(errors)} errors"
    click.echo(summary + (f", {len(warnings)} warnings" if warnings else ""), err=True)
    sys.exit(1 if errors else 0)


def _judge_folder(folder: Path, schemas: "Schemas") -> "tuple[tuple[Object, ...], tuple[ObjectError, ...]]":
    from service.sources.manifests.validation import validate_folder

    return validate_folder(folder, schemas)


def _judge_file(path: Path, schemas: "Schemas") -> "tuple[tuple[Object, ...], list[ObjectError]]":
    """A file is read as a folder with nothing else in it, whatever its name ends in."""
    import shutil
    import tempfile
    from dataclasses import replace

    with tempfile.TemporaryDirectory(prefix="egressgw-validate-") as folder:
        suffix = path.suffix if path.suffix == ".json" else ".yaml"
        copy = Path(folder) / f"{path.stem.lstrip('.#~') or 'stdin'}{suffix}"
        shutil.copyfile(path, copy)
        objects, errors = _judge_folder(Path(folder), schemas)
        named = {str(copy): str(path), copy.name: str(path)}
        return objects, [replace(error, origin=named.get(error.origin, error.origin)) for error in errors]


def _ranges(config: str | None) -> "ClusterRanges":
    from service.model.cluster_range import ClusterRanges
    from service.settings import load_settings

    return load_settings(config).datapath.ranges if config else ClusterRanges()


def _warnings(objects: "list[Object]", ranges: "ClusterRanges") -> Iterator[str]:
    """What is wrong between objects, each of which is good by itself."""
    from service.model.objects import EgressPolicy, NetworkGateway

    unique: dict[ObjectKey, Object] = {}
    for one in objects:
        if one.key in unique:
            yield f"{one.key.kind} {one.key}: defined twice; the first one counts here"
        unique.setdefault(one.key, one)
    gateway = next((one for one in unique.values() if isinstance(one, NetworkGateway)), None)
    policies = [one for one in unique.values() if isinstance(one, EgressPolicy)]
    if policies and gateway is None:
        yield "no AnthosNetworkGateway is among these objects: whether it lists the policies' addresses is not checked"
    yield from _policy_warnings(policies, gateway)
    yield from _destination_warnings(policies, gateway, ranges)


def _policy_warnings(policies: "list[EgressPolicy]", gateway: "NetworkGateway | None") -> Iterator[str]:
    """Unknown addresses, one address of two policies, and policies that decide nothing."""
    from service.policy.acceptance import PolicyReason, judge
    from service.policy.shadow import shadows

    in_force = []
    for address in dict.fromkeys(policy.egress_source_ip for policy in policies):
        of_address = [policy for policy in policies if policy.egress_source_ip == address]
        verdicts = judge(of_address, gateway, pod_cidrs_known=True)
        in_force += [policy for policy in of_address if verdicts[policy.key].accepted]
        for key, verdict in verdicts.items():
            is_known = gateway is not None or verdict.reason is not PolicyReason.UNKNOWN_EGRESS_IP
            if verdict.message and is_known:
                yield f"EgressNATPolicy {key.name}: {verdict.reason}: {verdict.message}"
    for name, by in sorted(shadows(in_force).items()):
        yield f"EgressNATPolicy {name}: decides nothing: all its pods and destinations go by {', '.join(by)}"


def _destination_warnings(
    policies: "list[EgressPolicy]", gateway: "NetworkGateway | None", ranges: "ClusterRanges"
) -> Iterator[str]:
    """Destinations that are never steered (rule W12), as far as files know them, and exclusions that do nothing."""
    from service.gateway.exemption import ExemptRanges, Insiders
    from service.policy.shadow import idle_exclusions
    from service.report.exemption import exempt_message, exempt_reason, exempted_of

    listed = gateway.floating_ips if gateway else ()
    known = ExemptRanges(Insiders(ranges, floating_ips=listed).exemptions())
    for policy in policies:
        exempted = exempted_of(policy, known)
        if message := exempt_message(exempted):
            yield f"EgressNATPolicy {policy.key}: {exempt_reason(exempted)}: {message}"
        for network in idle_exclusions(policy):
            told = f"excludedCIDRs: {network} lies in none of destinationCIDRs, and does nothing"
            yield f"EgressNATPolicy {policy.key}: {told}"
