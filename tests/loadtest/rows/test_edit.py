import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loadtest import gateway
from loadtest.rows.edit import BASE, measure_edit, other_policy, watch
from loadtest.rows.options import DatapathOptions
from loadtest.variant import Site
from service.lab.namespace import namespaces_of
from service.lab.outside import answer_to
from service.lab.plan import UDP_PORT
from service.sources.manifests.source import load_folder


def test_the_other_policy_is_of_the_same_pods_and_of_another_address(tmp_path: Path) -> None:
    _, policy = gateway.manifests(BASE)
    other = other_policy()
    (tmp_path / "policies.yaml").write_text(yaml.safe_dump_all([policy, other]))
    objects, errors = load_folder(tmp_path)
    assert (len(objects), errors) == (2, ())
    assert other["spec"]["egress"] == policy["spec"]["egress"]
    assert other["spec"]["egressSourceIP"] != policy["spec"]["egressSourceIP"]
    assert other["metadata"]["name"] != policy["metadata"]["name"]
    assert not set(other["spec"]["destinationCIDRs"]) & set(policy["spec"]["destinationCIDRs"])


@pytest.fixture
def outside() -> Iterator[threading.Event]:
    """Answers as the lab's outside server does, but while the event is set."""
    is_deaf, is_over = threading.Event(), threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", UDP_PORT))
        server.settimeout(0.1)

        def answer() -> None:
            while not is_over.is_set():
                with contextlib.suppress(TimeoutError):
                    data, source = server.recvfrom(256)
                    if not is_deaf.is_set():
                        server.sendto(answer_to(source[0], source[1], data), source)

        thread = threading.Thread(target=answer)
        thread.start()
        yield is_deaf
        is_over.set()
        thread.join()


def test_where_nothing_happens_nothing_is_lost_and_the_download_goes_on(site: Site, outside: threading.Event) -> None:
    found = watch(site, lambda: None)
    assert found["stream"]["sent"] > 500
    assert found["stream"]["lost"] == 0
    assert found["download"]["ended"] is False
    assert found["download"]["bytes"] > 1 << 20


def test_what_is_lost_meanwhile_is_counted(site: Site, outside: threading.Event) -> None:
    def happen() -> None:
        outside.set()
        time.sleep(0.2)
        outside.clear()

    assert 20 < watch(site, happen)["stream"]["lost"] < 1000


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_edits_are_made_under_a_stream_and_a_download(options: DatapathOptions) -> None:
    row = measure_edit(options, lambda line: None)
    lost, goes_on, pause = row.figures
    assert lost.value is not None
    assert goes_on.value == 1
    assert pause.value is not None
    assert pause.value > 0
    assert row.detail["stream"]["sent"] > 1000
    assert namespaces_of(options.name + "g") == []
