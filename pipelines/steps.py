"""Kubeflow wrappers: each hands paths and parameters to the step of the same name, and nothing more.

KFP copies the source of each function into the compiled package, so a wrapper imports what it needs inside, from
the image. `params` is the step's whole section of params.yaml as it was when the pipeline was compiled; the typed
arguments after it come from the run form and are laid over it, `overrides` last.
"""
# ruff: noqa: PLC0415

from kfp import dsl


def prepare_data(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    source: str,
    data_path: str,
    dvc_repo: str,
    dvc_rev: str,
    data_version: str,
    dataset: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    refused: dsl.Output[dsl.Artifact],
) -> None:
    """Read, check and split images."""
    import json
    from pathlib import Path

    from components.prepare_data import prepare_data as step
    from components.step import clear_errors, resolve_params

    form = {
        "source": source,
        "path": data_path,
        "dvc": {"repo": dvc_repo, "rev": dvc_rev},
        "version": data_version,
    }
    with clear_errors():
        step(
            dataset=Path(dataset.path),
            report=Path(report.path),
            refused=Path(refused.path),
            params=resolve_params(step, params, form, overrides=overrides),
        )
    info = json.loads(Path(dataset.path, "dataset.json").read_text())
    dataset.metadata.update(
        content_hash=info["content_hash"],
        counts=info["counts"],
        source=info["source"],
        revision=info["origin"]["commit"] or "",
    )


def train(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    framework: str,
    preset: str,
    steps: int,
    seed: int,
    dataset: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
    log: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Fit the chosen generative model."""
    import os
    from pathlib import Path

    from components.step import clear_errors, resolve_params
    from components.train import train as step

    form = {"framework": framework, "preset": preset, "steps": steps, "seed": seed}
    state = os.environ.get("TROIKA_TRAINING_STATE")
    with clear_errors():
        step(
            dataset=Path(dataset.path),
            checkpoint=Path(checkpoint.path),
            history=Path(history.path),
            log=Path(log.path),
            report=Path(report.path),
            params=resolve_params(step, params, form, overrides=overrides),
            state=Path(state) if state else None,
        )
    checkpoint.metadata.update(framework=framework, preset=preset, steps=steps, seed=seed)


def export_model(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    model_name: str,
    checkpoint: dsl.Input[dsl.Model],
    bundle: dsl.Output[dsl.Model],
    card: dsl.Output[dsl.Markdown],
) -> None:
    """Turn a checkpoint into the bundle that is judged and served; the UI shows its model card."""
    import shutil
    from pathlib import Path

    from components.export_model import export_model as step
    from components.step import clear_errors, resolve_params

    with clear_errors():
        digest = step(
            checkpoint=Path(checkpoint.path),
            bundle=Path(bundle.path),
            params=resolve_params(step, params, {"model_name": model_name}, overrides=overrides),
        )
    bundle.metadata.update(digest=digest)
    shutil.copyfile(Path(bundle.path, "model_card.md"), card.path)


def train_evaluator(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    dataset: dsl.Input[dsl.Dataset],
    evaluator: dsl.Output[dsl.Model],
) -> None:
    """Train the classifier whose features judge every model of this dataset."""
    from pathlib import Path

    from components.step import clear_errors, resolve_params
    from components.train_evaluator import train_evaluator as step

    with clear_errors():
        step(
            dataset=Path(dataset.path),
            evaluator=Path(evaluator.path),
            params=resolve_params(step, params, overrides=overrides),
        )


def find_champion(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    remote: str,
    environment: str,
) -> str:
    """Which model is released; as text, so that evaluate is cached as long as the answer is the same."""
    import tempfile
    from pathlib import Path

    from components.find_champion import find_champion as step
    from components.step import clear_errors, resolve_params

    with tempfile.TemporaryDirectory() as scratch, clear_errors():
        champion = Path(scratch, "champion.json")
        step(
            champion=champion,
            remote=remote,
            environment=environment,
            params=resolve_params(step, params, overrides=overrides),
        )
        return champion.read_text(encoding="utf-8")


def evaluate(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    champion_must: str,
    label_agreement_margin: float,
    frechet_distance_margin: float,
    champion: str,
    bundle: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    evaluator: dsl.Input[dsl.Model],
    verdict: dsl.Output[dsl.Artifact],
    reference: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Judge the exported bundle; the answer is the decision."""
    import json
    import tempfile
    from pathlib import Path

    from components.evaluate import evaluate as step
    from components.step import clear_errors, resolve_params

    margins = {
        "label_agreement": {"below_floor": label_agreement_margin},
        "frechet_distance": {"above_floor": frechet_distance_margin},
    }
    # Negative: the parameter file has a limit of another kind.
    limits = {name: limit for name, limit in margins.items() if min(limit.values()) >= 0}
    form = {"champion": {"must": champion_must}, "limits": limits}
    with tempfile.TemporaryDirectory() as scratch, clear_errors():
        found = Path(scratch, "champion.json")
        found.write_text(champion, encoding="utf-8")
        decided: str = step(
            bundle=Path(bundle.path),
            dataset=Path(dataset.path),
            evaluator=Path(evaluator.path),
            champion=found,
            verdict=Path(verdict.path),
            reference=Path(reference.path),
            report=Path(report.path),
            metrics=Path(metrics.path),
            params=resolve_params(step, params, form, overrides=overrides),
        )
    for name, value in json.loads(Path(metrics.path).read_text()).items():
        metrics.log_metric(name, float(value))
    return decided


def publish_model(
    store: str,
    bundle: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Artifact],
    published: dsl.Output[dsl.Artifact],
) -> None:
    """Copy an approved bundle into the model store."""
    from pathlib import Path

    from components.publish_model import publish_model as step
    from components.step import clear_errors

    with clear_errors():
        step(
            bundle=Path(bundle.path),
            verdict=Path(verdict.path),
            reference=Path(reference.path),
            published=Path(published.path),
            store=store,
        )


def release_model(
    params: dict,  # type: ignore[type-arg]
    overrides: dict,  # type: ignore[type-arg]
    remote: str,
    environment: str,
    published: dsl.Input[dsl.Artifact],
    release: dsl.Output[dsl.Artifact],
) -> None:
    """Point Git at the published model."""
    from pathlib import Path

    from components.release_model import release_model as step
    from components.step import clear_errors, resolve_params

    with clear_errors():
        step(
            published=Path(published.path),
            release=Path(release.path),
            remote=remote,
            environment=environment,
            params=resolve_params(step, params, overrides=overrides),
        )
