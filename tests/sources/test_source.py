from pathlib import Path

import pytest

from service.model.errors import OperatorError
from service.settings import Settings
from service.sources.kubernetes.source import KubernetesSource
from service.sources.source import open_source
from tests.sources.kubernetes.fake_api_server import FakeApiServer, pod


async def test_kubernetes_needs_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(OperatorError, match="needs KUBECONFIG"):
        async with open_source(Settings(node="worker1", source="kubernetes")):
            pass


@pytest.mark.parametrize("text", ["", "[]", "kind: Config", "{", "clusters: 3", "current-context: x"])
async def test_a_kubeconfig_of_no_use_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(OperatorError, match=str(file)):
        async with open_source(Settings(node="worker1", source="kubernetes")):
            pass


@pytest.mark.parametrize("everything", [False, True])
async def test_agents_ask_for_their_own_pods_and_controllers_for_all(
    everything: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeApiServer() as api:
        await api.put(pod("a"))
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "config")))
        settings = Settings(node="worker1", source="kubernetes")
        async with open_source(settings, everything=everything) as source:
            assert isinstance(source, KubernetesSource)
            async for batch in source.changes():
                assert batch
                break
    selectors = {query.get("fieldSelector") for query in api.lists}
    assert selectors == ({None} if everything else {"spec.nodeName=worker1"})


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="not a folder"):
        async with open_source(Settings(node="worker1", source=f"manifests:{tmp_path / 'none'}")):
            pass
