"""Both ends on this machine, without a network between them."""

import time
from collections.abc import Iterator

import pytest

from loadtest.conversation import KINDS
from loadtest.station import Station

HERE = "127.0.0.1"
PORT = 29031
EACH = dict.fromkeys(KINDS, 2)


@pytest.fixture
def client() -> Iterator[Station]:
    with Station(None, "conversation") as station:
        yield station


@pytest.fixture
def server() -> Iterator[Station]:
    with Station(None, "conversation") as station:
        assert station.ask("serve", address=HERE, port=PORT) == {"ready": True}
        yield station


def test_every_kind_lives_and_an_idle_one_of_the_server_lives_once_it_speaks(client: Station, server: Station) -> None:
    opened = client.ask("open", address=HERE, port=PORT, counts=EACH)
    assert opened == {"opened": 12, "sources": {HERE: 12}}
    assert client.ask("check", within_s=5) == {"ready": True}
    spoken = server.ask("speak")
    assert spoken["spoken"] == 2
    checked = client.answer()
    assert checked == {"alive": EACH, "asked": EACH, "sources": {HERE: 12}}


def test_one_on_which_nobody_speaks_does_not_live(client: Station, server: Station) -> None:
    client.ask("open", address=HERE, port=PORT, counts=EACH)
    client.ask("check", within_s=0.5)
    assert client.answer()["alive"] == {kind: 2 for kind in KINDS if kind != "idle-server"}


FURTHER = {"half-closed": 2, "download": 1}


def test_a_half_closed_one_and_a_download_live_while_the_server_sends(client: Station, server: Station) -> None:
    assert client.ask("open", address=HERE, port=PORT, counts=FURTHER)["opened"] == 3
    client.ask("check", within_s=5)
    assert client.answer()["alive"] == FURTHER


def test_the_server_hears_of_each_end_by_fin_and_by_rst(client: Station, server: Station) -> None:
    client.ask("open", address=HERE, port=PORT, counts=EACH | FURTHER)
    assert server.ask("count") == {"open": 13}
    assert client.ask("close") == {"closed": 15}
    deadline_s = time.monotonic() + 5
    while server.ask("count")["open"] and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert server.ask("count") == {"open": 0}


def test_without_the_server_none_lives(client: Station) -> None:
    with Station(None, "conversation") as server:
        server.ask("serve", address=HERE, port=PORT)
        client.ask("open", address=HERE, port=PORT, counts=EACH)
    client.ask("check", within_s=0.5)
    assert client.answer()["alive"] == {}


def test_what_does_not_open_is_not_counted(client: Station) -> None:
    assert client.ask("open", address=HERE, port=PORT, counts={"idle": 2})["opened"] == 0
