"""A cluster without anything running: its plan and its files, and a kubectl that answers from a script."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from service.lab.cluster.cluster import Cluster
from service.lab.cluster.kubectl import Kubectl
from service.lab.plan import LabOptions
from service.lab.state import LabState
from tests.lab.cluster.programs import write_program

SCRIPT = """\
printf '%s ' "$@" >> {folder}/asked; echo >> {folder}/asked
cat >> {folder}/applied; echo --- >> {folder}/applied
while read -r pattern; do case "$*" in $pattern*) exec cat "{folder}/answers/$pattern" ;; esac; done < {folder}/patterns
"""


class FakeCluster(Cluster):
    """`answers`: beginning of kubectl's arguments -> what it prints. `pids`: (node, name of a cgroup) -> its pids."""

    def __init__(
        self, folder: Path, answers: Mapping[str, Any] = {}, pids: Mapping[tuple[str, str], list[int]] = {}
    ) -> None:
        super().__init__(LabState(options=LabOptions(name="mine", kubernetes=True), complete=True))
        self._folder = folder
        (folder / "answers").mkdir()
        (folder / "patterns").write_text("".join(f"{pattern}\n" for pattern in answers))
        for pattern, answer in answers.items():
            text = answer if isinstance(answer, str) else json.dumps(answer)
            (folder / "answers" / pattern).write_text(text)
        script = write_program(folder / "kubectl", SCRIPT.format(folder=folder))
        self.kubectl = Kubectl(folder / "kubeconfig", script=script)
        for name, machine in self.machines.items():
            machine.cgroup.processes = _processes(name, pids)  # type: ignore[method-assign]

    def asked(self) -> list[str]:
        """Arguments of each call of kubectl."""
        return [line.strip() for line in (self._folder / "asked").read_text().splitlines()]

    def applied(self) -> list[Any]:
        """Documents that kubectl was given."""
        text = (self._folder / "applied").read_text()
        return [document for document in yaml.safe_load_all(text) if document is not None]


def _processes(node: str, pids: Mapping[tuple[str, str], list[int]]) -> Callable[[str], list[int]]:
    return lambda part="": pids.get((node, part), [])
