"""A docker daemon of the test's own: in a network namespace, so that its bridges and packet filter are not the host's.

It uses the images that deploy/build-image has made, in the cache; builds wait for it, and it for them.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.lab.cache import cache_folder

_READY_S = 60.0


def missing_for_docker() -> str:
    """What stands in the way of running containers; empty where nothing does."""
    absent = [tool for tool in ("docker", "dockerd", "docker-compose", "debootstrap") if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)} (Debian's docker.io, docker-compose, debootstrap)" if absent else ""


@contextmanager
def running_daemon() -> Iterator[str]:
    """Yield its DOCKER_HOST; of it, only images are left afterwards. Raises RuntimeError where it does not start."""
    images = cache_folder() / "images"
    images.mkdir(parents=True, exist_ok=True)
    # Short: a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="egw-docker-"))
    with open(images / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = _start(folder)
        try:
            host = f"unix://{folder}/docker.sock"
            _wait_until_ready(process, host, folder)
            yield host
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    command = "ip link set lo up && exec dockerd " + " ".join(
        (
            f"--host unix://{folder}/docker.sock",
            f"--data-root {cache_folder() / 'docker'}",
            f"--exec-root {folder / 'exec'}",
            f"--pidfile {folder / 'pid'}",
        )
    )
    # Mounts that it leaves behind end with its own mount namespace.
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def _wait_until_ready(process: subprocess.Popen[bytes], host: str, folder: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    environment = os.environ | {"DOCKER_HOST": host}
    while subprocess.run(["docker", "version"], env=environment, capture_output=True, timeout=20).returncode:
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"dockerd did not start: {(folder / 'log').read_text(errors='replace')[-1000:]}")
        time.sleep(0.2)
