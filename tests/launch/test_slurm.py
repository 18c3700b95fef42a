"""The batch script on a real cluster of one node, whose GPUs are only counted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from backends import slurm

from carl_bundle.launch.emit import launch_file
from carl_bundle.launch.spec import LaunchSpec

pytestmark = pytest.mark.xdist_group("slurm")

HEAD = """\
import json, os, pathlib, signal, sys, time
run = pathlib.Path("runs/x")
run.mkdir(parents=True, exist_ok=True)
def end(code):
    (run / "exit.json").write_text(json.dumps({"code": code, "phase": "sft"}, indent=2))
    sys.exit(code)
"""
CHECKPOINTS = f"""{HEAD}
terms = []
signal.signal(signal.SIGTERM, lambda *_: terms.append(1))
if (run / "stop").exists():
    (run / "stop").unlink()
    print("goes on", os.environ["GIVEN"], os.environ.get("HF_TOKEN"), flush=True)
    end(0)
print("begins", flush=True)
while not (run / "stop").exists() and not terms:
    time.sleep(0.05)
time.sleep(1)
print("terms", len(terms), flush=True)
end(85)
"""
SPEC = LaunchSpec(
    name="x", script="train.py", text="", gpus=0, limit=300, run_dir="runs/x"
)


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if found := slurm.missing():
        pytest.skip(f"Slurm is not here: {', '.join(found)}")
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as config:
        yield config


Sbatch = Callable[..., str]


@pytest.fixture
def sbatch(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sbatch:
    """Write the files of a job, and hand it to `sbatch`: what that says."""
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("PATH", slurm.PATH)
    monkeypatch.chdir(tmp_path)
    Path("carl.env").write_text(f"PYTHON={sys.executable}\nGIVEN='a b'\n")

    def run(spec: LaunchSpec, script: str, *options: str) -> str:
        Path("train.py").write_text(script)
        name, text = launch_file("sbatch", spec)
        Path(name).write_text(text)
        done = subprocess.run(
            ["sbatch", *options, name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip() or done.stderr

    return run


def until(good: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end, log() + state()
        time.sleep(0.1)


def log() -> str:
    return "".join(path.read_text() for path in sorted(Path().glob("x-*.log")))


def state(job: str = "") -> str:
    """What Slurm says of a job, or of all."""
    command = ["squeue", "--noheader", "--states=all", "--format=%T"]
    command += [f"--jobs={job}"] * bool(job)
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_slurm_accepts_it(sbatch: Sbatch) -> None:
    assert "to start at" in sbatch(SPEC, "", "--test-only")
    assert "to start at" in sbatch(replace(SPEC, limit=None), "", "--test-only")


def test_before_its_limit_it_checkpoints_and_goes_on(
    sbatch: Sbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm tells it 90 s before; no need to wait."""
    monkeypatch.setenv("HF_TOKEN", "from the shell")
    job = sbatch(SPEC, CHECKPOINTS, "--parsable")
    until(lambda: log() == "begins\n")
    subprocess.run(["scancel", "--signal=USR1", "--batch", job], check=True)
    until(lambda: state(job) == "PENDING")
    assert log().startswith("begins\nterms 0\n")
    command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
    subprocess.run(command, check=True)
    until(lambda: state(job) == "COMPLETED", 180)
    assert log().endswith("goes on a b None\n")


def test_a_cancelled_job_is_told_once_and_stays_away(sbatch: Sbatch) -> None:
    job = sbatch(SPEC, CHECKPOINTS, "--parsable")
    until(lambda: log() == "begins\n")
    subprocess.run(["scancel", job], check=True)
    until(lambda: "terms" in log())
    assert "terms 1\n" in log()
    until(lambda: state(job) == "CANCELLED")


@pytest.mark.parametrize("code", [0, 1, 85])
def test_its_exit_code_is_that_of_the_script(sbatch: Sbatch, code: int) -> None:
    """Unasked, code 85 is no reason to go on: it would be done again and again."""
    job = sbatch(SPEC, f"{HEAD}end({code})", "--parsable")
    until(lambda: state(job) in ("COMPLETED", "FAILED"))
    shown = ["scontrol", "show", "job", job]
    said = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert f"ExitCode={code}:0" in said


def test_an_interpreter_without_libraries_is_told(sbatch: Sbatch) -> None:
    """As uv finds one where no environment was made."""
    Path("carl.env").write_text("PYTHON=/usr/bin/false\n")
    job = sbatch(SPEC, CHECKPOINTS, "--parsable")
    until(lambda: state(job) == "FAILED")
    assert log().startswith("error: /usr/bin/false has no torch\n  fix: uv sync")


def test_gpus_and_nodes_are_asked_for_as_slurm_takes_them(sbatch: Sbatch) -> None:
    """This cluster has none of them: that is what it has to say, and nothing else."""
    for spec in (replace(SPEC, gpus=8, gpu="h100"), replace(SPEC, nodes=3)):
        name, text = launch_file("sbatch", spec)
        Path(name).write_text(text)
        command = ["sbatch", "--test-only", name]
        said = subprocess.run(command, capture_output=True, text=True).stderr
        told = "gres" if spec.gpus else "More processors requested|node"
        assert any(word in said.lower() for word in told.lower().split("|")), said
        assert "unrecognized" not in said
