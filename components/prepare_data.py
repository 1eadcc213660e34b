"""Prepare data: a source of images -> a validated dataset with train, validation and test splits.

Does not augment: what training sees is what the source holds, cut and scaled only where `image_size` says so.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pydantic import model_validator

from components.step import run_step
from troika.datasets.contract import Dataset, DatasetInfo
from troika.datasets.drift import Drift, Profile, compare, profile_of
from troika.datasets.dvc_hash import dvc_hash
from troika.datasets.dvc_source import fetch, resolve
from troika.datasets.preparation import SplitParams, prepare
from troika.datasets.problems import Findings
from troika.datasets.report import write_report
from troika.datasets.sources import BUILT_IN, open_source
from troika.datasets.sources.idx import labels_beside
from troika.datasets.sources.settings import SourceParams
from troika.datasets.sources.source import ImageSource, check_path, sayable
from troika.errors import DatasetError, TroikaError
from troika.folders import replace_folder, write_atomic


class PrepareDataParams(SourceParams, SplitParams):
    """Section `prepare_data` of params.yaml."""

    version: str
    """Anything that changes with the data; a run with the same parameters may take an earlier run's result."""
    previous: str
    """An earlier version to compare with: a dataset folder, or with `dvc.repo` another revision."""

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> "PrepareDataParams":
        if self.validation_share + self.test_share > 0.8:
            raise ValueError("validation_share + test_share must leave at least 0.2 for training")
        if self.dvc.repo and self.source in BUILT_IN:
            raise ValueError(
                f"dvc.repo is set, but {self.source} is a source that is built in; set source to auto"
            )
        return self


def prepare_data(dataset: Path, report: Path, refused: Path, params: PrepareDataParams) -> None:
    """Read, check and split a set of images.

    Args:
        dataset: folder to write, see troika/datasets/contract.py.
        report: HTML page to write: counts, pictures, problems, drift against an earlier version.
        refused: JSON file to write: every image that was left out, with its reason, and the warnings.
        params: section `prepare_data`.

    Raises:
        DatasetError: the source is unreadable or empty, a policy says fail, too many images are left out, or a
            class is missing.
    """
    findings = Findings(params.policies)
    previous = _read_previous(params, dataset.parent, findings)
    with replace_folder(dataset) as new, _opened(params, params.dvc.rev, new) as source:
        try:
            prepared = prepare(new, source, params, findings, refused)
        except DatasetError:
            _print_refused(findings)
            raise
        finally:
            write_atomic(refused, json.dumps(findings.as_data(source.count), indent=1) + "\n")
    opened = Dataset.open(dataset, just_written=True)
    drift = compare(previous, profile_of(opened)) if previous else None
    write_report(report, opened, prepared, findings, dvc_hash(dataset), drift)
    _print_summary(opened.info, findings, drift)


@contextmanager
def _opened(params: PrepareDataParams, rev: str, scratch: Path) -> Iterator[ImageSource]:
    """The source; what comes out of a DVC repository lies in `scratch` meanwhile."""
    if not params.dvc.repo:
        yield open_source(params)
        return
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=scratch) as folder:
        beside = labels_beside(PurePosixPath(params.path).name)
        path, origin = fetch(params.dvc.repo, rev, params.path, Path(folder), beside)
        try:
            source = open_source(params.at(path))
            origin = origin.model_copy(update={"kind": source.origin.kind})
            description = f"{source.description}, {origin.repo} at {origin.rev} ({str(origin.commit)[:12]})"
            yield replace(source, origin=origin, description=description)
        except DatasetError as error:
            # Nobody knows the folder that it was fetched into.
            words = str(error).replace(str(path), f"{params.path} of {origin.repo} at {origin.rev}")
            raise DatasetError(words.replace(f"{folder}/", "")) from None


def _read_previous(params: PrepareDataParams, scratch: Path, findings: Findings) -> Profile | None:
    """Return the earlier version to compare with; a revision is prepared like this one, and forgotten.

    One that is there and cannot be used by today's rules is not compared with, and told in `findings`: the past
    must not fail the present.
    """
    if not params.previous:
        return None
    # A name that stands for nothing is a slip of this run.
    if params.dvc.repo:
        resolve(params.dvc.repo, params.previous)
    else:
        check_path("previous", params.previous)
        if not (Path(params.previous) / "dataset.json").exists():
            raise DatasetError(f"previous: {params.previous} is not a dataset: it has no dataset.json")
    try:
        if not params.dvc.repo:
            return profile_of(Dataset.open(Path(params.previous)))
        return _prepare_previous(params, scratch)
    except TroikaError as error:
        words = " ".join(str(error).split())
        findings.remarks.append(f"drift: not compared with {sayable(params.previous)}: {words}")
        return None


def _prepare_previous(params: PrepareDataParams, scratch: Path) -> Profile:
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".previous-", dir=scratch) as folder:
        new = Path(folder)
        with _opened(params, params.previous, new) as source:
            prepare(new, source, params, Findings(params.policies), Path("the run that prepared it"))
        return profile_of(Dataset.open(new))


_MOST_PRINTED = 100


def _print_refused(findings: Findings) -> None:
    """Print what a failed step found: Kubeflow keeps no files of a step that fails, only its log."""
    left_out = sorted(findings.quarantined, key=lambda entry: entry.index)
    for entry in left_out[:_MOST_PRINTED]:
        print(f"refused: {entry.name}: {entry.problem}: {entry.detail}")
    if len(left_out) > _MOST_PRINTED:
        print(f"refused: and {len(left_out) - _MOST_PRINTED} more")
    for problem, count in sorted(Counter(entry.problem for entry in left_out).items()):
        print(f"refused because of {problem}: {count} images")
    for problem, count in sorted(findings.warning_counts.items()):
        print(f"warning: {problem}: {count} images")
    for remark in findings.remarks:
        print(f"warning: {remark}")


def _print_summary(info: DatasetInfo, findings: Findings, drift: Drift | None) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in info.counts.items())
    print(f"{counts}; {len(findings.quarantined)} refused; {len(info.classes)} classes, {info.shape} pixels")
    if info.origin.commit:
        print(f"{info.origin.repo} at {info.origin.rev}: commit {info.origin.commit}")
    for note in findings.notes:
        print(note)
    for problem, count in sorted(findings.warning_counts.items()):
        print(f"warning: {problem}: {count} images, used as policies.{problem} says")
    for remark in findings.remarks:
        print(f"warning: {remark}")
    if drift:
        print(
            f"since {drift.previous.title}: {drift.added} images added, {drift.removed} removed, "
            f"{drift.moved} moved to another split"
        )


if __name__ == "__main__":
    run_step(prepare_data)
