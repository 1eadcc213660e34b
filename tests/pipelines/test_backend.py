"""Which version of the backend the packages need, by what is in them."""

from pathlib import Path

import pytest
import yaml
from quick import REPOSITORY

from components.step import read_sections
from pipelines.backend import FEATURES, features_of, lacking, parse_version, required_version
from pipelines.cluster import read_cluster
from pipelines.compile import compile_pipeline
from pipelines.sweep import compile_sweep, read_sweep


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of a run, of a run without a cluster file, and of a sweep."""
    folder = tmp_path_factory.mktemp("packages")
    sections = read_sections(REPOSITORY / "params.yaml")
    cluster = read_cluster(REPOSITORY / "pipelines" / "cluster.yaml")
    compile_pipeline(folder / "run.yaml", "x:1", sections, cluster)
    compile_pipeline(folder / "plain.yaml", "x:1", sections)
    sweep = read_sweep(REPOSITORY / "pipelines" / "sweep.yaml")
    compile_sweep(folder / "sweep.yaml", "x:1", sections, sweep, cluster)
    return {path.stem: path for path in folder.glob("*.yaml")}


def test_packages_with_limits_need_a_backend_that_knows_a_security_context(packages: dict[str, Path]) -> None:
    for name in ("run", "sweep"):
        needed = required_version(packages[name])
        assert (needed.version, needed.feature, str(needed)) == ((2, 16), "securityContext", "2.16"), name
        assert lacking((2, 15), packages[name]).keys() == {"securityContext"}
        assert not lacking((2, 16), packages[name])
    assert "iteratorPolicy" in features_of(packages["sweep"])


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_lacking_before_its_version_and_there_from_it_on(name: str) -> None:
    major, minor = FEATURES[name].since
    assert name not in lacking((major, minor), [name])
    assert name not in lacking((major + 1, 0), [name])
    assert name in lacking((major, minor - 1), [name])
    assert required_version([name, "pvcMount"]).version == max((major, minor), (2, 0))


def test_a_setting_that_the_table_does_not_know_is_an_error(packages: dict[str, Path], tmp_path: Path) -> None:
    graph, platform = yaml.safe_load_all(packages["run"].read_text())
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["newThing"] = 1
    (tmp_path / "p.yaml").write_text(yaml.safe_dump_all([graph, platform]))
    with pytest.raises(KeyError, match="newThing"):
        features_of(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.17.0", (2, 17)), ("v2.16.1", (2, 16)), ("2.5", (2, 5)), ("2.14.0-rc.1", (2, 14)), ("unknown", None),
        ("", None), (None, None), ("dev", None), ("2", None), ("2.x", None), ("2.1x", None),
    ],
)  # fmt: skip
def test_a_version_is_read_as_backends_write_it(text: str | None, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version
