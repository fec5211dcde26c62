"""Commands, sockets and settings within namespaces; errors in the words of whoever failed."""

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from service.lab.namespace import (
    create_namespaces,
    delete_namespaces,
    enter_command,
    inside,
    ip_batch,
    namespaces_of,
    nft,
    open_socket,
    require_root,
    run,
    write_sysctls,
)
from service.model.errors import OperatorError


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"egwtns{os.getpid()}-ns"
    create_namespaces([name])
    yield name
    delete_namespaces([name])


def test_a_command_gets_its_input_and_its_output_is_returned() -> None:
    assert run([sys.executable, "-c", "print(input()[::-1])"], text="abc") == "cba\n"


def test_a_command_that_fails_is_told_in_its_own_words_unless_it_may() -> None:
    command = [sys.executable, "-c", "print('so far'); raise SystemExit('no such device')"]
    with pytest.raises(OperatorError, match="failed: no such device"):
        run(command)
    assert run(command, check=False) == "so far\n"


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(OperatorError, match="egwt-none is not installed"):
        run(["egwt-none"])


@pytest.mark.root
def test_namespaces_are_found_by_prefix_and_deleting_one_twice_is_no_error(netns: str) -> None:
    prefix = netns.removesuffix("-ns")
    assert namespaces_of(prefix) == [netns]
    delete_namespaces([netns, netns])
    assert namespaces_of(prefix) == []


@pytest.mark.root
def test_a_batch_stops_at_the_command_that_fails(netns: str) -> None:
    with pytest.raises(OperatorError, match="egwt-none"):
        ip_batch(netns, ["link add one type bridge", "link set egwt-none up", "link add two type bridge"])
    links = run(["ip", "-n", netns, "-br", "link"])
    assert "one" in links
    assert "two" not in links


@pytest.mark.root
def test_an_empty_batch_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ip_batch("egwt-none", [])
    with pytest.raises(OperatorError, match="ip is not installed"):
        ip_batch("egwt-none", ["link"])


@pytest.mark.root
def test_what_is_called_inside_is_inside_and_the_caller_is_not(netns: str) -> None:
    def where() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    home = where()
    assert inside(netns, where) == os.stat(f"/run/netns/{netns}").st_ino != home
    assert where() == home


@pytest.mark.root
def test_what_fails_inside_fails_outside(netns: str) -> None:
    def fail() -> None:
        raise ValueError("of the action")

    with pytest.raises(ValueError, match="of the action"):
        inside(netns, fail)
    with pytest.raises(OperatorError, match="no network namespace egwt-none"):
        inside("egwt-none", fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inside")]


@pytest.mark.root
def test_a_socket_stays_in_its_namespace_and_programs_get_there_too(netns: str) -> None:
    ip_batch(netns, ["link set lo up", "address add 192.0.2.77/32 dev lo"])
    with open_socket(netns, socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("192.0.2.77", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, pytest.raises(OSError, match="assign"):
        here.bind(("192.0.2.77", 0))
    assert "192.0.2.77" in run([*enter_command(netns), "ip", "-br", "address"])


@pytest.mark.root
def test_refused_rules_change_nothing(netns: str) -> None:
    nft(netns, "add table ip first")
    with pytest.raises(OperatorError, match="nonsense"):
        nft(netns, "add table ip second\nnonsense")
    assert run([*enter_command(netns), "nft", "list", "tables"]) == "table ip first\n"


@pytest.mark.root
def test_settings_are_the_namespaces_own_and_unknown_ones_are_left_out(netns: str) -> None:
    write_sysctls(netns, {"ipv4/ip_forward": "1", "ipv4/no_such_key": "1"})
    assert run([*enter_command(netns), "cat", "/proc/sys/net/ipv4/ip_forward"]) == "1\n"
    write_sysctls(netns, {"ipv4/ip_forward": "0"})
    assert run([*enter_command(netns), "cat", "/proc/sys/net/ipv4/ip_forward"]) == "0\n"


@pytest.mark.parametrize(("user", "platform", "told"), [(1000, "linux", "needs root"), (0, "darwin", "needs Linux")])
def test_who_cannot_build_a_lab_is_told_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, user: int, platform: str, told: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    require_root()
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(OperatorError, match=told):
        require_root()
