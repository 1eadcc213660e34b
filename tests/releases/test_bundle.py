"""A bundle opens only if every byte, every name and every kind of file is what was sealed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle, tiny_spec, unsealed

from troika.errors import BundleError
from troika.releases.bundle import Bundle, list_files, seal, write_triton_entry


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("pristine") / "bundle")


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest's content, keeping its canonical form."""
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text)


def test_an_untouched_bundle_opens_and_tells_its_content(bundle: Bundle) -> None:
    again = Bundle.open(bundle.folder, bundle.digest)
    assert again == bundle
    assert again.model == "tiny"
    assert again.spec == tiny_spec(conditional=True)
    assert again.lineage == {"note": ""}
    assert again.digest.startswith("sha256:")


def test_equal_models_have_equal_digests_and_different_ones_do_not(tmp_path: Path) -> None:
    one, same, other = (tiny_bundle(tmp_path / name, note=note) for name, note in zip("abc", "xxy", strict=True))
    assert one.digest == same.digest
    assert one.digest != other.digest


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_changed_byte_is_found_and_its_file_named(pristine: Bundle, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list_files(pristine.folder)))
    path = pristine.folder / name
    content = path.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with pytest.raises(BundleError, match=Path(name).name.replace(".", r"\.")):
            Bundle.open(pristine.folder, pristine.digest)
    finally:
        path.write_bytes(content)
    Bundle.open(pristine.folder, pristine.digest)  # Negative control: without the change it opens.


def test_every_file_is_checked(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        path = bundle.folder / name
        content = path.read_bytes()
        for changed in (content[:-1], content + b" ", bytes([content[0] ^ 1]) + content[1:]):
            path.write_bytes(changed)
            with pytest.raises(BundleError, match=f"{name} was changed"):
                Bundle.open(bundle.folder)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name} is missing|empty folder"):
            Bundle.open(bundle.folder)
        path.write_bytes(content)
    Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    "name", ["extra.txt", "model_repository/tiny/2/model.py", "model_repository/other/config.pbtxt"]
)
def test_a_foreign_file_is_refused(bundle: Bundle, name: str) -> None:
    (bundle.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle.folder / name).write_text("x")
    with pytest.raises(BundleError, match=name):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("name", ["model_repository/tiny/2/model.py", "model_repository/other/config.pbtxt"])
def test_a_second_model_or_version_cannot_be_sealed(tmp_path: Path, name: str) -> None:
    folder = unsealed(tmp_path / "bundle")
    (folder / "extra.txt").write_text("welcome")
    seal(folder, "tiny", {}, {})
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("x")
    with pytest.raises(BundleError, match=f"{name} does not belong"):
        seal(folder, "tiny", {}, {})


def test_an_empty_folder_is_refused_because_triton_would_take_it_for_a_model(bundle: Bundle) -> None:
    (bundle.folder / "model_repository" / "ghost").mkdir()
    with pytest.raises(BundleError, match="model_repository/ghost/ is an empty folder"):
        Bundle.open(bundle.folder)


def test_links_and_special_files_are_refused_even_if_their_content_is_right(
    bundle: Bundle, tmp_path: Path
) -> None:
    card = bundle.folder / "model_card.md"
    outside = tmp_path / "outside.md"
    shutil.move(card, outside)
    card.symlink_to(outside)
    with pytest.raises(BundleError, match=r"model_card\.md is a symbolic link"):
        Bundle.open(bundle.folder)
    with pytest.raises(BundleError, match=r"model_card\.md is a symbolic link"):
        seal(bundle.folder, "tiny", {}, {})
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(BundleError, match=r"model_card\.md is not a plain file"):
        Bundle.open(bundle.folder)
    card.unlink()
    shutil.move(outside, card)

    entry = bundle.folder / "model_repository"
    shutil.move(entry, tmp_path / "moved")
    entry.symlink_to(tmp_path / "moved")
    with pytest.raises(BundleError, match="model_repository is a symbolic link"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "./a", "a//b", "a\\b", "a\nb", "", "manifest.json"]
)
def test_paths_that_are_not_plain_are_refused(bundle: Bundle, name: str) -> None:
    (bundle.folder.parent / "secret").write_text("s")
    entry = {"sha256": "0" * 64, "size": 1}
    rewrite_manifest(bundle.folder, lambda content: content["files"].update({name: entry}))
    with pytest.raises(BundleError, match=r"not a plain relative path|does not belong"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema_version", 3),
        ("schema_version", "1"),
        ("model", "../evil"),
        ("model", "tiny\n"),
        ("model", 7),
        ("spec", "flat"),
        ("lineage", None),
        ("files", []),
        ("created_at", "today"),
    ],
)
def test_a_manifest_key_of_the_wrong_kind_is_named(bundle: Bundle, key: str, value: object) -> None:
    rewrite_manifest(bundle.folder, lambda content: content.update({key: value}))
    with pytest.raises(BundleError, match=key):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    "entry", [{"sha256": "A" * 64, "size": 1}, {"sha256": "0" * 64, "size": True}, {"size": 1}]
)
def test_a_file_entry_of_the_wrong_kind_is_named(bundle: Bundle, entry: dict[str, Any]) -> None:
    rewrite_manifest(bundle.folder, lambda content: content["files"].update({"golden.npz": entry}))
    with pytest.raises(BundleError, match=r"files\.golden\.npz"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.strip(),
        lambda text: text.replace('"schema_version":2', '"schema_version":2,"schema_version":2'),
        lambda text: "{",
        lambda text: "[" * 100_000,
        lambda text: "\udcff",
        lambda text: "[]\n",
    ],
)
def test_a_manifest_in_any_other_form_is_refused(bundle: Bundle, spoil: Callable[[str], str]) -> None:
    path = bundle.folder / "manifest.json"
    path.write_bytes(spoil(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(bundle.folder)


def test_a_manifest_with_a_false_size_is_refused_though_the_hash_is_right(bundle: Bundle) -> None:
    size = bundle.manifest.files["golden.npz"].size
    rewrite_manifest(bundle.folder, lambda content: content["files"]["golden.npz"].update(size=size + 1))
    with pytest.raises(BundleError, match=rf"golden\.npz was changed: it has {size} bytes, expected {size + 1}"):
        Bundle.open(bundle.folder)


def test_another_digest_than_expected_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="expected sha256:000"):
        Bundle.open(bundle.folder, "sha256:" + "0" * 64)


def test_a_folder_that_is_none_or_not_sealed_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.open(unsealed(tmp_path / "open"))


@pytest.mark.parametrize("name", ["golden.npz", "graph_repository/tiny_graph/config.pbtxt", "parity.json"])
def test_an_incomplete_folder_cannot_be_sealed(tmp_path: Path, name: str) -> None:
    folder = unsealed(tmp_path / "bundle")
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        seal(folder, "tiny", {}, {})
    assert not (folder / "manifest.json").exists()


@pytest.mark.parametrize("lineage", [{"path": Path()}, {"loss": float("nan")}])
def test_lineage_that_json_cannot_hold_is_refused(tmp_path: Path, lineage: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="not plain JSON"):
        seal(unsealed(tmp_path / "bundle"), "tiny", {}, lineage)


def test_text_and_numbers_of_any_kind_survive_sealing(tmp_path: Path) -> None:
    lineage = {
        "who": "Zoë\u2028",
        "rate": 2e-4,
        "big": 2**70,
        "none": None,
        "deep": {"b": [1.0, True], "a": {}},
    }
    folder = unsealed(tmp_path / "bundle")
    assert Bundle.open(folder, seal(folder, "tiny", {}, lineage)).lineage == lineage


@pytest.mark.parametrize(
    ("shape", "batch"),
    [((28, 28, 1), 64), ((32, 32, 3), 64), ((64, 64, 3), 16), ((100, 100, 3), 4), ((1024, 1024, 3), 1)],
)
def test_large_images_get_small_batches(tmp_path: Path, shape: tuple[int, int, int], batch: int) -> None:
    (tmp_path / "x.onnx").write_bytes(b"x")
    spec = {"image_shape": shape, "latent_size": 2, "conditional": False, "num_classes": 1}
    write_triton_entry(tmp_path / "bundle", "tiny", tmp_path / "x.onnx", spec)
    config = (tmp_path / "bundle/model_repository/tiny/config.pbtxt").read_text()
    assert f"max_batch_size: {batch}\n" in config
    assert '"label"' not in config


def test_a_bad_name_or_spec_or_a_missing_graph_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "x.onnx"
    graph.write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model name '\.\./x'"):
        write_triton_entry(tmp_path / "b", "../x", graph, tiny_spec(conditional=True))
    with pytest.raises(BundleError, match="latent_size"):
        write_triton_entry(tmp_path / "b", "x", graph, {"image_shape": [1, 1, 1]})
    with pytest.raises(BundleError, match="No such file"):
        write_triton_entry(tmp_path / "b", "x", tmp_path / "none.onnx", tiny_spec(conditional=True))
