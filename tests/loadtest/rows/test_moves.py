from collections import Counter

import pytest

from loadtest.conversation import KINDS
from loadtest.rows.moves import dealt, measure_moves
from loadtest.rows.options import DatapathOptions, Sizes
from service.lab.namespace import namespaces_of


def test_all_kinds_are_dealt_out_alike() -> None:
    count = Sizes().conversations
    shares = dealt(count, 2)
    assert [sum(share.values()) for share in shares] == [count // 2, count // 2]
    together: Counter[str] = Counter()
    for share in shares:
        together.update(share)
    assert together == dict.fromkeys(KINDS, count // len(KINDS))


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
