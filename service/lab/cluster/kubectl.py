"""kubectl, asked by programs."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from service.lab.cluster.assets import program
from service.model.errors import OperatorError

TIMEOUT_S = 120.0

Document = dict[str, Any] | str


class Kubectl:
    """kubectl with one kubeconfig, or as the script that a lab has."""

    def __init__(self, kubeconfig: Path, *, script: Path | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._program = script

    def run(
        self, *arguments: str, text: str = "", check: bool = True, timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end. With `check`, raises OperatorError with its own words where it fails."""
        environment = os.environ | {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.kubeconfig.parent)}
        done = subprocess.run(
            [str(self._program or program("kubectl")), *arguments],
            input=text,
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise OperatorError(f"`kubectl {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")
        return done

    def __call__(self, *arguments: str) -> str:
        """What it prints. Raises OperatorError with its own words where it fails."""
        return self.run(*arguments).stdout

    def apply(self, *documents: Document) -> None:
        """All documents in one call; text may hold several. Raises OperatorError where one is refused."""
        self.run("apply", "-f", "-", text=_text(documents))

    def get(self, *arguments: str) -> Any:
        """The object, or the list, as the API server has it. Raises OperatorError where it is not there."""
        return json.loads(self("get", *arguments, "-o", "json"))


def _text(documents: tuple[Document, ...]) -> str:
    return "---\n".join(item if isinstance(item, str) else yaml.safe_dump(item) for item in documents)
