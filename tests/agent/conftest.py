"""Agents under test speak of interfaces that are not this machine's: its own are not listened to."""

import pytest

from service.network.arp_listener import ArpListener


@pytest.fixture(autouse=True)
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArpListener, "listen", lambda listener, interfaces: None)
