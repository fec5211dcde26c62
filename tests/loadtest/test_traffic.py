import socket
import time
from collections.abc import Iterator

import pytest

from loadtest.station import Station
from loadtest.traffic import boot_time_ns, udp_counters
from service.lab.outside import answer_to
from service.model.errors import TransientError

HERE = "127.0.0.1"
# Ports below 32768: above it the kernel may just have given one to somebody's connection.
DURATION_S = 0.05


@pytest.fixture
def client() -> Iterator[Station]:
    with Station(None) as station:
        yield station


@pytest.fixture
def server() -> Iterator[Station]:
    with Station(None) as station:
        yield station


def test_datagrams_are_counted_where_they_arrive(client: Station, server: Station) -> None:
    server.tell("udp_sink", address=HERE, port=29001)
    assert server.answer() == {"ready": True}
    sent = client.ask("udp_send", destination=HERE, port=29001, duration_s=DURATION_S)
    server.end()
    arrived = server.answer()
    assert sent["source"] == arrived["source"] == HERE
    assert arrived["received"] > 0
    assert sent["sent"] >= 64
    assert sent["cpu_ns"] > 0


def test_request_and_response_are_timed_one_by_one(client: Station, server: Station) -> None:
    server.tell("rr_serve", port=29002)
    server.answer()
    asked = client.ask("rr_ask", destination=HERE, port=29002, duration_s=DURATION_S)
    assert server.answer()["source"] == HERE
    assert asked["transactions"] > 10
    assert 0 < asked["p50_ns"] <= asked["p99_ns"]


def test_every_connection_is_seen_by_the_server(client: Station, server: Station) -> None:
    server.tell("connect_serve", port=29003)
    server.answer()
    asked = client.ask("connect_ask", destination=HERE, port=29003, duration_s=DURATION_S)
    server.end()
    assert server.answer()["sources"] == {HERE: asked["connections"]}


def test_bulk_is_counted_where_it_arrives(client: Station, server: Station) -> None:
    server.tell("bulk_serve", port=29004)
    server.answer()
    client.ask("bulk_send", destination=HERE, port=29004, duration_s=DURATION_S)
    assert server.answer()["bytes"] >= 256 << 10


def test_a_download_tells_its_longest_pause_and_whether_it_still_went_on(client: Station, server: Station) -> None:
    server.tell("download_serve", port=29007)
    server.answer()
    client.tell("download", destination=HERE, port=29007)
    assert client.answer() == {"ready": True}
    time.sleep(0.1)
    client.end()
    taken = client.answer()
    assert taken["ended"] is False
    assert taken["bytes"] >= 64 << 10
    assert 5_000_000 < taken["longest_pause_ns"] < 1_000_000_000
    assert server.answer()["source"] == HERE


def test_a_download_whose_server_is_gone_has_ended(client: Station) -> None:
    with Station(None) as server:
        server.tell("download_serve", port=29008)
        server.answer()
        client.tell("download", destination=HERE, port=29008)
        client.answer()
    # Left, and killed, since it never ends by itself.
    client.end()
    assert client.answer()["ended"] is True


def test_who_knocks_says_when(client: Station) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HERE, 0))
        server.settimeout(5)
        before_ns = boot_time_ns()
        client.tell("knock", destination=HERE, port=server.getsockname()[1], interval_ns=1_000_000)
        assert client.answer() == {"ready": True}
        times_ns = [int(server.recv(64)) for _ in range(5)]
        client.end()
        assert client.answer()["sent"] >= 5
    assert before_ns < times_ns[0]
    assert times_ns == sorted(times_ns)


def test_a_verb_that_fails_is_told_and_the_process_goes_on(client: Station) -> None:
    with pytest.raises(TransientError, match="ConnectionRefusedError"):
        client.ask("rr_ask", destination=HERE, port=29005, duration_s=DURATION_S)
    with pytest.raises(TransientError, match="ConnectionRefusedError"):
        client.ask("bulk_send", destination=HERE, port=29005, duration_s=DURATION_S)


def test_a_stream_nobody_answers_loses_every_request(client: Station) -> None:
    client.tell("stream", destination=HERE, port=29006, interval_ns=1_000_000)
    assert client.answer() == {"ready": True}
    client.end()
    streamed = client.answer()
    assert len(streamed["sent"]) >= 1
    assert streamed["answers"] == []


def test_an_answer_of_the_outside_server_has_the_three_words_a_stream_reads() -> None:
    assert answer_to("192.168.1.100", 4711, b"17\n").split() == [b"192.168.1.100", b"4711", b"17"]


def test_the_counters_of_the_kernel_are_read_by_name() -> None:
    assert {"InDatagrams", "InErrors", "NoPorts"} <= set(udp_counters())
