"""Fakes of the packages wandb and mlflow: what Troika calls of them, by their signatures, noted in a list."""

from types import ModuleType
from typing import Any


def fake_wandb(calls: list[tuple[str, Any]]) -> ModuleType:
    class Run:
        def log(self, data: dict[str, Any], step: int | None = None) -> None:
            calls.append(("log", (step, data)))

        def finish(self, exit_code: int | None = None) -> None:
            calls.append(("finish", exit_code))

    class Image:
        def __init__(self, data_or_path: Any) -> None:
            self.size = data_or_path.size

    def init(name: str | None = None, config: dict[str, Any] | None = None) -> Run:
        calls.append(("init", (name, config)))
        return Run()

    module = ModuleType("wandb")
    module.__dict__.update(init=init, Image=Image)
    return module


def fake_mlflow(calls: list[tuple[str, Any]]) -> ModuleType:
    def start_run(run_id: str | None = None, run_name: str | None = None) -> None:
        calls.append(("start_run", run_name))

    def log_params(params: dict[str, Any]) -> None:
        calls.append(("log_params", params))

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        calls.append(("log_metrics", (step, metrics)))

    def log_image(image: Any, artifact_file: str | None = None) -> None:
        calls.append(("log_image", (image.size, artifact_file)))

    def end_run(status: str = "FINISHED") -> None:
        calls.append(("end_run", status))

    module = ModuleType("mlflow")
    module.__dict__.update(
        start_run=start_run, log_params=log_params, log_metrics=log_metrics, log_image=log_image, end_run=end_run
    )
    return module
