"""In child processes: what is asked of the memory manager or the collector holds for a whole process."""

import resource
import subprocess
import sys

MLOCKALL_BYTES_MIN = 1 << 20
CAP_IPC_LOCK = 1 << 14


def run(script: str, *, locked_bytes: int | None = None) -> str:
    def limit() -> None:
        if locked_bytes is not None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (locked_bytes, locked_bytes))

    done = subprocess.run(
        [sys.executable, "-c", "from service.host import memory\n" + script],
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_answer_says_whether_the_kernel_keeps_every_page() -> None:
    """Permitted or not, it is the truth: the kernel's own count of locked pages agrees."""
    answer, locked_kib, capabilities = run("""
print(memory.lock_memory())
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmLck"].split()[0], status["CapEff"])
""").split()
    assert (answer == "True") == (int(locked_kib) << 10 > MLOCKALL_BYTES_MIN)
    if int(capabilities, 16) & CAP_IPC_LOCK:
        assert answer == "True"


def test_a_thread_that_begins_later_does_not_take_a_whole_stack_of_the_system_as_it_is() -> None:
    """Its stack is locked in memory with all the rest, used or not."""
    before_kib, after_kib = run("""
import threading
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
memory.lock_memory()
ready, done = threading.Event(), threading.Event()
before = resident()
for _ in range(4):
    threading.Thread(target=lambda: (ready.set(), done.wait()), daemon=True).start()
ready.wait()
print(before, resident())
done.set()
""").split()
    assert int(after_kib) - int(before_kib) < 8 << 10


def test_memory_that_may_not_be_locked_is_no_error() -> None:
    script = """
import os
if os.getuid() == 0:
    os.setuid(65534)
print(memory.lock_memory())
"""
    assert run(script, locked_bytes=0) == "False\n"


def test_a_settled_heap_is_left_out_of_collections_and_new_garbage_is_not() -> None:
    script = """
import gc
kept = [[] for _ in range(1000)]
memory.freeze_heap()
print(gc.get_freeze_count() >= 1000, any(one is kept for one in gc.get_objects()))
class Node: pass
gone = Node()
gone.own = gone
del gone
print(gc.collect() > 0)
"""
    assert run(script) == "True False\nTrue\n"


def test_garbage_is_collected_before_the_heap_is_settled() -> None:
    script = """
import weakref
class Node: pass
gone = Node()
gone.own = gone
seen = weakref.ref(gone)
del gone
memory.freeze_heap()
print(seen() is None)
"""
    assert run(script) == "True\n"
