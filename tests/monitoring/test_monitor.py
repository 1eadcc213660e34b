"""What `make monitor` does: real Prometheus and probe beside a server, which they follow when it starts anew."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from promtool import RULES, program
from quick import REPOSITORY, plain_environment
from waiting import wait_until
from worlds import World

from troika.errors import PortInUseError, ServerError
from troika.monitor import Prometheus, monitor
from troika.serving.triton import TritonServer, read_state


def test_a_server_is_watched_and_followed_until_the_end(world: World, tmp_path: Path) -> None:
    program("prometheus")
    state_file, said, stopped = tmp_path / "server.json", list[str](), threading.Event()
    arguments = (state_file, str(world.remote), "test", RULES, tmp_path / "monitor", said.append, stopped)
    with TritonServer(world.bundle.folder, exit_seconds=0, state_file=state_file) as server:
        watching = threading.Thread(target=monitor, args=arguments, kwargs={"interval": 1.0})
        watching.start()
        wait_until(lambda: any("Ctrl-C stops it" in line for line in said))
        first = server.state.metrics_port
        assert (tmp_path / "monitor" / "triton.json").read_text() == f'[{{"targets": ["127.0.0.1:{first}"]}}]\n'
    # It is not forgotten while it is gone: that is when it must be watched.
    assert read_state(state_file) is None
    time.sleep(1.5)
    assert watching.is_alive()
    with TritonServer(world.bundle.folder, exit_seconds=0, state_file=state_file) as server:
        wait_until(lambda: any("follows the server to its new ports" in line for line in said))
        text = (tmp_path / "monitor" / "triton.json").read_text()
        assert str(server.state.metrics_port) in text
        stopped.set()
        watching.join(60)
    assert not watching.is_alive()
    assert any(line.startswith("Prometheus  http://127.0.0.1:") for line in said)


def test_without_a_server_or_prometheus_it_says_what_to_do(tmp_path: Path) -> None:
    def command(*arguments: str, path: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "troika.cli", "monitor", "--home", str(tmp_path), *arguments],
            cwd=REPOSITORY, env={**plain_environment(), "PATH": path}, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        return done.stderr

    assert "start `make serve` in another terminal first" in command(path=os.environ["PATH"])
    with pytest.raises(ServerError, match=r"prometheus is not installed: .*`apt-get install prometheus`"):
        Prometheus(tmp_path, [], {}, program=tmp_path / "prometheus")


def test_a_taken_port_and_a_broken_rule_are_told(tmp_path: Path) -> None:
    import socket

    program("prometheus")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(PortInUseError, match="cannot be opened"):
            Prometheus(tmp_path, [], {}, port=holder.getsockname()[1])
    rule = tmp_path / "rule.yml"
    rule.write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum('}]}]\n")
    with pytest.raises(ServerError, match="Prometheus does not start"), Prometheus(tmp_path / "p", [rule], {}):
        pass
