"""The commands themselves: exit status, and one line where nobody takes orders."""

from pathlib import Path
from typing import Any

import pytest

from service.command import orders
from tests.command.invocation import invoke

COMMANDS = (("drain", "worker1"), ("undrain", "worker1"), ("move", "192.0.2.100"), ("rebalance", "--dry-run"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_where_no_process_takes_orders_one_line_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = invoke(*command, "--run-dir", tmp_path)
    assert result.exit_code == 1
    assert result.output == (
        f"egressgw: no agent and no controller takes orders in {tmp_path}; run this where one runs, or name --run-dir\n"
    )


@pytest.mark.parametrize(("is_well", "status"), [(True, 0), (False, 1)])
@pytest.mark.parametrize(
    ("command", "follower"), [("drain", "follow_drain"), ("move", "follow_move"), ("rebalance", "follow_rebalance")]
)
def test_the_exit_status_says_whether_it_came_to_be(
    monkeypatch: pytest.MonkeyPatch, command: str, follower: str, is_well: bool, status: int
) -> None:
    asked: list[tuple[Any, ...]] = []

    def follow(watch: Any, *arguments: Any, **options: Any) -> bool:
        asked.append((*arguments, options["timeout_s"]))
        return is_well

    monkeypatch.setattr(orders, follower, follow)
    given = {"drain": ("worker1",), "move": ("192.0.2.100", "worker2"), "rebalance": ()}[command]
    assert invoke(command, *given, "--timeout", "9").exit_code == status
    assert asked == [(*given, 9.0)]
