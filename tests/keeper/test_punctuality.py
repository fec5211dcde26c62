from collections.abc import Callable

import pytest

from service.keeper import punctuality
from service.keeper.punctuality import become_punctual
from service.model.errors import OperatorError
from service.model.lease import ProfileName


@pytest.fixture
def grant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def grant(scheduling: str, *, locked: bool = True) -> None:
        monkeypatch.setattr(punctuality, "raise_priority", lambda: scheduling)
        monkeypatch.setattr(punctuality, "lock_memory", lambda: locked)

    return grant


def test_with_all_that_was_asked_for_every_profile_can_be_kept(
    grant: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    grant("fifo")
    assert become_punctual(ProfileName.FASTEST) == "fifo"
    assert caplog.text == ""


@pytest.mark.parametrize("scheduling", ["nice", "normal"])
def test_the_shortest_leases_are_refused_without_real_time_priority(
    grant: Callable[..., None], scheduling: str
) -> None:
    grant(scheduling)
    with pytest.raises(OperatorError, match=r"lease\.profile: .*CAP_SYS_NICE"):
        become_punctual(ProfileName.FASTEST)


@pytest.mark.parametrize("scheduling", ["nice", "normal"])
def test_other_profiles_go_on_and_say_what_they_lack(
    grant: Callable[..., None], caplog: pytest.LogCaptureFixture, scheduling: str
) -> None:
    grant(scheduling, locked=False)
    assert become_punctual(ProfileName.FAST) == scheduling
    assert "CAP_IPC_LOCK" in caplog.text
    assert f"priority is {scheduling}" in caplog.text
