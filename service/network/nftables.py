"""Our one nftables table, `ip egressgw`: what netfilter must do beside the eBPF programs (rules W4, W5, W6, G3).

The programs mark candidates; netfilter sees what tc cannot: the direction of a connection and the destination after
DNAT. The guards need no agent: they stay when it dies, and drop, with a count, what would leave with a wrong source.

Rendering is pure text; one `nft -f -` is one atomic transaction, and a refused one has changed nothing.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, summarize_address_range
from typing import Any

from service.model.errors import OperatorError, TransientError
from service.network.mark_conflict import conflicting_lines

TABLE = "egressgw"
COUNTERS = ("steered", "guard_unmarked", "guard_marked", "guard_transit")
"""steered: packets netfilter let pass to the steering device. The others count drops.
guard_unmarked: from a selected pod, for a destination of its policy, about to leave without having been marked.
guard_marked: marked, about to leave by another device than the steering device.
guard_transit: another node's pod passing through untranslated (G3)."""

SteerElement = tuple[IPv4Address, IPv4Network]
"""A selected pod of this node and a destination its policies name."""

_ANYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class NftConfig:
    """What the ruleset depends on."""

    mark: int
    cluster: tuple[IPv4Network, ...]
    """In-cluster destinations: pods, services, nodes. The pod ranges always belong to it."""
    pods: tuple[IPv4Network, ...]
    uplinks: tuple[str, ...]
    steering_device: str = "egw0"


@dataclass(frozen=True, slots=True)
class Carried:
    """Contents that outlive a restart of the agent: until it knows better, they are the truth."""

    steer: frozenset[SteerElement] = frozenset()
    """Free of overlaps per pod."""


def ruleset(config: NftConfig, carried: Carried = Carried()) -> str:
    """The whole table as one transaction that replaces whatever was there."""
    bit, rest = f"{config.mark:#x}", f"{~config.mark & 0xFFFFFFFF:#x}"
    counters = "\n".join(f"  counter {name} {{ }}" for name in COUNTERS)
    steer = ", ".join(_steer_element(element) for element in sorted(carried.steer))
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
{counters}
  set cluster {{ type ipv4_addr; flags interval; {_elements(_networks(_in_cluster(config)))} }}
  set pods {{ type ipv4_addr; flags interval; {_elements(_networks(config.pods))} }}
  set uplinks {{ type ifname; {_elements(_names(config.uplinks))} }}
  set steer {{ type ipv4_addr . ipv4_addr; flags interval; {_elements(steer)} }}

  chain after_dstnat {{
    type filter hook prerouting priority -90; policy accept;
    meta mark & {bit} == 0 return
    ct direction reply meta mark set meta mark & {rest} return
    ip daddr @cluster meta mark set meta mark & {rest} return
    ct status dnat ip saddr . ip daddr != @steer meta mark set meta mark & {rest}
  }}

  chain guard {{
    type filter hook forward priority 200; policy accept;
    ct direction reply return
    meta mark & {bit} == {bit} oifname "{config.steering_device}" counter name steered return
    meta mark & {bit} == {bit} counter name guard_marked drop
    ip daddr @cluster return
    ip saddr . ip daddr @steer oifname != "{config.steering_device}" counter name guard_unmarked drop
    iifname @uplinks ip saddr @pods counter name guard_transit drop
  }}

  chain keep_source {{
    type nat hook postrouting priority 90; policy accept;
    oifname "{config.steering_device}" snat to ip saddr
  }}
}}
"""


def set_replacement(config: NftConfig) -> str:
    """New contents for cluster, pods and uplinks, without touching chains, counters or steered pods."""
    return _replace_contents(
        {
            "cluster": _networks(_in_cluster(config)),
            "pods": _networks(config.pods),
            "uplinks": _names(config.uplinks),
        }
    )


def steer_change(removed: Iterable[SteerElement], added: Iterable[SteerElement]) -> str:
    """One transaction; empty where there is nothing to do. Removal comes first, for an added range may overlap it."""
    lines = []
    for verb, elements in (("delete", removed), ("add", added)):
        text = ", ".join(_steer_element(element) for element in elements)
        if text:
            lines.append(f"{verb} element ip {TABLE} steer {{ {text} }}")
    return "\n".join(lines) + "\n" if lines else ""


def parse_carried(document: Mapping[str, Any]) -> Carried:
    """The contents in the answer to `nft -j list table`."""
    sets = {entry["set"]["name"]: entry["set"].get("elem", ()) for entry in document["nftables"] if "set" in entry}
    pairs = (element["concat"] for element in sets.get("steer", ()))
    return Carried(
        steer=frozenset((IPv4Address(pod), network) for pod, ranges in pairs for network in _parse_networks(ranges)),
    )


class Nftables:
    """Our table in the kernel. Methods raise TransientError where nft fails or takes too long (nothing has changed
    then), OperatorError where it is absent or not permitted."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._wanted: dict[IPv4Address, set[IPv4Network]] = {}
        self._present: frozenset[SteerElement] = frozenset()
        self._rules = 0
        """How many there were after `apply`."""

    async def apply(self, config: NftConfig) -> None:
        """Replace the table. What an earlier run knew of pods is carried over, so a restart leaves no gap for them."""
        carried = await self._read()
        await self._run("-f", "-", text=ruleset(config, carried))
        self._adopt(carried.steer)
        self._rules = await self._count_rules()

    async def update_sets(self, config: NftConfig) -> None:
        """Change cluster, pods and uplinks only; mark and steering device must be those of `apply`."""
        await self._run("-f", "-", text=set_replacement(config))

    async def replace_steer(self, wanted: Mapping[IPv4Address, Iterable[IPv4Network]]) -> None:
        """Make the steered pods exactly these, in one transaction of what differs."""
        await self._commit({pod: set(networks) for pod, networks in wanted.items()})

    async def update_steer(self, added: Iterable[SteerElement], removed: Iterable[SteerElement]) -> None:
        """Add and remove (pod, destination) pairs, in one transaction. Overlaps between destinations are no matter."""
        wanted = {pod: set(networks) for pod, networks in self._wanted.items()}
        for pod, network in removed:
            wanted.get(pod, set()).discard(network)
        for pod, network in added:
            wanted.setdefault(pod, set()).add(network)
        await self._commit(wanted)

    async def counters(self) -> dict[str, int]:
        """Packets by counter name; they start again from zero with each `apply`."""
        text = await self._run("-j", "list", "counters", "table", "ip", TABLE)
        entries = (entry.get("counter") for entry in json.loads(text)["nftables"])
        return {entry["name"]: int(entry["packets"]) for entry in entries if entry}

    async def present(self) -> bool:
        """False where somebody flushed the ruleset: `apply` and `replace_steer` again."""
        text = await self._run("-j", "list", "tables")
        tables = [entry["table"] for entry in json.loads(text)["nftables"] if "table" in entry]
        return any(table["family"] == "ip" and table["name"] == TABLE for table in tables)

    async def is_intact(self) -> bool:
        """False where somebody flushed the ruleset, the table or one of its chains since `apply`."""
        return await self.present() and await self._count_rules() == self._rules

    async def _count_rules(self) -> int:
        # Terse: the sets may be long.
        text = await self._run("-j", "-t", "list", "table", "ip", TABLE)
        return sum("rule" in entry for entry in json.loads(text)["nftables"])

    async def remove(self) -> None:
        """Delete the table, guards included; no error where there is none."""
        await self._run("-f", "-", text=f"add table ip {TABLE}\ndelete table ip {TABLE}\n")
        self._adopt(frozenset())

    async def check_mark(self, mark: int) -> None:
        """Raise OperatorError naming the first rules, of nft or iptables, that use our mark bit (W6)."""
        conflicts = conflicting_lines(await self._run("-s", "-t", "list", "ruleset"), mark, without_table=TABLE)
        for program in ("iptables-save", "iptables-legacy-save"):
            # Absent from the agent's image or of no use here: nft has listed all but legacy rules already.
            with suppress(OperatorError, TransientError):
                conflicts += conflicting_lines(await self._run(program=program), mark)
        if conflicts:
            shown = "; ".join(dict.fromkeys(conflicts[:3]))
            raise OperatorError(f"datapath.mark: {mark:#x} is in use, choose another bit ({shown})")

    async def _commit(self, wanted: dict[IPv4Address, set[IPv4Network]]) -> None:
        target = _disjoint(wanted)
        text = steer_change(sorted(self._present - target), sorted(target - self._present))
        if text:
            try:
                await self._run("-f", "-", text=text)
            except TransientError:
                # Somebody else changed the set: learn what is really there, so that the retry fits.
                self._present = (await self._read()).steer
                raise
        self._wanted = {pod: networks for pod, networks in wanted.items() if networks}
        self._present = target

    def _adopt(self, present: frozenset[SteerElement]) -> None:
        self._present = present
        self._wanted = {}
        for pod, network in present:
            self._wanted.setdefault(pod, set()).add(network)

    async def _read(self) -> Carried:
        if not await self.present():
            return Carried()
        return parse_carried(json.loads(await self._run("-j", "list", "table", "ip", TABLE)))

    async def _run(self, *arguments: str, text: str = "", program: str = "nft") -> str:
        # Input by file and not by pipe: uvloop raises RuntimeError where a program ends before it has read its input.
        with os.fdopen(os.memfd_create(TABLE), "wb+") as source:
            source.write(text.encode())
            source.seek(0)
            try:
                process = await asyncio.create_subprocess_exec(
                    program, *arguments, stdin=source, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
            except FileNotFoundError as error:
                raise OperatorError(f"{program} is not installed; install the package `nftables`") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise TransientError(f"{program} did not end within {self._timeout_s:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise _refusal(program, errors.decode(errors="replace"))
        return output.decode()


def _refusal(program: str, errors: str) -> Exception:
    message = f"{program}: {errors.strip() or 'failed without a word'}"
    return OperatorError(message) if "Operation not permitted" in errors else TransientError(message)


def _in_cluster(config: NftConfig) -> Iterable[IPv4Network]:
    # A pod range forgotten in `cluster` would turn the transit guard against traffic between pods.
    return (*config.cluster, *config.pods)


def _disjoint(wanted: Mapping[IPv4Address, Iterable[IPv4Network]]) -> frozenset[SteerElement]:
    """Concatenated interval sets refuse overlaps, so each pod's destinations are merged first."""
    return frozenset((pod, network) for pod, networks in wanted.items() for network in collapse_addresses(networks))


def _replace_contents(contents: Mapping[str, str]) -> str:
    lines = []
    for name, elements in contents.items():
        lines.append(f"flush set ip {TABLE} {name}")
        if elements:
            lines.append(f"add element ip {TABLE} {name} {{ {elements} }}")
    return "\n".join(lines) + "\n"


def _steer_element(element: SteerElement) -> str:
    pod, network = element
    return f"{pod} . {network}"


def _elements(text: str) -> str:
    return f"elements = {{ {text} }};" if text else ""


def _networks(networks: Iterable[IPv4Network]) -> str:
    return ", ".join(str(network) for network in collapse_addresses(networks))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in dict.fromkeys(names))


def _parse_networks(destination: Any) -> Iterable[IPv4Network]:
    if isinstance(destination, str):
        return (_ANYWHERE,) if destination == "*" else (IPv4Network(destination),)
    if "prefix" in destination:
        return (IPv4Network((destination["prefix"]["addr"], destination["prefix"]["len"])),)
    first, last = destination["range"]
    return tuple(summarize_address_range(IPv4Address(first), IPv4Address(last)))
