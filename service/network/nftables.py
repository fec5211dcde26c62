"""Our one nftables table, `ip egressgw`: what netfilter must do beside the eBPF programs (rules W4, W5, W6, G3).

The programs mark candidates; netfilter sees what tc cannot: the direction of a connection and the destination after
DNAT. The guards need no agent: they stay when it dies, and drop, with a count, what would leave with a wrong source.

Rendering is pure text; one `nft -f -` is one atomic transaction, and a refused one has changed nothing. So is a message
of `nft_netlink`, by which pods come and go. While the kernel commits one, nothing else runs on that CPU where it does
not preempt itself: long work is done in pieces (I3).
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Any

from service.model.errors import OperatorError, TransientError
from service.network import connection_life
from service.network.connection_life import ConnectionLives
from service.network.destinations import (
    GUARD,
    NOTHING,
    PART,
    TABLE,
    TRANSLATED,
    Destinations,
    chains,
    definition,
    in_batches,
    parse_destinations,
    parts_of,
    removal,
    rule_count,
    set_name,
    switch,
)
from service.network.map_change import MapChange, map_text
from service.network.mark_conflict import conflicting_lines, used_bits, used_connection_bits
from service.network.nft_netlink import CHANGES_MAX, commit_elements, read_counters, read_generation
from service.network.priority import CANDIDATE_PRIORITY, ENDED_PRIORITY, FLOW_PRIORITY, written
from service.network.unclassified import (
    UNCLASSIFIED,
    Named,
    named_definition,
    named_removal,
    named_rules,
    named_set,
    parse_named,
)

GUARDS = ("guard_unmarked", "guard_marked", "guard_transit", "guard_tunnel", "guard_forgotten", "unclassified")
COUNTERS = ("steered", *GUARDS)
"""steered: packets netfilter let pass to the steering device. The others count drops.
guard_unmarked: from a selected pod, for a destination of its policy, about to leave without having been marked.
guard_marked: marked, about to leave by another device than the steering device.
guard_transit: another node's pod passing through untranslated (G3).
guard_tunnel: to this node, for the tunnel's port, by no uplink: a pod that plays a member (X2).
guard_forgotten: a server's TCP segment, of a connection that nobody knows any more (D4).
unclassified: from a pod's address and device that the agent has not told `pod_ingress` of, for a destination that some
policy names (W11)."""


@dataclass(frozen=True, slots=True)
class NftConfig:
    """What the ruleset depends on."""

    mark: int
    cluster: tuple[IPv4Network, ...]
    """In-cluster destinations: pods, services, nodes. The pod ranges always belong to it."""
    pods: tuple[IPv4Network, ...]
    uplinks: tuple[str, ...]
    keeps_out_pods: bool = False
    """While there are members of a release whose steered frames have a pod's address (rules G3, U1)."""
    steering_device: str = "egw0"
    connection_mark: int = 0x2000
    """The one bit of the connection mark (rule D2)."""
    lives: ConnectionLives = connection_life.DEFAULT
    tunnel_port: int = 9643
    ephemeral: range = range(32_768, 61_000)
    """From which ports pods open connections (rule D4)."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What is in the table and outlives its replacement."""

    steer: Destinations = NOTHING
    named: Named = field(default_factory=dict)
    """Sets of what policies name (W11)."""
    asked: frozenset[int] = frozenset()
    """Which of these are in force."""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Packets and bytes by counter."""


def ruleset(config: NftConfig, carried: Carried = Carried()) -> str:
    """The whole table as one transaction that replaces whatever was there."""
    bit, rest = f"{config.mark:#x}", _rest(config)
    # Of a connection that somebody outside has begun, and not a reply to a flow of ours (rules D2, D3).
    outside = f"ct direction reply ct mark & {config.connection_mark:#x} == 0"
    counters = "\n".join(_counter(name, *carried.counts.get(name, (0, 0))) for name in COUNTERS)
    return f"""add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
{counters}
  set cluster {{ type ipv4_addr; flags interval; {_elements(_networks(_in_cluster(config)))} }}
  set pods {{ type ipv4_addr; flags interval; {_elements(_networks(config.pods))} }}
  set uplinks {{ type ifname; {_elements(_names(config.uplinks))} }}
  map {GUARD} {{ type ipv4_addr : verdict; }}
  map {TRANSLATED} {{ type ipv4_addr : verdict; }}
{_carried_sets(carried)}
{connection_life.definition(config.lives)}

{connection_life.chain(config.steering_device, config.mark, config.connection_mark)}

  chain after_dstnat {{
    type filter hook prerouting priority -90; policy accept;
    ct state new jump steered_connections
    meta priority {written(FLOW_PRIORITY)} return
    meta mark & {bit} == 0 goto unmarked
    meta priority {written(ENDED_PRIORITY)} meta l4proto tcp reject with tcp reset
    meta priority != {written(CANDIDATE_PRIORITY)} meta mark set meta mark & {rest} goto unmarked
    {outside} meta mark set meta mark & {rest} return
    ip daddr @cluster meta mark set meta mark & {rest} return
    {_forgotten(config)}
    ct status & dnat == 0 return
    ip saddr vmap @{TRANSLATED}
    meta mark set meta mark & {rest}
  }}

{UNCLASSIFIED}
{_guards(config, outside)}
}}
""" + _carried_rules(carried, rest)


def _forgotten(config: NftConfig) -> str:
    """A server in a pod speaks on, and neither a flow nor connection tracking knows to whom. Tracked from here on, it
    would be the one that opened the connection, for hours; so whoever did has to speak first (rule D4)."""
    ports = f"{config.ephemeral.start}-{config.ephemeral.stop - 1}"
    midway = "ct state new tcp flags & (fin | syn | rst | ack) != syn"
    return f"{midway} tcp sport != {ports} counter name guard_forgotten drop"


def _guards(config: NftConfig, outside: str) -> str:
    """Where packets leave, for another node or for this one: what nobody but ours may send there."""
    bit = f"{config.mark:#x}"
    return f"""  chain guard {{
    type filter hook forward priority 200; policy accept;
    meta mark & {bit} == {bit} oifname "{config.steering_device}" counter name steered return
    meta mark & {bit} == {bit} counter name guard_marked drop
    {outside} return
    ip daddr @cluster return
    oifname != "{config.steering_device}" ip saddr vmap @{GUARD}
{_transit(config)}  }}

  chain tunnel {{
    type filter hook input priority -300; policy accept;
    udp dport {config.tunnel_port} iifname != @uplinks counter name guard_tunnel drop
  }}

  chain keep_source {{
    type nat hook postrouting priority 90; policy accept;
    oifname "{config.steering_device}" snat to ip saddr
  }}"""


def _transit(config: NftConfig) -> str:
    """What a member of a former release steers here cannot be translated here, and must not leave as it is (G3)."""
    if not config.keeps_out_pods:
        return ""
    return "    iifname @uplinks ip saddr @pods counter name guard_transit drop\n"


def _carried_sets(carried: Carried) -> str:
    # Made with their elements: added to a set that is there, these hold up the CPU for twice as long (I3, measured).
    sets = {
        set_name(identity, number): networks
        for identity in sorted(set(carried.steer.pods.values()))
        for number, networks in enumerate(parts_of(carried.steer.sets[identity]))
    } | {named_set(identity): carried.named[identity] for identity in sorted(carried.asked)}
    return "\n".join(
        f"  set {name} {{ type ipv4_addr; flags interval; {_elements(', '.join(map(str, networks)))} }}"
        for name, networks in sets.items()
    )


def _carried_rules(carried: Carried, rest: str) -> str:
    steer = carried.steer
    asking = (
        chains(identity, len(parts_of(steer.sets[identity])), rest) for identity in sorted(set(steer.pods.values()))
    )
    asked = named_rules(sorted(carried.asked)) if carried.asked else ""
    return "".join((*asking, map_text(TABLE, switch({}, steer.pods)), asked))


def _rules(text: str) -> int:
    """How many rules stand in the chains of a ruleset."""
    return sum(line.startswith("    ") and not line.startswith("    type ") for line in text.splitlines())


def set_replacement(config: NftConfig) -> str:
    """New contents for cluster, pods, uplinks and times, without touching other chains, counters or steered pods."""
    return _replace_contents(
        {
            "cluster": _networks(_in_cluster(config)),
            "pods": _networks(config.pods),
            "uplinks": _names(config.uplinks),
        }
    ) + connection_life.replacement(config.lives)


class Nftables:
    """Our table in the kernel. Methods raise TransientError where nft fails or takes too long (nothing has changed
    then), OperatorError where it is absent or not permitted."""

    def __init__(self, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        """Held while the table and what is known of it may differ: a look in between would find rules missing."""
        self._rest = ""
        """All bits but the mark, of `apply`."""
        self._pods: dict[IPv4Address, int] = {}
        """Which set each pod has in the kernel."""
        self._parts: dict[int, int] = {}
        """Of how many parts each set is that is there, or may be there in part."""
        self._sizes: dict[int, int] = {}
        """How many networks each of them has."""
        self._ready: set[int] = set()
        """Sets that pods can be pointed at."""
        self._base_rules = 0
        """How many `apply` wrote, without those of sets."""
        self._named: set[int] = set()
        """Sets of what policies name that are there."""
        self._asked: frozenset[int] = frozenset()
        """Those of them in force."""
        self.dropped = dict.fromkeys(GUARDS, 0)
        """Packets by guard, as of the last `is_intact`."""
        self._intact_at: int | None = None
        """The change to nftables after which the table was seen to be whole; or our own one, of a whole one."""

    async def apply(self, config: NftConfig) -> None:
        """Replace the table. What an earlier run knew of pods is carried over, so a restart leaves no gap for them."""
        async with self._lock:
            carried = await self._read()
            await self._commit(ruleset(config, carried))
            self._rest = _rest(config)
            steer, used = carried.steer, set(carried.steer.pods.values())
            kept = {identity: carried.named[identity] for identity in carried.asked}
            steer = Destinations(steer.pods, {name: steer.sets[name] for name in used})
            self._adopt(replace(carried, steer=steer, named=kept))
            # Of the text, and not read back: what somebody flushed in between would count as never written.
            self._base_rules = _rules(ruleset(config))

    async def update_sets(self, config: NftConfig) -> None:
        """Change cluster, pods, uplinks and times only; mark and steering device must be those of `apply`."""
        async with self._lock:
            await self._commit(set_replacement(config))

    async def replace_steer(self, wanted: Destinations, changed: Iterable[IPv4Address] | None = None) -> None:
        """Make the steered pods exactly these: new sets, then the pods, then away with sets that no pod has any more.

        `changed`: since the last call, which has succeeded, only these have come, gone or got another set.
        Each is a short transaction (rule I3), and after each all pods have their former or their new destinations.
        Raises TransientError where one fails: some may have been made, and the next call goes on from there.
        """
        async with self._lock, self._learning():
            new = {identity: parts_of(wanted.sets[identity]) for identity in wanted.sets.keys() - self._ready}
            batches = in_batches({identity: sum(map(len, parts)) for identity, parts in new.items()})
            elements = switch(self._pods, wanted.pods, changed)
            for batch in batches:
                # The pods with the last of them: a pod that brings a set of its own takes one run of nft.
                text = map_text(TABLE, elements) if batch is batches[-1] else ""
                await self._define({one: new[one] for one in batch}, text)
            if elements and not batches:
                await self._commit_elements(elements)
            self._pods = dict(wanted.pods)
            for batch in in_batches({one: self._sizes[one] for one in self._parts.keys() - wanted.sets.keys()}):
                await self._remove_sets(batch)

    async def replace_named(self, wanted: Named) -> None:
        """Make these sets what no unclassified pod may send to (W11): new ones, then the rules, then the old ones go.

        Short transactions, and after each all of the former or all of the new are in force. Raises TransientError where
        one fails, as `replace_steer` does.
        """
        async with self._lock, self._learning():
            for identity in wanted.keys() - self._named:
                await self._commit(named_definition(identity, wanted[identity]))
                self._named.add(identity)
            if wanted.keys() != self._asked:
                await self._commit(named_rules(sorted(wanted)))
                self._asked = frozenset(wanted)
            for identity in self._named - wanted.keys():
                await self._commit(named_removal(identity))
                self._named.discard(identity)

    @asynccontextmanager
    async def _learning(self) -> AsyncIterator[None]:
        """Where a transaction fails, somebody else has changed the table: learn what is there, that the retry fits."""
        try:
            yield
        except TransientError:
            self._adopt(await self._read())
            raise

    async def _define(self, sets: Mapping[int, Sequence[Sequence[IPv4Network]]], then: str) -> None:
        self._parts |= {identity: len(parts) for identity, parts in sets.items()}
        self._sizes |= {identity: sum(map(len, parts)) for identity, parts in sets.items()}
        texts = [text for identity, parts in sets.items() for text in definition(identity, parts, self._rest)]
        await self._commit_batch(sets, [*texts, then] if then else texts)
        self._ready |= sets.keys()

    async def _remove_sets(self, identities: Collection[int]) -> None:
        self._ready -= set(identities)
        texts = [text for identity in identities for text in removal(identity, self._parts[identity])]
        await self._commit_batch(identities, texts)
        for identity in identities:
            del self._parts[identity], self._sizes[identity]

    async def _commit_batch(self, identities: Iterable[int], texts: Sequence[str]) -> None:
        """In one transaction, for each run of nft reads the whole table first; a set that is too large for that by
        itself, in several."""
        is_short = sum(self._sizes[identity] for identity in identities) <= PART
        for text in ["".join(texts)] if is_short else texts:
            await self._commit(text)

    async def _commit(self, text: str) -> None:
        """One transaction. What was intact before it, and nobody else has changed meanwhile, is intact after it."""
        before = read_generation()
        await self._run("-f", "-", text=text)
        self._note_own_change(before)

    async def _commit_elements(self, changes: Sequence[MapChange]) -> None:
        if len(changes) > CHANGES_MAX:
            await self._commit(map_text(TABLE, changes))
            return
        before = read_generation()
        try:
            await asyncio.to_thread(commit_elements, TABLE, changes, timeout_s=self._timeout_s)
        except PermissionError as error:
            raise OperatorError("changing nftables is not permitted; the agent needs CAP_NET_ADMIN") from error
        except OSError as error:
            raise TransientError(f"nftables, elements of table ip {TABLE}: {error.strerror or error}") from error
        self._note_own_change(before)

    def _note_own_change(self, before: int | None) -> None:
        after = read_generation()
        if before is not None and self._intact_at == before and after == before + 1:
            self._intact_at = after

    async def counters(self) -> dict[str, int]:
        """Packets by counter name, since the table was made; `apply` keeps them."""
        document = json.loads(await self._run("-j", "list", "counters", "table", "ip", TABLE))
        return {name: packets for name, (packets, _) in _counts(document).items()}

    async def present(self) -> bool:
        """False where somebody flushed the ruleset: `apply` and `replace_steer` again."""
        text = await self._run("-j", "list", "tables")
        tables = [entry["table"] for entry in json.loads(text)["nftables"] if "table" in entry]
        return any(table["family"] == "ip" and table["name"] == TABLE for table in tables)

    async def is_intact(self) -> bool:
        """False where somebody flushed the ruleset, the table or one of its chains since `apply`.

        The table is looked at only where anybody has changed anything in nftables since the last look.
        """
        async with self._lock:
            generation = read_generation()
            if generation is not None and generation == self._intact_at:
                self._note_drops(read_counters(TABLE) or {})
                return True
            is_intact = await self.present() and await self._count_rules() == self._base_rules + self._set_rules()
            self._intact_at = generation if is_intact else None
            return is_intact

    def _note_drops(self, counts: Mapping[str, tuple[int, int]]) -> None:
        self.dropped |= {name: packets for name, (packets, _) in counts.items() if name in GUARDS}

    def _set_rules(self) -> int:
        return sum(rule_count(self._parts[identity]) for identity in self._ready) + len(self._asked)

    async def _count_rules(self) -> int:
        # Terse: the sets may be long.
        document = json.loads(await self._run("-j", "-t", "list", "table", "ip", TABLE))
        self._note_drops(_counts(document))
        return sum("rule" in entry for entry in document["nftables"])

    async def remove(self) -> None:
        """Delete the table, guards included; no error where there is none."""
        await self._commit(f"add table ip {TABLE}\ndelete table ip {TABLE}\n")
        self._intact_at = None
        self._adopt(Carried())

    async def check_marks(self, mark: int, connection_mark: int) -> None:
        """Raise OperatorError naming the first rules, of nft or iptables, that use one of our mark bits (W6, D2)."""
        texts = [await self._run("-s", "-t", "list", "ruleset")]
        for program in ("iptables-save", "iptables-legacy-save"):
            # Absent from the agent's image or of no use here: nft has listed all but legacy rules already.
            with suppress(OperatorError, TransientError):
                texts.append(await self._run(program=program))
        for field_, bit, used in (
            ("mark", mark, used_bits),
            ("connection_mark", connection_mark, used_connection_bits),
        ):
            conflicts = [line for text in texts for line in conflicting_lines(text, bit, used, without_table=TABLE)]
            if conflicts:
                shown = "; ".join(dict.fromkeys(conflicts[:3]))
                raise OperatorError(f"datapath.{field_}: {bit:#x} is in use, choose another bit ({shown})")

    def _adopt(self, present: Carried) -> None:
        steer = present.steer
        self._pods = dict(steer.pods)
        self._parts = {identity: len(parts_of(networks)) for identity, networks in steer.sets.items()}
        self._sizes = {identity: len(networks) for identity, networks in steer.sets.items()}
        # Of the others it is not known whether all of their parts are there: they are made again.
        self._ready = set(self._pods.values())
        self._named, self._asked = set(present.named), present.asked

    async def _read(self) -> Carried:
        if not await self.present():
            return Carried()
        document = json.loads(await self._run("-j", "list", "table", "ip", TABLE))
        named, asked = parse_named(document)
        return Carried(parse_destinations(document), named, asked & named.keys(), _counts(document))

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


def _rest(config: NftConfig) -> str:
    return f"{~config.mark & 0xFFFFFFFF:#x}"


def _counter(name: str, packets: int, octets: int) -> str:
    return f"  counter {name} {{ packets {packets} bytes {octets} }}"


def _counts(document: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    entries = (entry.get("counter") for entry in document["nftables"])
    return {entry["name"]: (int(entry["packets"]), int(entry["bytes"])) for entry in entries if entry}


def _replace_contents(contents: Mapping[str, str]) -> str:
    lines = []
    for name, elements in contents.items():
        lines.append(f"flush set ip {TABLE} {name}")
        if elements:
            lines.append(f"add element ip {TABLE} {name} {{ {elements} }}")
    return "\n".join(lines) + "\n"


def _elements(text: str) -> str:
    return f"elements = {{ {text} }};" if text else ""


def _networks(networks: Iterable[IPv4Network]) -> str:
    return ", ".join(str(network) for network in collapse_addresses(networks))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in dict.fromkeys(names))
