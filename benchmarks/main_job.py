"""How long the main job takes, what of that is orchestration, and how much memory it needs.

A is `troika run` on an empty home: KFP's local runner, a process for each step, Triton, a picture. B does the same
work by plain function calls in one process. Rounds are A B A B ..., so that a change of the machine's speed meets
both. Then `troika run` once more on the same home: nothing has changed but that there is a champion now, so
`evaluate` looks again.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.machine import describe_machine, table, tree_bytes

_STAMP = re.compile(r"^(\d\d:\d\d:\d\d\.\d{3}) - INFO - (Executing task|Task) \S*?'([\w-]+)'\S*( finished)?")


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _plain_calls(given.child)
        return
    orchestrated: list[dict[str, float]] = []
    plain, again = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.rounds):
            home = Path(scratch) / str(number)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
            run = [sys.executable, "-m", "troika.cli", "run", "--home", f"{home}/a", "--output", f"{home}/output"]
            seconds, peak, text = _measure(run)
            ready = re.search(r"ready after ([\d.]+) s", text)
            assert ready
            steps = _step_seconds(home / "a" / "run.log")
            orchestrated.append(
                {"total": seconds, "peak": peak, "ready": float(ready[1]), "training": steps["train"]}
            )
            plain.append(_measure([sys.executable, "-m", "benchmarks.main_job", "--child", f"{home}/b"])[0])
            again.append(_measure(run)[0])
    _print(orchestrated, plain, again)


def _print(orchestrated: list[dict[str, float]], plain: list[float], again: list[float]) -> None:
    def row(what: str, target: str, values: list[float], unit: str) -> list[str]:
        form = "{:.2f}" if unit == "GB" or max(values) < 10 else "{:.0f}"
        middle, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
        return [what, target, f"{middle} {unit}", f"{low} to {high}"]

    total = [run["total"] for run in orchestrated]
    overhead = [100 * (a - b) / a for a, b in zip(total, plain, strict=True)]
    rows = [
        row("`make run`, nothing done before", "< 180 s", total, "s"),
        row("of which everything but training", "< 45 s", [r["total"] - r["training"] for r in orchestrated], "s"),
        row("`make run` again: only a champion is new", "< 30 s", again, "s"),
        row("peak memory of all processes (PSS)", "< 2.5 GB", [r["peak"] / 1e9 for r in orchestrated], "GB"),
        row("Triton, start to ready", "< 10 s", [r["ready"] for r in orchestrated], "s"),
        row("the same work by plain calls in one process", "", plain, "s"),
        row("orchestration: its share of `make run`", "< 15 %", overhead, "%"),
    ]
    print(f"{describe_machine()}; median of {len(total)} rounds\n")
    print(table(["what", "target", "median", "range"], rows))


def _measure(command: list[str]) -> tuple[float, float, str]:
    """Seconds, highest sum of proportional set sizes of the process tree in bytes, output."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, finished = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.25):
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    text, _ = process.communicate()
    seconds = time.monotonic() - started
    finished.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{text}")
    return seconds, peak, text


def _step_seconds(log: Path) -> dict[str, float]:
    """Step -> seconds, from the time stamps that KFP's local runner writes."""
    started: dict[str, datetime] = {}
    seconds: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        found = _STAMP.match(line)
        if not found:
            continue
        at = datetime.strptime(found[1], "%H:%M:%S.%f")  # noqa: DTZ007 - only differences are used
        name = found[3].replace("-", "_")
        if found[2] == "Executing task":
            started[name] = at
        elif found[4] and name in started:
            seconds[name] = ((at - started[name]) % timedelta(days=1)).total_seconds()
    return seconds


def _plain_calls(home: Path) -> None:
    """The whole job without KFP."""
    from components.evaluate import evaluate
    from components.export_model import export_model
    from components.find_champion import find_champion
    from components.prepare_data import prepare_data
    from components.publish_model import publish_model
    from components.release_model import release_model
    from components.step import read_sections, resolve_params
    from components.train import train
    from components.train_evaluator import train_evaluator
    from troika.pictures import grid, save_png
    from troika.releases import local
    from troika.serving.client import Client
    from troika.serving.triton import serve_release

    sections = read_sections(Path("params.yaml"))
    params = {
        step.__name__: resolve_params(step, sections[step.__name__])
        for step in (
            prepare_data,
            train,
            export_model,
            train_evaluator,
            find_champion,
            evaluate,
            release_model,
        )
    }
    remote = local.release_remote(home)
    prepare_data(home / "dataset", home / "data.html", home / "refused.json", params["prepare_data"])
    train(home / "dataset", home / "checkpoint", home / "history.jsonl", params["train"])
    export_model(home / "checkpoint", home / "bundle", params["export_model"])
    verdict, reference, report = (home / name for name in ("verdict.json", "reference.npz", "report.html"))
    evaluator, champion = home / "evaluator.onnx", home / "champion.json"
    train_evaluator(home / "dataset", evaluator, params["train_evaluator"])
    find_champion(champion, remote, "local", params["find_champion"])
    evaluate(
        home / "bundle",
        home / "dataset",
        evaluator,
        champion,
        verdict,
        reference,
        report,
        home / "m.json",
        params["evaluate"],
    )
    publish_model(home / "bundle", verdict, reference, home / "published.json", str(home / "store"))
    release_model(home / "published.json", home / "release.json", remote, "local", params["release_model"])
    with serve_release(remote, "local", home / "serving", exit_seconds=0) as server:  # noqa: SIM117
        with Client(f"127.0.0.1:{server.state.grpc_port}", model=server.state.model) as client:
            save_png(grid(client.generate(100).images, 10, 6), home / "samples.png")


if __name__ == "__main__":
    main()
