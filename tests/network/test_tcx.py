"""Whether a kernel has tcx, by what it answers. What links do is in test_attachment, beside those of others."""

import errno
import os

import pytest

from service.network import tcx


def kernel_that_says(code: int) -> object:
    def refuse(command: int, attributes: bytearray) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (errno.EINVAL, False),  # An attach type before 6.6, or a kernel built without it.
        (errno.ENOENT, True),  # Nobody has attached anything.
    ],
)
def test_a_kernel_tells_whether_it_has_tcx(monkeypatch: pytest.MonkeyPatch, code: int, answer: bool) -> None:
    monkeypatch.setattr(tcx, "bpf_call", kernel_that_says(code))
    assert tcx.has_tcx() is answer


def test_a_kernel_that_may_not_be_asked_is_not_taken_for_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs would go to another hook than the former agent's."""
    monkeypatch.setattr(tcx, "bpf_call", kernel_that_says(errno.EPERM))
    with pytest.raises(PermissionError):
        tcx.has_tcx()
