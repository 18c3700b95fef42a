"""A Slurm cluster of one node on the loopback, for the time of a test."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from backends.sshd import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
JobRequeue=1
SchedulerParameters=bf_interval=1,sched_interval=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=YES
"""


def missing() -> list[str]:
    """The programs that are not here."""
    return [name for name in PROGRAMS if not shutil.which(name, path=PATH)]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Start munged, slurmctld and slurmd; the path of slurm.conf.

    They end with the context, by their process ids.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    ports = (free_port(), free_port())
    text = CONFIG.format(folder=folder, ports=ports, user=getpass.getuser())
    config.write_text(text)
    munge = ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock"]
    munge += [f"--key-file={key}", f"--pid-file={folder}/munge.pid"]
    munge += [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    commands = [
        munge,
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-N", "localhost", "-f", str(config)],
    ]
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    started: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [end(process) for process in reversed(started)])
        for command in commands:
            with (folder / "daemons.log").open("ab") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log
                )
            started.append(process)
            time.sleep(0.5)
        for _ in range(200):
            said = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True
            )
            if said.stdout.strip() == b"idle":
                break
            time.sleep(0.1)
        else:
            raise RuntimeError((folder / "daemons.log").read_text()[-2000:])
        yield config


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
