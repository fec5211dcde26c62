"""A real Apache Kafka broker on this machine for tests and load tests: one node (KRaft), loopback only.

Kafka comes from Maven Central into a cache outside the checkout, which may be removed at any time. It needs Java and
Maven (Debian: openjdk-17-jre-headless, maven).
"""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from service.model.errors import OperatorError, TransientError

KAFKA_VERSION = "4.1.1"
_ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
_FETCH_S_MAX = 600
_START_S_MAX = 60
_STOP_S_MAX = 20
_JAVA_OPTIONS = (
    "-Xms128m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # starts in half the time; a broker for tests has no time to get warm
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def missing_for_kafka() -> str:
    """What stands in the way of running a broker; empty where nothing does."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return ""
    absent = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)} (Debian's openjdk-17-jre-headless and maven)" if absent else ""


def libraries() -> Path:
    """The folder with Kafka's jars, fetched where it is not there yet. Raises OperatorError or TransientError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "egressgw"
    folder = cache / f"kafka-{KAFKA_VERSION}-tools"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            if reason := missing_for_kafka():
                raise OperatorError(f"a Kafka broker cannot be started: {reason}")
            _fetch(cache, folder)
    return folder


def _fetch(cache: Path, folder: Path) -> None:
    incoming = cache / f".fetch-{os.getpid()}"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in _ARTIFACTS
    )
    (incoming / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>egressgw</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "-f", str(incoming / "pom.xml"), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={incoming / 'libs'}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S_MAX, check=False)
        if done.returncode:
            raise TransientError(f"Maven could not fetch Kafka {KAFKA_VERSION}: {(done.stdout + done.stderr)[-1000:]}")
        (incoming / "libs").rename(folder)
    except subprocess.TimeoutExpired as error:
        raise TransientError(f"Maven did not fetch Kafka {KAFKA_VERSION} within {_FETCH_S_MAX} s") from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


class Broker:
    """One broker with its log in `folder`; a context manager that leaves nothing running.

    It can be killed and started again from its log, under the same port. `prefix` goes in front of the command, such as
    nsenter; `listener` is the security protocol of its one listener, `properties` are further lines of its settings.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prefix: Sequence[str] = (),
        listener: str = "PLAINTEXT",
        properties: Sequence[str] = (),
        java_options: Sequence[str] = (),
    ) -> None:
        self._folder = folder
        self._prefix = tuple(prefix)
        self._java_options = (*_JAVA_OPTIONS, *java_options)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._libs = libraries()
        self.port, self._controller_port = _free_ports(2)
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        self._properties.write_text("\n".join((*self._settings(listener), *properties)) + "\n")

    @property
    def address(self) -> str:
        """host:port, the same after a restart."""
        return f"127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """All that it printed, of every start."""
        return self._folder / "broker.log"

    def __enter__(self) -> Self:
        try:
            self._format()
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, wait: bool = True) -> None:
        """Start it on its log folder. Raises TransientError where it does not come up."""
        assert self._process is None
        self._log = open(self.log_file, "ab")  # noqa: SIM115
        command = self._java("kafka.Kafka", str(self._properties))
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it says that it has started. Raises TransientError."""
        assert self._process is not None
        until_s = time.monotonic() + _START_S_MAX
        while not self._answers():
            if self._process.poll() is not None:
                raise TransientError(f"the Kafka broker ended with status {self._process.returncode}: {self.tail()}")
            if time.monotonic() > until_s:
                raise TransientError(f"the Kafka broker did not start within {_START_S_MAX} s: {self.tail()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory runs out; what it had not synced stays in the page cache."""
        self._end(lambda process: process.kill())

    def stop(self) -> None:
        """End it in order; killed where that takes too long."""
        self._end(lambda process: process.terminate())

    def tail(self, lines: int = 15) -> str:
        """The end of what it logged."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            try:
                process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _answers(self) -> bool:
        """Whether it listens, in whatever network namespace it is: read from its own view of the kernel's table."""
        assert self._process is not None
        with contextlib.suppress(OSError):
            for name in ("tcp", "tcp6"):
                for line in Path(f"/proc/{self._process.pid}/net/{name}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == self.port:
                        return True
        return False

    def _format(self) -> None:
        identity = "MkU3OEVBNTcwNTJENDM2Qg"  # any 16 bytes in base64 will do
        command = self._java(
            "kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", str(self._properties)
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S_MAX, check=False)
        if done.returncode:
            raise TransientError(f"the Kafka broker's folder could not be formatted: {done.stdout}{done.stderr}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [*self._prefix, "java", *self._java_options, "-cp", f"{self._libs}/*", main, *arguments]

    def _settings(self, listener: str) -> Iterator[str]:
        yield "process.roles=broker,controller"
        yield "node.id=1"
        yield f"listeners=CLIENT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}"
        yield f"advertised.listeners=CLIENT://127.0.0.1:{self.port}"
        yield f"listener.security.protocol.map=CLIENT:{listener},CONTROLLER:PLAINTEXT"
        yield "controller.listener.names=CONTROLLER"
        yield "inter.broker.listener.name=CLIENT"
        yield f"controller.quorum.bootstrap.servers=127.0.0.1:{self._controller_port}"
        yield f"log.dirs={self._folder / 'log'}"
        yield "auto.create.topics.enable=false"
        for name in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            yield f"{name}.replication.factor=1"
        yield "transaction.state.log.min.isr=1"
        yield "share.coordinator.state.topic.min.isr=1"
        yield "offsets.topic.num.partitions=1"
        yield "group.initial.rebalance.delay.ms=0"
        yield "log.cleaner.enable=false"
        # A restart recovers its log with one thread per folder and takes over at once.
        yield "broker.heartbeat.interval.ms=300"
        yield "broker.session.timeout.ms=1500"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    print(libraries())
