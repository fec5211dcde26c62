"""The near end of a process of traffic in a namespace: give it commands, take its answers, end it."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.lab.namespace import enter_command
from service.model.errors import TransientError

ANSWER_TIMEOUT_S = 30.0
END_TIMEOUT_S = 2.0
_CHECKOUT = Path(__file__).resolve().parents[1]


class Station:
    """Context manager: one process, alive while it is entered."""

    def __init__(self, netns: str | None, module: str = "traffic") -> None:
        """`netns`: None for the namespace this process is in. `module`: `traffic`, or another that takes such lines."""
        self._netns = netns or "this namespace"
        enter = enter_command(netns) if netns else []
        self._command = [*enter, sys.executable, "-m", f"loadtest.{module}"]
        self._rest = b""
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=_CHECKOUT,
            # Ctrl-C is for us alone; we end it.
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        with contextlib.suppress(OSError):
            self._input.close()
        if kind is not None:
            process.kill()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(END_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()

    @property
    def _input(self) -> Any:
        return self._process.stdin

    def tell(self, verb: str, **arguments: Any) -> None:
        """Begin a verb of `traffic`."""
        self._write({"verb": verb, **arguments})

    def end(self) -> None:
        """End the verb that is running."""
        self._write({})

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The next answer. Raises TransientError where none comes in time or the measurement failed."""
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left_s = deadline_s - time.monotonic()
            descriptor = self._process.stdout.fileno() if self._process.stdout else -1
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                raise TransientError(f"no answer from the traffic process in {self._netns} within {timeout_s:.0f} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise TransientError(f"the traffic process in {self._netns} ended")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TransientError(f"traffic in {self._netns}: {answer['error']}")
        return answer

    def ask(self, verb: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        """Run a verb to its end."""
        self.tell(verb, **arguments)
        return self.answer(timeout_s)

    def _write(self, command: dict[str, Any]) -> None:
        try:
            self._input.write(json.dumps(command).encode() + b"\n")
        except OSError as error:
            raise TransientError(f"the traffic process in {self._netns} ended") from error
