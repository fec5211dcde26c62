"""Planted faults are in the product's text as it is now, and what counts as caught."""

from pathlib import Path

import pytest

from loadtest.chaos.events import CATALOGUE
from loadtest.chaos.judge import Promise
from loadtest.chaos.planted import PLANTED, REPOSITORY, Outcome, Planted, copy_tree
from service.model.errors import OperatorError


def test_there_are_five_and_more_of_different_kinds() -> None:
    assert len(PLANTED) >= 5
    assert len({promise for planted in PLANTED for promise in planted.promises}) >= 4


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_each_can_be_planted_in_the_product_as_it_is_now(planted: Planted, tmp_path: Path) -> None:
    # One that cannot says nothing any more: find the new place of the line.
    original = (REPOSITORY / planted.file).read_text(encoding="utf-8")
    path = tmp_path / planted.file
    path.parent.mkdir(parents=True)
    path.write_text(original, encoding="utf-8")
    planted.plant(tmp_path)
    changed = path.read_text(encoding="utf-8")
    assert changed != original
    assert planted.event in CATALOGUE
    if path.suffix == ".py":
        compile(changed, str(path), "exec")


def test_a_line_that_is_gone_or_there_twice_is_told(tmp_path: Path) -> None:
    planted = Planted("gone", "", "a.py", "x = 1\n", "", "scan", "1", frozenset((Promise.ENDED,)))
    for text in ("y = 1\n", "x = 1\nx = 1\n"):
        (tmp_path / "a.py").write_text(text, encoding="utf-8")
        with pytest.raises(OperatorError, match=r"gone: a\.py has [02] times"):
            planted.plant(tmp_path)
        assert (tmp_path / "a.py").read_text(encoding="utf-8") == text


def test_only_what_a_fault_must_be_found_by_counts() -> None:
    planted = PLANTED[0]
    assert Outcome(planted, (("two speakers for one address", "..."),)).is_caught
    assert not Outcome(planted, (("not whole again in time", "..."),)).is_caught
    assert not Outcome(planted, ()).is_caught


def test_a_copy_has_what_a_run_needs(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for name in ("service/__main__.py", "loadtest/__main__.py", "bpf/egress_gateway.c", "deploy/crds"):
        assert (tmp_path / name).exists()
