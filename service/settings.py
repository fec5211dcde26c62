"""One YAML file plus flags, validated once into frozen settings. A bad file is an OperatorError that names the key.

Agent, keeper and controller read the same file. Ports, cluster, keys and electors are equal on all members, the lease
profile too; the rest may differ from node to node. Settings are read once: a change needs a restart of the process.
"""

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta

from service.model.cluster_range import ClusterRanges
from service.model.errors import OperatorError
from service.model.gateway_node import NodeRole
from service.model.lease import (
    ELECTORS_MAX,
    EPOCH_MAX,
    LEASE_PROFILES,
    NO_ELECTORATE,
    Elector,
    Electorate,
    LeaseProfile,
    ProfileName,
)

PortNumber = Annotated[int, Meta(ge=1, le=65535)]
LABEL_LETTERS_MAX = 128
"""Of all labels of one node together: what a member says of itself has 512 bytes, and segments need most of them."""
NodeName = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class PortSettings(_Section, frozen=True):
    """Ports of every node; equal on all of them."""

    # Neighbours, so that one range in a firewall opens all of them.
    gossip: PortNumber = 9640
    """UDP; members that are nodes."""
    state: PortNumber = 9641
    """UDP; agents: blocks of ports, and a new holder's word."""
    http: PortNumber = 9642
    """TCP; health, status and metrics, readable by whoever reaches it."""
    vxlan: PortNumber = 9643
    """UDP, for the tunnel device; another than 4789 and 8472, which CNIs use for theirs."""
    lease: PortNumber = 9644
    """UDP; electors and holders, in the lease keepers."""
    probe: PortNumber = 9645
    """UDP; agents ask over the data path what a segment lets pass (X1), and who has announced an address (R2)."""
    leader: PortNumber = 9646
    """UDP; controllers: blocks of ports. Not that of agents: a CNI masquerades what a controller says to nodes as its
    own node's, port and all, and connection tracking then takes what nodes say to that node's agent for the answer."""
    controller_gossip: PortNumber = 9647
    """UDP; members that are controllers, for the same reason."""


class GossipSettings(_Section, frozen=True):
    """How members find each other."""

    seeds: tuple[str, ...] = ()
    """IPv4 addresses of members to join by (`host` or `host:port`); kept for ever, so that partitions heal.

    Those of nodes; a controller that is to be joined by needs its port.

    With `source: kubernetes` the InternalIPs of all Node objects are seeds besides."""


class ElectorSettings(_Section, frozen=True):
    """One elector, named by the configuration."""

    name: NodeName
    """The `node` of its settings."""
    address: str
    """IPv4 address of its lease socket: the `bind_address` of its settings; the port is `ports.lease` everywhere."""


class ElectorateSettings(_Section, frozen=True):
    """Who grants leases; equal on all members, or they would count different majorities."""

    epoch: Annotated[int, Meta(ge=1, le=EPOCH_MAX)] = 1
    """Number of this set of members; the higher one counts."""
    members: tuple[ElectorSettings, ...] = ()
    """1, 3, 5 or 7 agents; an even number, up to 8, only on the way from one to the next, which keepers log.
    Changed by the operator, one member at a time, with the next higher epoch (leases.md, M2)."""


class LeaseSettings(_Section, frozen=True):
    """How long promises last, and what becomes of them at a stop."""

    profile: ProfileName = ProfileName.DEFAULT
    """Lease and renewal interval: `relaxed` 1000/200 ms, `default` 300/60, `fast` 100/20, `fastest` 50/10. A shorter
    lease is a shorter failover, and asks more of the network and of how promptly the keeper is scheduled; `fastest`
    needs real-time priority. Equal on all members: by its own the leader tells when a holder renewed last."""
    max_lease_ms: Annotated[int, Meta(ge=50, le=15000)] = 15000
    """Milliseconds. The longest lease an elector promises, which only a planned restart asks for; at least the
    profile's. One that lost its memory is silent for 1.2 times this (leases.md, P2): the default leaves a restart 15 s,
    and a rebooted elector is back in 18."""
    on_stop: Literal["hand-over", "keep"] = "hand-over"
    """What a keeper that is told to stop does with its floating IPs. `hand-over`: the successors take them at once.
    `keep`: one lease of `max_lease_ms`, in which the datapath forwards on; for restarts that end within it, such as a
    rolling update. A node that dies in that time is missed until the lease is over: drain it before it is shut down."""
    agent_grace_ms: Annotated[int, Meta(ge=1000, le=60000)] = 15000
    """Milliseconds for which the keeper keeps an IP for an agent that is stuck or absent (leases.md, S6): the default
    is as long as the longest lease, so an agent has as long to restart as a keeper."""
    deaf_after_ms: Annotated[int, Meta(ge=0, le=60000)] = 2000
    """Milliseconds without an answer to ARP on a segment whose link is up, after which a node gives up what it holds
    there, a second later, if others are answered (leases.md, S5); at least three times `probe_gap_ms`. 0: nobody is
    asked."""
    probe_gap_ms: Annotated[int, Meta(ge=100, le=10000)] = 500
    """Milliseconds between two rounds of these questions, each to three peers and the default gateway at most."""


class TimeoutSettings(_Section, frozen=True):
    """For how long a flow without a packet is remembered, in seconds, by its state (rule B3)."""

    tcp_open_s: Annotated[int, Meta(ge=60, le=864_000)] = 7440
    """An open connection: RFC 5382 REQ-5 asks for no less."""
    tcp_new_s: Annotated[int, Meta(ge=5, le=3600)] = 240
    """Not answered yet."""
    tcp_closing_s: Annotated[int, Meta(ge=5, le=3600)] = 240
    """Closed by both sides, or reset."""
    udp_s: Annotated[int, Meta(ge=5, le=86_400)] = 300
    """Answered datagrams (RFC 4787 REQ-5); questions of DNS have 10 s."""
    udp_new_s: Annotated[int, Meta(ge=5, le=86_400)] = 120
    """Not answered."""
    icmp_s: Annotated[int, Meta(ge=5, le=3600)] = 60
    """RFC 5508 REQ-1."""


class DatapathSettings(_Section, frozen=True):
    """What an agent needs to know of its node and of the cluster's addresses. A controller reads the ranges too."""

    uplinks: tuple[str, ...] = ()
    """Interfaces towards other nodes and the outside; empty: those that carry a default route or the bind address."""
    pod_cidrs: tuple[str, ...] = ()
    """Pod ranges of the whole cluster; empty: those of the Node objects, with `source: kubernetes`.

    With none known, a policy for 0.0.0.0/0 is refused (rule W12)."""
    service_cidrs: tuple[str, ...] = ()
    """Service ranges; empty: those of the ServiceCIDR objects, with `source: kubernetes`."""
    node_cidrs: tuple[str, ...] = ()
    """Further in-cluster destinations that are never steered: hosts that are no members, a load balancer before the API
    servers, or the nodes' whole subnet. Nodes' own addresses are always among them, and no other host's (W12)."""
    mark: Annotated[int, Meta(ge=1, le=0x80000000)] = 0x1000
    """The one mark bit (rule W6): exactly one bit, and not one that the CNI or kube-proxy uses."""
    connection_mark: Annotated[int, Meta(ge=1, le=0x80000000)] = 0x2000
    """The one bit of the connection mark (rule D2): another bit than `mark`, and not one that the CNI uses."""
    route_table: Annotated[int, Meta(ge=1, le=0x7FFFFFFF)] = 9640
    """Number of the routing table for marked packets; one that nothing else on the node uses."""
    transport: Literal["l2", "vxlan", "auto"] = "l2"
    """How packets go between a pod's node and the holder of its floating IP; the same on all nodes. `l2`: over the
    segment of the floating IP, which both are on (no overhead, the full MTU). `vxlan`: through a tunnel to the node's
    address (UDP, `ports.vxlan`; 50 bytes less for each packet), also between segments (X2). `auto`: for each node and
    floating IP over the segment where frames of that address have been answered both ways, else through the tunnel
    (X1)."""
    tcx: bool = True
    """Programs go to tcx where the kernel has it (Linux 6.6), else to tc filters. Off: to filters on every kernel. That
    is the way back to a version that knows filters only (0.1): first off, then back."""
    direct: bool = True
    """Packets of a flow that netfilter has let pass within half a second go past it (rule F2): less than half the cost.
    With `vxlan` outer packets go past the stack too (X4). Off: every packet is asked for, as where a firewall on the
    node counts or limits packets of pods, or of the tunnel."""
    unclassified: Literal["drop", "pass"] = "drop"
    """What becomes of packets that come by a pod's device, from a pod range, while no object known here says whose they
    are, on their way to what some policy names (rule W11). `drop`: a new pod waits until the agent has seen it, for
    ever where the agent is dead. `pass`: they leave with the node's address, also of a pod that turns out to be
    selected; for hosts with containers that no manifest describes."""
    unsupported_cni: Literal["refuse", "try"] = "refuse"
    """Beside a CNI that enforces in eBPF or OVS, such as Cilium, which the agent recognises at the start (rule N2).
    `refuse`: this node steers nothing and holds nothing. `try`: as beside any other; nobody has tested it."""
    flows_per_pod: Annotated[int, Meta(ge=1, le=4_000_000)] = 32_768
    """How many flows a pod may have at once; beyond it new ones are dropped, and counted as `quota` (rule B4)."""
    flows: Annotated[int, Meta(ge=0, le=4_000_000)] = 0
    """For how many open TCP connections, and as many datagram flows, this node's tables have room; 600 bytes of kernel
    memory each. 0: one for each 64 KiB of its memory, 16,384 to 1,048,576. What is changed here counts from the node's
    next boot on (rule B5)."""
    pods: Annotated[int, Meta(ge=1, le=100_000)] = 8192
    """For how many selected pods of this node there is room. Those beyond it are not served: what they send to
    destinations of their policies is dropped, and they are named in status (rule I1)."""
    rules: Annotated[int, Meta(ge=1, le=4_000_000)] = 262_144
    """For how many destinations, of all sets of policies that pods of this node go by. The same beyond it."""
    floating_ips: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    """For how many floating IPs of the whole cluster. What is made larger or smaller counts from the node's next boot
    on where the keeper writes: the deadlines of leases."""
    ephemeral_first: Annotated[int, Meta(ge=1, le=65535)] = 32_768
    """From which port on pods open connections (`net.ipv4.ip_local_port_range` in them). A TCP segment of no known flow
    that comes from another port is the answer of a server, and makes no flow (rule D4)."""
    ephemeral_last: Annotated[int, Meta(ge=1, le=65535)] = 60_999
    """To which one."""
    timeouts: TimeoutSettings = TimeoutSettings()
    bpf_dir: str = "/sys/fs/bpf/egressgw"
    """Folder for pins; on a bpffs, or a place where one can be mounted."""
    compiled_dir: str = ""
    """Where compiled programs are kept for the next start, as nobody else may write; else `compiled` in `state_dir`."""
    sysctl_dir: str = "/proc/sys/net"
    """The node's /proc/sys/net, where a container has it writable; its own is read-only unless it is privileged."""
    workers: Annotated[int, Meta(ge=1, le=8)] = 2
    """Threads that drive BPF maps. Each map has one writer at a time: more help only where several change at once."""

    @property
    def ranges(self) -> ClusterRanges:
        """The configured ranges of the cluster."""
        return ClusterRanges(
            pods=tuple(IPv4Network(cidr) for cidr in self.pod_cidrs),
            services=tuple(IPv4Network(cidr) for cidr in self.service_cidrs),
            nodes=tuple(IPv4Network(cidr) for cidr in self.node_cidrs),
        )

    @property
    def ephemeral_ports(self) -> range:
        """From which pods open connections (rule D4)."""
        return range(self.ephemeral_first, self.ephemeral_last + 1)


class HttpSettings(_Section, frozen=True):
    """Where health, status and metrics are served; the port is `ports.http`."""

    address: str = ""
    """IPv4 address to listen on, and 127.0.0.1 besides. Not set: `bind_address`, the node's own, where kubelet and
    Prometheus ask; 0.0.0.0 for every one. What is served is read-only, and names nodes, policies and addresses."""


class KafkaTlsSettings(_Section, frozen=True):
    """Encryption of the connection to the brokers. Files are read anew at each connection, so they may be replaced."""

    enabled: bool = False
    """Off: the connection is in the clear, and a password too."""
    ca_file: str = ""
    """PEM file of the authorities that sign the brokers' certificates; empty: the system's."""
    cert_file: str = ""
    """PEM file of the client certificate, where the brokers ask for one."""
    key_file: str = ""
    """PEM file of its key, without a passphrase; empty: it is in `cert_file`."""
    verify_hostname: bool = True
    """Whether a broker's certificate must name the host that it is reached by."""


class KafkaSaslSettings(_Section, frozen=True):
    """Authentication by name and password."""

    mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """Empty: none."""
    username: str = ""
    """Of the account that the brokers know; needs `kafka.sasl.password_file`."""
    password_file: str = ""
    """A file with the password; a line end at its end does not count. Read anew at each connection."""


class KafkaSettings(_Section, frozen=True):
    """Where the audit outbox is published to. Forwarding and failover never wait for it."""

    bootstrap_servers: tuple[str, ...] = ()
    """`host:port` of some brokers. None: nothing is published, and the outbox is the audit log."""
    topic: Annotated[str, Meta(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")] = (
        "egress-gateway.assignments"
    )
    """It must not be compacted: of one address every record counts, not only the newest."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "lz4"
    """Of the batches on the wire and on the brokers; every one is available without further libraries."""
    linger_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Milliseconds for which a record may wait for company. None by default: records that come while a batch is under
    way share the next anyhow."""
    request_timeout_ms: Annotated[int, Meta(ge=1000, le=300_000)] = 10_000
    """Milliseconds after which a broker that does not answer is asked again, over a new connection."""
    client_id: str = ""
    """What brokers see in their logs and quotas; empty: `egressgw-NODE`."""
    create_topic: bool = False
    """Create the topic where it is missing (cleanup.policy=delete), for which the brokers must give the right. Off by
    default: retention and replicas of an audit log are for whoever runs the brokers to decide."""
    partitions: Annotated[int, Meta(ge=1, le=1000)] = 6
    """Of a topic that is created here. Order is kept per floating IP, which has one partition."""
    replication_factor: Annotated[int, Meta(ge=1, le=32)] = 3
    """Of a topic that is created here; not more than there are brokers."""
    tls: KafkaTlsSettings = KafkaTlsSettings()
    sasl: KafkaSaslSettings = KafkaSaslSettings()


class AuditSettings(_Section, frozen=True):
    """The audit outbox on the local disk (audit.md)."""

    cap_mib: Annotated[int, Meta(ge=8, le=1 << 20)] = 64
    """MiB of disk for an outbox; the keeper's has a quarter, at least 8. Over it the oldest segments go, published ones
    silently, others with a counted gap. At half a KiB a record the default holds a hundred thousand of them."""


class Settings(_Section, frozen=True):
    """Everything a process needs to know before it starts."""

    node: NodeName
    """Name of this member, unique in the cluster. In Kubernetes, of an agent the Node object's name."""
    labels: dict[str, str] = {}
    """Of an agent's node, for `spec.nodeSelector` of the gateway where there is no Node object; few and short, as all
    members are told."""
    cluster: str = "default"
    """Label authenticated with every datagram: members of another cluster are strangers."""
    role: NodeRole | None = None
    """Of an agent. Not set: as the Node object's label node-role.kubernetes.io/control-plane says, else worker."""
    source: str = "manifests:/etc/egressgw/manifests"
    """`manifests:DIR` or `kubernetes`."""
    bind_address: str = "0.0.0.0"
    """IPv4 address other members reach this process at. In Kubernetes, of an agent the node's InternalIP."""
    keyring: tuple[str, ...] = ()
    """AES-256 keys as 64 hexadecimal digits; the first seals, all open. To be rotated without a restart: in a file."""
    keyring_file: str = ""
    """Instead of `keyring`: a file with one key per line, read again each 2 s (docs/gossip.md, Keys)."""
    state_dir: str = "/var/lib/egressgw"
    """On a disk: audit outboxes, tokens, electorate and longest lease of the elector, the objects known last, former
    sysctls, compiled programs. An elector that loses it is a new elector."""
    run_dir: str = "/run/egressgw"
    """In shared memory: the promises of the elector, and the socket between agent and keeper. It outlives a process and
    not a boot, as promises must."""
    ports: PortSettings = PortSettings()
    gossip: GossipSettings = GossipSettings()
    electors: ElectorateSettings | Literal["auto"] = ElectorateSettings()
    """Who grants leases. `auto`: chosen by the controllers, kept in the ConfigMap `egressgw-electorate`."""
    namespace: str = "egressgw-system"
    """Kubernetes namespace of the electorate object; where it is not set, the environment's POD_NAMESPACE."""
    lease: LeaseSettings = LeaseSettings()
    datapath: DatapathSettings = DatapathSettings()
    http: HttpSettings = HttpSettings()
    audit: AuditSettings = AuditSettings()
    kafka: KafkaSettings = KafkaSettings()

    def __post_init__(self) -> None:
        if not self.http.address:
            msgspec.structs.force_setattr(self, "http", HttpSettings(address=self.bind_address))

    @property
    def electorate(self) -> Electorate:
        """The configured one; none where it is not configured but chosen."""
        if self.electors == "auto":
            return NO_ELECTORATE
        members = tuple(Elector(name=member.name, host=member.address) for member in self.electors.members)
        return Electorate(epoch=self.electors.epoch, members=members)

    @property
    def lease_profile(self) -> LeaseProfile:
        """The times that `lease.profile` stands for."""
        return LEASE_PROFILES[self.lease.profile]

    def keys(self) -> tuple[bytes, ...]:
        """The AES-256 keys, first the one that seals. Raises OperatorError where none is set or one is malformed."""
        lines = self.keyring or _read_lines(self.keyring_file)
        keys = []
        for index, line in enumerate(lines):
            try:
                key = bytes.fromhex(line.strip())
            except ValueError:
                key = b""
            if len(key) != 32:
                raise OperatorError(
                    f"keyring[{index}]: write 64 hexadecimal digits (make one with `openssl rand -hex 32`)"
                )
            keys.append(key)
        if not keys:
            raise OperatorError("keyring: at least one key is needed (make one with `openssl rand -hex 32`)")
        return tuple(keys)


def _read_lines(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"keyring_file: cannot read {path}: {error}") from error
    return tuple(line for line in text.splitlines() if line.strip())


T = TypeVar("T")


def load_settings(path: str | Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read and validate the file, with `overrides` (flat top-level keys from flags) laid over it.

    What differs from pod to pod falls back to the environment: `node` to NODE_NAME (then to the host's name),
    `bind_address` to BIND_ADDRESS.
    Raises OperatorError naming the file and the key.
    """
    document: dict[str, Any] = {}
    origin = str(path) if path else "settings"
    if path is not None:
        document = _read_document(Path(path))
    document |= {key: value for key, value in (overrides or {}).items() if value is not None}
    document.setdefault("namespace", os.environ.get("POD_NAMESPACE") or "egressgw-system")
    document.setdefault("node", os.environ.get("NODE_NAME") or os.uname().nodename.lower())
    if address := os.environ.get("BIND_ADDRESS"):
        document.setdefault("bind_address", address)
    try:
        settings = msgspec.convert(document, Settings, strict=True)
        _check(settings)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{origin}: {error}") from error
    except OperatorError as error:
        raise OperatorError(f"{origin}: {error}") from error
    return settings


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise OperatorError(f"{path}: a mapping of settings is expected, not a {type(document).__name__}")
    return document


def _check(settings: Settings) -> None:
    _check_electors(settings)
    lease = settings.lease
    if lease.deaf_after_ms and lease.deaf_after_ms < 3 * lease.probe_gap_ms:
        raise OperatorError(
            "lease.deaf_after_ms: less than three times lease.probe_gap_ms; one lost answer must not count"
        )
    _parse(IPv4Address, settings.bind_address, "bind_address")
    _parse(IPv4Address, settings.http.address, "http.address")
    for field, mark in (("mark", settings.datapath.mark), ("connection_mark", settings.datapath.connection_mark)):
        if mark & (mark - 1):
            raise OperatorError(
                f"datapath.{field}: {mark:#x} has more than one bit set; choose one free bit such as 0x1000"
            )
    if settings.datapath.mark == settings.datapath.connection_mark:
        # What copies one mark into the other would send replies back out.
        raise OperatorError("datapath.connection_mark: is datapath.mark; choose another bit")
    if not settings.datapath.ephemeral_ports:
        raise OperatorError("datapath.ephemeral_last: less than datapath.ephemeral_first")
    for field in ("pod_cidrs", "service_cidrs", "node_cidrs"):
        for index, cidr in enumerate(getattr(settings.datapath, field)):
            _parse(IPv4Network, cidr, f"datapath.{field}[{index}]")
    _check_kafka(settings.kafka)
    if (length := sum(len(key) + len(value) for key, value in settings.labels.items())) > LABEL_LETTERS_MAX:
        raise OperatorError(f"labels: {length} letters in all; at most {LABEL_LETTERS_MAX} can be told to all members")
    if not (settings.source == "kubernetes" or settings.source.startswith("manifests:")):
        raise OperatorError(f"source: write `kubernetes` or `manifests:DIR`, not {settings.source!r}")
    if settings.source == "kubernetes" and settings.bind_address == "0.0.0.0":
        raise OperatorError(
            "bind_address: members are told to answer there, so write this host's address, or set BIND_ADDRESS "
            "(an agent's pod from status.hostIP, a controller's from status.podIP)"
        )


def _check_electors(settings: Settings) -> None:
    electors = settings.electors
    if electors == "auto":
        if settings.source != "kubernetes":
            raise OperatorError("electors: `auto` needs `source: kubernetes`; else name epoch and members")
        return
    if len(electors.members) > ELECTORS_MAX:
        raise OperatorError(
            f"electors.members: {len(electors.members)} of them; at most 7 make an electorate, "
            f"and {ELECTORS_MAX} while one of them is being replaced"
        )
    names = [member.name for member in electors.members]
    if len(set(names)) != len(names):
        raise OperatorError("electors.members: each member must be named once")
    for index, member in enumerate(electors.members):
        address = _parse(IPv4Address, member.address, f"electors.members[{index}].address")
        if address.is_unspecified or address.is_multicast or address.is_reserved:
            raise OperatorError(f"electors.members[{index}].address: {address} is the address of no node")
    if len({IPv4Address(member.address) for member in electors.members}) != len(names):
        raise OperatorError("electors.members: two of them have one address")


def _check_kafka(kafka: KafkaSettings) -> None:
    for index, server in enumerate(kafka.bootstrap_servers):
        host, colon, port = server.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise OperatorError(f"kafka.bootstrap_servers[{index}]: write host:port, not {server!r}")
    if kafka.topic in (".", ".."):
        raise OperatorError(f"kafka.topic: {kafka.topic!r} is not a name that Kafka takes")
    tls, sasl = kafka.tls, kafka.sasl
    for field in ("ca_file", "cert_file", "key_file"):
        if getattr(tls, field) and not tls.enabled:
            raise OperatorError(f"kafka.tls.{field}: it has no effect without `kafka.tls.enabled: true`")
    if tls.key_file and not tls.cert_file:
        raise OperatorError("kafka.tls.cert_file: a client key needs its certificate")
    if sasl.mechanism:
        for field in ("username", "password_file"):
            if not getattr(sasl, field):
                raise OperatorError(f"kafka.sasl.{field}: {sasl.mechanism} needs it")
    elif sasl.username or sasl.password_file:
        raise OperatorError("kafka.sasl.mechanism: write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")


def _parse(kind: type[T], text: str, field: str) -> T:
    try:
        return kind(text)  # type: ignore[call-arg]
    except ValueError as error:
        raise OperatorError(f"{field}: {error}") from error
