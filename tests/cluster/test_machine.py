"""The machine inside this one: what it shares with it, and that nothing of it stays, however a test run ends."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from binaries import STATE, missing_on_node, unavailable
from machine import OUTSIDE_ADDRESS, Machine, clean, wait_for
from whole import Cluster

SETTINGS = {
    path: path.read_text()
    for path in map(
        Path, ("/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic", "/proc/sys/net/ipv4/ip_forward")
    )
    if path.exists()
}
# A test run that starts something and is then killed.
_OWNER = """
import sys
sys.path[:0] = sys.argv[1:]
from machine import Machine
with Machine() as machine:
    machine.run("ip", "netns", "add", "pod")
    machine.run("mount", "-t", "tmpfs", "tmpfs", machine.folder / "mounted", check=False)
    process = machine.start("sleep", "setsid", "sleep", "1234")
    print(machine.folder, machine._inside, flush=True)
    process.wait()
"""


@pytest.fixture
def here() -> None:
    if os.geteuid() != 0 or missing_on_node():
        unavailable(f"no machine can be made here: root, and {' '.join(missing_on_node())}")


def cgroups(folder: Path) -> list[Path]:
    found = Path("/sys/fs/cgroup")
    return [*found.glob(f"troika-cluster-{folder.name}"), *found.glob(f"*/troika-cluster-{folder.name}")]


def processes(first: int) -> list[int]:
    """Return those that live in the namespace of processes whose first is this one."""
    space = Path(f"/proc/{first}/ns/pid").readlink()
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if path.readlink() == space:
                found.append(int(path.parts[2]))
        except OSError:
            continue
    return found


def reaches(machine: Machine, address: str, port: str) -> bool:
    command = ("busybox", "nc", "-w", "2", address, port, "-e", "/bin/true")
    return machine.run(*command, check=False).returncode == 0


@pytest.mark.usefixtures("here")
def test_a_killed_run_leaves_no_process_and_the_next_run_removes_the_rest() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(Path(__file__).parent), str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        try:
            assert owner.stdout is not None
            folder, first = owner.stdout.readline().split()
            wait_for(lambda: len(processes(int(first))) >= 2, 60, "process inside")
            inside = processes(int(first))
            assert cgroups(Path(folder))
            # What runs is left alone by others.
            clean()
            assert Path(folder).is_dir()
        finally:
            owner.kill()
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in inside), 60, "end of all processes")
    assert Path(folder).is_dir()
    clean()
    assert not Path(folder).exists()
    assert not cgroups(Path(folder))


@pytest.mark.usefixtures("here")
def test_two_live_side_by_side_and_reach_nothing_of_this_machine() -> None:
    before = {path.name for path in (STATE / "runs").glob("*")}
    with Machine() as one, Machine() as two, socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104
        port = str(server.getsockname()[1])
        own = subprocess.run(["ip", "-4", "-o", "addr"], check=True, capture_output=True, text=True).stdout.split()
        addresses = {each.split("/")[0] for each in own if "/" in each and each[0].isdigit()}
        assert "127.0.0.1" in addresses
        for machine in (one, two):
            for address in addresses:
                assert not reaches(machine, address, port), address
            # The way between its own two networks is there.
            listening = machine.start(
                "listener", "busybox", "nc", "-ll", "-p", "443", "-e", "/bin/true", network="outside"
            )
            wait_for(functools.partial(reaches, machine, OUTSIDE_ADDRESS, "443"), 30, "outside")
            assert listening.poll() is None
        folders = [one.folder, two.folder]
    assert {path.name for path in (STATE / "runs").glob("*")} - before == set()
    assert not any(cgroups(folder) for folder in folders)


def test_the_kubelet_changes_no_setting_of_this_machine(cluster: Cluster) -> None:
    if cluster.machine is None:
        pytest.skip("the cluster was not started here")
    assert cluster.machine.run("cat", "/proc/sys/vm/overcommit_memory").stdout.strip() == "1"
    assert {path: path.read_text() for path in SETTINGS} == SETTINGS
    assert cluster.machine.has_ended() == []
