"""An SSH server on the loopback, with keys of its own, for the time of a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
SetEnv HOME={folder}/home
"""


@dataclass
class Server:
    """Where it listens, and the options by which `ssh` reaches it."""

    folder: Path
    port: int

    @property
    def options(self) -> list[str]:
        """For `ssh`: the port, our key, and its key as the only known one."""
        given = {
            "IdentityFile": self.folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        pairs = [
            word for name, value in given.items() for word in ("-o", f"{name}={value}")
        ]
        return ["-F", "none", "-p", str(self.port), *pairs]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def make_key(path: Path) -> str:
    """A new key pair; the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start a server; it ends with the context, by its process id."""
    assert SSHD is not None
    server = Server(folder, free_port())
    (folder / "home").mkdir(parents=True)
    key = make_key(folder / "host")
    make_key(folder / "user")
    (folder / "known").write_text(f"[127.0.0.1]:{server.port} {key}")
    config = folder / "sshd_config"
    config.write_text(CONFIG.format(port=server.port, folder=folder))
    with contextlib.suppress(OSError):
        Path("/run/sshd").mkdir(exist_ok=True)  # where it confines what it distrusts
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(config)], stderr=(folder / "sshd.log").open("wb")
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                break
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait()
