"""A real OpenSSH server on a free port of this machine, for one key, as a Git server answers."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from containers_engine import unavailable

from troika.serving.triton_process import choose_ports

_PROGRAM = "/usr/sbin/sshd"
_PRIVILEGES = Path("/run/sshd")
"""Debian's server asks for this empty folder; its service makes it at each start."""


@dataclass(frozen=True)
class SshServer:
    """Where it answers, and what a secret holds for it."""

    url: str
    """Of this machine's root folder."""
    secret: dict[str, str]
    """Name of a file -> its text: the key that is let in, and the server's own."""


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start a server whose files lie in `folder`; it ends with the context."""
    if not Path(_PROGRAM).exists():
        unavailable("sshd is not installed (Debian package openssh-server)")
    folder.mkdir()
    (port, *_) = choose_ports((0, 0, 0))
    for name in ("server", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copyfile(folder / "client.pub", folder / "authorized_keys")
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "server", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys", "StrictModes": "no", "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    made = os.geteuid() == 0 and not _PRIVILEGES.exists()
    if made:
        _PRIVILEGES.mkdir(mode=0o755)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([_PROGRAM, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        try:
            _wait(server, port, folder / "log")
            public = (folder / "server.pub").read_text().split()[:2]
            yield SshServer(
                f"ssh://{getpass.getuser()}@127.0.0.1:{port}",
                {
                    "ssh-privatekey": (folder / "client").read_text(),
                    "known_hosts": f"[127.0.0.1]:{port} {' '.join(public)}\n",
                },
            )
        finally:
            server.terminate()
            server.wait(timeout=30)
            if made:
                _PRIVILEGES.rmdir()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
