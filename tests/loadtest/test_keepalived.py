import os
import shutil

import pytest

from loadtest.keepalived import configuration, kill_master, require_keepalived, running_pair
from service.lab.namespace import namespaces_of
from service.model.errors import OperatorError


def test_advertisements_are_as_often_as_asked_and_one_node_comes_first() -> None:
    text = configuration("a", 0.1)
    assert "advert_int 0.1\n" in text
    assert "priority 150\n" in text
    assert "priority 100\n" in configuration("b", 1)


def test_where_it_is_not_installed_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OperatorError, match="apt-get install keepalived"):
        require_keepalived()


@pytest.mark.root
@pytest.mark.e2e
def test_the_backup_takes_over_from_a_master_that_was_killed_and_nothing_is_left() -> None:
    name = f"egwt{os.getpid() % 100000}k"
    with running_pair(name, 0.1) as pair:
        first = pair.wait_until_whole()
        outage = kill_master(pair, 0.002, 0.0)
        assert outage is not None
        # Three advertisements that did not come.
        assert outage.gap_ns > 0.1e9
        assert pair.master() != first
    assert namespaces_of(name) == []
