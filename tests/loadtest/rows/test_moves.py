from collections import Counter

import pytest

from loadtest import peer
from loadtest.conversation import KINDS
from loadtest.rows.moves import PORT, alive, dealt, measure_moves
from loadtest.rows.options import DatapathOptions, Sizes
from loadtest.station import Station
from loadtest.variant import Site
from service.lab.namespace import namespaces_of


def test_all_kinds_are_dealt_out_alike() -> None:
    count = Sizes().conversations
    shares = dealt(count, 2)
    assert [sum(share.values()) for share in shares] == [count // 2, count // 2]
    together: Counter[str] = Counter()
    for share in shares:
        together.update(share)
    assert together == dict.fromkeys(KINDS, count // len(KINDS))


def test_the_living_of_all_pods_are_counted_by_their_kind(site: Site) -> None:
    with Station(None, "conversation") as server, Station(None, "conversation") as first:
        server.ask("serve", address=peer.SERVER, port=PORT)
        with Station(None, "conversation") as second:
            clients = [first, second]
            for client, counts in zip(clients, dealt(24, 2), strict=True):
                client.ask("open", address=peer.SERVER, port=PORT, counts=counts)
            each = dict.fromkeys(KINDS, 4)
            assert alive(clients, server) == {"asked": each, "alive": each}


@pytest.mark.root
@pytest.mark.bpf
@pytest.mark.e2e
def test_conversations_live_through_a_crash_and_a_planned_move(options: DatapathOptions) -> None:
    row = measure_moves(options, lambda line: None)
    assert [figure.value for figure in row.figures] == [12, 12]
    for name in ("a crash", "a planned move"):
        assert row.detail[name]["asked"] == dict.fromkeys(KINDS, 2)
        assert row.detail[name]["to"] not in ("", row.detail[name]["from"])
    assert namespaces_of(options.name + "g") == []
