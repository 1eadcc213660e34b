"""What holds for all tests, and how `make test` shares them out among processes."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# On a machine that is shared, the time that an example takes says nothing about the code.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

# What takes longest begins first, so that no process is left alone with it at the end.
_LONGEST = (
    "tests/cluster/",
    "tests/containers/",
    "tests/test_main_job.py",
    "tests/pipelines/",
    "tests/test_dvc_repro.py",
)
# Tests that share what takes long to start: the images of a container engine, which serves one process at a time.
_TOGETHER = ("tests/cluster/", "tests/containers/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((n for n, start in enumerate(_LONGEST) if item.nodeid.startswith(start)), 99))


class _FileByFile(LoadScopeScheduling):
    """One process takes a whole file, since its tests share fixtures, and all of containers and the cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "containers" if file.startswith(_TOGETHER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _FileByFile(config, log)
