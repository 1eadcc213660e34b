"""Fixtures of tests that talk to the fake of Kubeflow's API server."""

from collections.abc import Iterator

import pytest
from kubeflow_commands import compile_once
from pipelines_fake import FakeKubeflow, fake_kubeflow


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    """The fake, a token for it, and no Kubernetes to ask."""
    for variable in ("TROIKA_KUBEFLOW", "TROIKA_KUBEFLOW_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TROIKA_KUBEFLOW_TOKEN", "token-of-test")
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    compile_once(monkeypatch)
    with fake_kubeflow() as running:
        running.plays = [{"state": "SUCCEEDED"}]
        yield running


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pauses take no time; how long they would have been is still counted."""
    monkeypatch.setattr("pipelines.connection.time.sleep", lambda _: None)
