from collections.abc import Iterator

import pytest

from loadtest.station import Station
from loadtest.traffic import udp_counters
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
