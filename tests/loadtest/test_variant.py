import pytest

from loadtest import variant
from loadtest.variant import DIRECT_PATH, POLICY_PATH, path_settings, vxlan_settings


class Former:
    __struct_fields__ = ("uplinks",)


class Later:
    __struct_fields__ = ("uplinks", "direct", "transport")


def test_what_this_version_has_not_is_not_measured_and_the_policy_path_always_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(variant, "DatapathSettings", Former)
    assert path_settings(POLICY_PATH) == {}
    assert path_settings(DIRECT_PATH) is None
    assert vxlan_settings() is None


def test_where_it_is_there_the_nodes_are_told_which_way_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "DatapathSettings", Later)
    assert path_settings(POLICY_PATH) == {"direct": False}
    assert path_settings(DIRECT_PATH) == {"direct": True}
    assert vxlan_settings() == {"transport": "vxlan"}
