"""Load on a server from wrk, with seeds that never repeat, and what it costs its processes; starts none."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import tree_cpu_seconds
from benchmarks.serving_graph import Shape
from benchmarks.serving_servers import body_and_headers


@dataclass(frozen=True)
class Load:
    """What is asked of every server."""

    shape: Shape
    batch: int
    clients: int

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f"{height}x{width}x{channels}, batch {self.batch}, {self.clients} clients"


@dataclass(frozen=True)
class Measured:
    """One server under one load for some seconds."""

    microseconds: float
    """Processor time of all its processes, an image."""
    images: float
    """A second."""
    p50: float
    p95: float
    p99: float
    """Milliseconds."""
    failed: int


LUA = """
local head, count, columns, again = {head}, {count}, {columns}, {again}
local number = 0
local function int64(value)
  local b0, b1 = value % 256, math.floor(value / 256) % 256
  local b2, b3 = math.floor(value / 65536) % 256, math.floor(value / 16777216) % 256
  return string.char(b0, b1, b2, b3, 0, 0, 0, 0)
end
function request()
  local seeds, labels, rows = {{}}, {{}}, {{}}
  for i = 1, count do
    if not again then number = number + 1 end
    local seed, label = int64({start} + number), int64(number % 10)
    if columns then seeds[i] = seed; labels[i] = label else rows[i] = seed .. label end
  end
  local body = columns and head .. table.concat(seeds) .. table.concat(labels) or table.concat(rows)
  return wrk.format("POST", nil, nil, body)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("\\nRESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_START = 0


def measure(
    name: str,
    pids: tuple[int, ...],
    address: str,
    path: str,
    load: Load,
    seconds: float,
    scratch: str,
    *,
    repeat: bool = False,
) -> Measured:
    """Load for some seconds, after half a second of warming up."""
    head, headers = body_and_headers(name, load.batch)
    script = Path(scratch) / "load.lua"

    def run(duration: float) -> list[int]:
        global _START  # noqa: PLW0603 - seeds never repeat in the whole benchmark
        _START = (_START + 20_000_000) % 2**30
        lines = "".join(f'wrk.headers["{key}"] = "{value}"\n' for key, value in headers.items())
        lua = LUA.format(
            head="[==[" + head.decode() + "]==]", count=load.batch, columns=str(bool(head)).lower(),
            again=str(repeat).lower(), start=_START,
        )  # fmt: skip
        script.write_text(lines + lua)
        command = ["wrk", "-t1", f"-c{load.clients}", f"-d{max(1, round(duration))}s", "--timeout", "20s"]
        said = subprocess.run(
            [*command, "-s", str(script), f"http://{address}{path}"], check=True, capture_output=True, text=True
        ).stdout
        result = re.search(r"RESULT (.*)", said)
        assert result
        return [int(value) for value in result[1].split()]

    run(1)
    before = sum(sum(tree_cpu_seconds(pid).values()) for pid in pids)
    requests, microseconds, p50, p95, p99, failed = run(seconds)
    used = sum(sum(tree_cpu_seconds(pid).values()) for pid in pids) - before
    images = max(1, requests * load.batch)
    return Measured(used / images * 1e6, images / (microseconds / 1e6), p50 / 1e3, p95 / 1e3, p99 / 1e3, failed)
