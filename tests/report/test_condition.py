import pytest

from service.report.condition import condition


@pytest.mark.parametrize(("is_true", "status"), [(True, "True"), (False, "False"), (None, "Unknown")])
def test_a_condition_is_true_false_or_not_known(is_true: bool | None, status: str) -> None:
    found = condition("Ready", "Down", "it does not answer", is_true=is_true)
    assert found == {"type": "Ready", "status": status, "reason": "Down", "message": "it does not answer"}


def test_a_condition_is_true_where_nothing_else_is_said() -> None:
    assert condition("KubernetesReady", "KubeletReady")["status"] == "True"
