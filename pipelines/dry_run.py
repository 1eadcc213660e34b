"""The whole job without its work: data are read and checked, and what training would need is printed."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.prepare_data import prepare_data
from components.step import resolve_params
from components.train import dry_run, train


def run_dry(sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Nothing is trained, judged or released, and nothing is left behind.

    Raises:
        TroikaError: the data or the parameters of these two steps are not right.
    """
    with tempfile.TemporaryDirectory(prefix="troika-dry-run-") as scratch:
        home = Path(scratch)
        data = resolve_params(prepare_data, sections["prepare_data"])
        prepare_data(home / "dataset", home / "report.html", home / "refused.json", data)
        dry_run(home / "dataset", resolve_params(train, sections["train"]))
