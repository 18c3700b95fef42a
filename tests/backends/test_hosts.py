"""Jobs on this machine and over SSH: the same runner, the same answers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backends.conftest import ended, running, until
from backends.sshd import Server, make_key
from carl_bundle.backends import hosts
from carl_bundle.backends.hosts import HostBackend, Ssh
from carl_bundle.backends.protocol import Job, State
from carl_bundle.errors import (
    CarlError,
    ConfigurationError,
    RemoteError,
    UsageError,
)

SECRET = "correct horse 'battery\" staple"


def shell(text: str, key: str = "one", **given: object) -> Job:
    """A job that runs a shell script."""
    job = Job(key, {"job.sh": text.encode()}, ("sh", "job.sh"))
    return replace(job, **given)  # type: ignore[arg-type]


def folder_of(host: HostBackend, key: str = "one") -> Path:
    return Path(host.root) / key


def whole_log(host: HostBackend, key: str = "one") -> str:
    return host.log(key, 0).decode()


def test_a_job_runs_to_its_end_and_brings_home_what_it_made(
    host: HostBackend, tmp_path: Path
) -> None:
    text = "mkdir -p runs/x; printf made > runs/x/file; echo hello; echo bad >&2"
    ref = host.submit(shell(text))
    said = ended(host, ref)
    assert (said.state, said.exit_code) == (State.SUCCEEDED, 0)
    assert said.seconds is not None
    assert whole_log(host) == "hello\nbad\n"
    assert host.log(ref, 6) == b"bad\n"
    assert host.log(ref, 0, 5) == b"hello"
    assert host.fetch(ref, tmp_path / "home") == ["runs/x/file"]
    assert (tmp_path / "home" / "runs" / "x" / "file").read_text() == "made"


@pytest.mark.parametrize(
    ("code", "state"),
    [(1, State.FAILED), (70, State.FAILED), (85, State.PREEMPTED), (3, State.FAILED)],
)
def test_an_exit_code_says_how_it_ended(
    host: HostBackend, code: int, state: State
) -> None:
    said = ended(host, host.submit(shell(f"exit {code}")))
    assert (said.state, said.exit_code) == (state, code)
    assert said.is_resumable == (code == 85)


def test_what_cannot_be_started_says_why(host: HostBackend) -> None:
    said = ended(host, host.submit(Job("one", {}, ("no-such-program",))))
    assert (said.state, said.exit_code) == (State.FAILED, 127)
    assert "no-such-program" in whole_log(host)


def test_a_second_submission_of_the_same_job_starts_no_second_one(
    host: HostBackend,
) -> None:
    job = shell("echo begun; sleep 1; echo done")
    threads = [threading.Thread(target=host.submit, args=(job,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended(host, "one").state is State.SUCCEEDED
    host.submit(job)
    assert ended(host, "one").state is State.SUCCEEDED
    assert whole_log(host) == "begun\ndone\n"
    assert list(host.list()) == ["one"]


GRANDCHILD = "sleep 300 & echo $! > child; wait"


def test_a_stop_is_asked_for_first_and_enforced_after_the_grace(
    host: HostBackend,
) -> None:
    trap = "trap 'echo asked' TERM; " + GRANDCHILD + "; sleep 300 & wait"
    ref = host.submit(shell(trap))
    running(host, ref)
    until(host, ref, lambda _: (folder_of(host) / "work" / "child").exists())
    host.stop(ref, 0.5)
    host.stop(ref, 0.5)
    said = ended(host, ref)
    assert said.state is State.STOPPED
    assert whole_log(host) == "asked\n"
    child = int((folder_of(host) / "work" / "child").read_text())
    assert not psutil.pid_exists(child) or gone(child)


def gone(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_stop_that_checkpoints_can_be_resumed_where_it_was(
    host: HostBackend,
) -> None:
    text = (
        "if [ -f checkpoint ]; then echo; echo $TOKEN; echo goes on; exit 0; fi\n"
        "trap 'touch checkpoint; exit 85' TERM\n"
        "echo begins; while true; do sleep 0.05; done"
    )
    ref = host.submit(shell(text))
    until(host, ref, lambda _: whole_log(host) == "begins\n")
    host.stop(ref, 20)
    said = ended(host, ref)
    assert (said.state, said.exit_code) == (State.STOPPED, 85)
    assert said.log_size == len(whole_log(host))
    host.restart(ref, {"TOKEN": SECRET})
    assert ended(host, ref).state is State.SUCCEEDED
    assert whole_log(host).startswith("begins\n")
    assert whole_log(host).endswith("\n***\ngoes on\n")


def test_the_host_keeps_the_time_limit(host: HostBackend) -> None:
    ref = host.submit(shell("sleep 300", limit=0.5, grace=5))
    said = ended(host, ref)
    assert (said.state, said.exit_code) == (State.TIMEOUT, 124)


def test_a_runner_that_was_killed_leaves_no_process_and_says_lost(
    host: HostBackend,
) -> None:
    ref = host.submit(shell("echo $PPID > watcher; exec sleep 300"))
    running(host, ref)
    path = folder_of(host) / "work" / "watcher"
    until(host, ref, lambda _: path.exists() and path.read_text() != "")
    os.kill(int(path.read_text()), signal.SIGKILL)
    said = ended(host, ref)
    assert said.state is State.LOST
    assert "runner" in said.reason
    host.restart(ref, {})
    running(host, ref)
    host.stop(ref, 0)
    assert ended(host, ref).state is State.STOPPED


def test_a_folder_that_nobody_runs_is_started_when_it_is_asked_for(
    host: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client leaves it that was cut off between two steps."""
    job = shell("echo late")
    with monkeypatch.context() as patch:
        boot = hosts.RUNNER.read_text().replace("return watched(folder)", "return {}")
        cut = folder_of(host).parent.parent / "runner.py"
        cut.write_text(boot)
        patch.setattr(hosts, "RUNNER", cut)
        if host.name == "local":
            from carl_bundle.backends import runner

            patch.setattr(runner, "watched", lambda folder: {})
        host.submit(job)
    (folder_of(host) / "runner.py").write_bytes(hosts.RUNNER.read_bytes())
    assert ended(host, "one").state is State.SUCCEEDED
    assert whole_log(host) == "late\n"


def test_a_job_that_is_not_there_is_lost(host: HostBackend) -> None:
    assert host.find("nothing") is None
    assert host.status("nothing").state is State.LOST
    assert host.log("nothing", 0) == b""
    assert host.list() == {}


PRINTS_SECRETS = """
import os, sys, time
value = os.environ["TOKEN"]
print("all", value)
sys.stdout.write(value[:9]); sys.stdout.flush(); time.sleep(0.3); print(value[9:])
print(value * 3, end="")
"""


def test_a_secret_reaches_the_script_and_nothing_else(
    host: HostBackend, tmp_path: Path
) -> None:
    job = Job(
        "one",
        {"job.py": PRINTS_SECRETS.encode()},
        (sys.executable, "job.py"),
        secrets={"TOKEN": SECRET},
    )
    assert SECRET not in repr(job)
    assert SECRET not in str(host.plan(job))
    assert ended(host, host.submit(job)).state is State.SUCCEEDED
    assert whole_log(host) == "all ***\n***\n*********"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_data_is_found_at_the_path_the_script_names(
    host: HostBackend, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    job = shell("cat data/rows.jsonl", files={}, links={"data/rows.jsonl": str(rows)})
    sent = {"job.sh": b"cat data/rows.jsonl", "data/rows.jsonl": rows}
    for key, files, links in (
        ("a", {"job.sh": sent["job.sh"]}, job.links),
        ("b", sent, {}),
    ):
        ended(host, host.submit(replace(job, key=key, files=files, links=links)))
        assert whole_log(host, key) == "{}"


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../../out"])
def test_no_file_is_put_outside_of_the_folder(host: HostBackend, name: str) -> None:
    with pytest.raises(UsageError, match="no place in a job's folder"):
        host.submit(replace(shell("true"), files={name: b"x"}))
    assert host.list() == {}


def test_a_host_whose_key_is_another_one_is_refused(
    sshd: Server, tmp_path: Path
) -> None:
    other = tmp_path / "known"
    other.write_text(f"[127.0.0.1]:{sshd.port} {make_key(tmp_path / 'other')}")
    options = ["-o", f"UserKnownHostsFile={other}", *sshd.options]
    host = HostBackend(Ssh("127.0.0.1", options), str(tmp_path / "jobs"))
    with pytest.raises(ConfigurationError, match="Host key verification failed") as no:
        host.status("one")
    assert "ssh 127.0.0.1" in no.value.remedy
    assert no.value.exit_code == 4


def test_a_host_that_is_not_there_is_a_remote_error(tmp_path: Path) -> None:
    host = HostBackend(Ssh("127.0.0.1", ["-F", "none", "-p", "1"]), str(tmp_path))
    with pytest.raises(RemoteError, match="Connection refused") as no:
        host.status("one")
    assert no.value.exit_code == 5


def cut_after(count: int) -> Callable[..., None]:
    """A transport's `run` whose payload ends too soon."""
    run = Ssh.run

    def cut(self: Ssh, arguments: list[str], payload: object, out: object) -> None:
        import io

        data = payload.read() if payload else b""  # type: ignore[attr-defined]
        run(self, arguments, io.BytesIO(data[:count]), out)  # type: ignore[arg-type]

    return cut


def test_half_a_submission_leaves_nothing_and_a_whole_one_follows(
    sshd: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostBackend(Ssh("127.0.0.1", sshd.options), str(tmp_path / "jobs"))
    with monkeypatch.context() as patch:
        patch.setattr(Ssh, "run", cut_after(1000))
        with pytest.raises(CarlError, match="bytes came"):
            host.submit(shell("echo once"))
    assert list((tmp_path / "jobs").iterdir()) == []
    assert ended(host, host.submit(shell("echo once"))).state is State.SUCCEEDED
    assert whole_log(host) == "once\n"
