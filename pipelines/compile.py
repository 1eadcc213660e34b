"""Compile the pipeline to the package that is uploaded to Kubeflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler

from pipelines.graph import train_and_release


def compile_pipeline(package: Path, image: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the package, a YAML file.

    Args:
        package: file to write.
        image: the train image; give it by digest or by a tag that is never used twice, since Kubeflow's cache
            tells images apart by this text alone.
        sections: params.yaml.
    """
    package.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(train_and_release(image, sections), package_path=str(package))
