"""In child processes, which alone are made urgent; what is granted differs by who runs this, so the kernel is asked."""

import subprocess
import sys

SCRIPT = """
from service.host.priority import raise_priority
print(raise_priority(), os.sched_getscheduler(0) == os.SCHED_FIFO, os.getpriority(os.PRIO_PROCESS, 0))
"""


def run(before: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "import os\n" + before + SCRIPT], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_answer_is_what_the_kernel_says_of_the_process() -> None:
    granted, is_fifo, niceness = run()
    assert granted in {"fifo", "nice", "normal"}
    assert (granted == "fifo") == (is_fifo == "True")
    assert (granted == "nice") == (is_fifo == "False" and niceness == "-20")


def test_without_real_time_the_second_best_is_asked_for() -> None:
    """As where the kernel's real-time budget of a control group is zero."""
    before = """
def refuse(*_): raise PermissionError
os.sched_setscheduler = refuse
asked = []
os.setpriority = lambda *what: asked.append(what)
import atexit
atexit.register(lambda: print(asked == [(os.PRIO_PROCESS, 0, -20)]))
"""
    assert (run(before)[0], run(before)[-1]) == ("nice", "True")


def test_a_process_that_may_not_be_urgent_goes_on_at_normal_priority() -> None:
    before = """
import resource
for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE):
    resource.setrlimit(limit, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)
"""
    assert run(before) == ["normal", "False", "0"]
