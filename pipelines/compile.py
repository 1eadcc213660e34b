"""Compile the pipeline: to the package that is uploaded, and to the objects that a cluster follows by Git."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from pipelines.cluster import Cluster
from pipelines.graph import PIPELINE_NAME, train_and_release
from pipelines.package import write_documents, write_package


def compile_pipeline(
    package: Path,
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    cluster: Cluster | None = None,
    light_image: str | None = None,
) -> str:
    """Write the package, a YAML file; return the version's name, which is made of its content.

    Args:
        package: file to write.
        image: the train image; give it by digest or by a tag that is never used twice, since Kubeflow's cache
            tells images apart by this text alone.
        sections: params.yaml.
        cluster: what pods get; None leaves it to the cluster.
        light_image: image of the steps that train and judge nothing, named as `image`; None: the train image.

    Raises:
        ParameterError: a value of `sections` would reach a step as another one.
    """
    write_package(package, train_and_release(image, sections, cluster, light_image))
    return version_name(package)


def version_name(package: Path) -> str:
    """`troika-train-and-release-<hash>`: the same content has the same name, and a version never changes."""
    return f"{PIPELINE_NAME}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"


def compile_manifests(
    manifests: Path,
    version: str,
    namespace: str,
    image: str,
    sections: Mapping[str, Mapping[str, Any]],
    cluster: Cluster | None = None,
    light_image: str | None = None,
) -> None:
    """Write the GitOps form: a Pipeline and a PipelineVersion, which Kubeflow's API server keeps in Kubernetes.

    Args:
        manifests: file to write.
        version: name of the version, from `compile_pipeline`.
        namespace: of both objects.
        image: see `compile_pipeline`, as for the rest.
        sections: params.yaml.
        cluster: what pods get.
        light_image: see `compile_pipeline`.
    """
    options = KubernetesManifestOptions(
        pipeline_name=PIPELINE_NAME,
        pipeline_version_name=version,
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    manifests.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(
        train_and_release(image, sections, cluster, light_image),
        package_path=str(manifests),
        kubernetes_manifest_options=options,
        kubernetes_manifest_format=True,
    )
    write_documents(manifests, list(yaml.safe_load_all(manifests.read_text(encoding="utf-8"))))
