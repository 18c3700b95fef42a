"""`carl pack`: a folder that needs no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import close_session, constants

from carl_bundle.cli.app import main
from carl_bundle.packing.target import Target
from carl_runtime_min.run import sha256
from tests.fake_hub import COMMIT, FakeHub, serve
from tests.packing.wheels import make_libraries
from tests.tiny import questions

HERE = Target.here()
MODEL, ROWS = "tiny-org/tiny-model", "tiny-org/rows"


@pytest.fixture
def folder(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_libraries(wheels, HERE.minor)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(
    tiny_model_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    files = {one.name: one.read_bytes() for one in tiny_model_dir.iterdir()}
    files["README.md"] = b"---\nlicense: apache-2.0\n---\n"
    files["pytorch_model.bin"] = b"a pickle"
    rows = "".join(
        json.dumps({"prompt": one["prompt"], "completion": one["answer"]}) + "\n"
        for one in questions()
    )
    card = b"---\nlicense: cc0-1.0\n---\n"
    data = {ROWS: {"train.jsonl": rows.encode(), "README.md": card}}
    with serve(FakeHub({MODEL: files}, {ROWS}, rows=data)) as fake:
        template = f"{fake.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield fake
        close_session()


def write_spec(folder: Path, **spec: Any) -> str:
    given = {"method": "sft", "sft": {"max_steps": 1, "max_length": 96}, **spec}
    (folder / "carl.yaml").write_text(yaml.safe_dump(given))
    return "carl.yaml"


def run(pack: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        command, cwd=pack, env=environment, capture_output=True, text=True, check=False
    )


def test_every_file_is_listed_with_size_digest_and_licence(folder: Path) -> None:
    assert main(["pack", "-o", "packed"]) == 0
    pack = folder / "packed"
    manifest = json.loads((pack / "MANIFEST.json").read_text())
    listed = {one["path"]: one for one in manifest["files"]}
    there = {str(p.relative_to(pack)) for p in pack.rglob("*") if p.is_file()}
    assert there == listed.keys() | {"MANIFEST.json", "SHA256SUMS"}
    for path, one in listed.items():
        assert one["bytes"] == (pack / path).stat().st_size
        assert one["sha256"] == sha256(pack / path)
    assert manifest["target"].startswith(str(HERE))
    for wheel in manifest["wheels"]:
        assert wheel["licence"] == "MIT"
        assert wheel["path"] in listed
    assert "://" not in (pack / "train.py.lock").read_text()
    assert str(folder) not in (pack / "MANIFEST.json").read_text()


def test_verify_finds_what_was_changed_lost_or_added(folder: Path) -> None:
    assert main(["pack", "-o", "packed"]) == 0
    whole = folder / "packed"

    def code(change: str) -> tuple[int, str]:
        pack = folder / "changed"
        shutil.copytree(whole, pack)
        done = run(pack, "sh", "-c", f"{change}; ./verify.sh")
        shutil.rmtree(pack)
        return done.returncode, done.stdout + done.stderr

    assert code("true")[0] == 0
    assert sha256(whole / "SHA256SUMS") in code("true")[1]
    status, told = code("printf x >> wheels/trl-1.16.0-py3-none-any.whl")
    assert (status, "trl-1.16.0" in told) == (1, True)
    assert code("rm wheels/trl-*.whl")[0] == 1
    status, told = code("touch wheels/extra.whl")
    assert (status, "wheels/extra.whl" in told) == (1, True)
    assert code("ln -s /etc/passwd rows.jsonl")[0] == 1
    assert (
        code("mkdir -p runs/carl venv cache; touch runs/carl/x venv/y cache/z")[0] == 0
    )


SHOWN = """
import importlib.metadata as found, json, os, socket, sys
try:
    socket.create_connection(("127.0.0.1", 9), 1)
    reached = True
except OSError as error:
    reached = str(error)
versions = {one.name: one.version for one in found.distributions()}
print(json.dumps([sys.argv[1:], dict(os.environ), versions, reached]))
"""


def test_run_installs_the_wheels_and_shuts_the_network_out(folder: Path) -> None:
    assert main(["pack", "-o", "packed"]) == 0
    pack = (folder / "packed").rename(folder / "moved")
    (pack / "train.py").write_text(SHOWN)
    first = run(pack, "./run.sh", "--dry-run", PYTHONPATH="/elsewhere")
    assert first.returncode == 0, first.stderr
    arguments, variables, versions, _ = json.loads(first.stdout)
    assert arguments == ["--dry-run"]
    assert versions["torch"].startswith("2.13.0")
    assert versions["trl"] == "1.16.0"
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        assert variables[name] == "1"
    assert variables["DO_NOT_TRACK"] == "1"
    assert variables["WANDB_MODE"] == "offline"
    assert variables["HF_HUB_CACHE"] == str(pack / "hub")
    assert "PYTHONPATH" not in variables
    job = run(folder, "sh", str(pack / "job.sbatch"), SLURM_SUBMIT_DIR=str(pack))
    assert json.loads(job.stdout)[2] == versions
    shutil.rmtree(pack / "wheels")
    assert run(pack, "./run.sh").returncode == 0, "it is installed once"


def test_run_refuses_a_wheel_that_is_not_the_locked_one(folder: Path) -> None:
    assert main(["pack", "-o", "packed"]) == 0
    pack = folder / "packed"
    [wheel] = (pack / "wheels").glob("trl-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    done = run(pack, "./run.sh")
    assert done.returncode != 0
    assert "HASHES" in done.stderr
    assert not (pack / "venv" / "lock").exists()


def test_run_refuses_another_python(folder: Path, wheels: Path) -> None:
    other = 12 if HERE.minor == 11 else 11
    make_libraries(wheels, other)
    target = f"cp3{other}-linux-{HERE.machine}"
    assert main(["pack", "-o", "packed", "--target", target]) == 0
    done = run(folder / "packed", "./run.sh")
    assert done.returncode == 1
    assert f"PYTHON=/path/to/python3.{other}" in done.stderr


def test_model_and_data_of_the_hub_are_found_without_it(
    folder: Path, hub: FakeHub
) -> None:
    spec = write_spec(folder, model=MODEL, data=ROWS)
    assert main(["pack", spec, "-o", "packed"]) == 0
    pack = folder / "packed"
    snapshots = json.loads((pack / "MANIFEST.json").read_text())["snapshots"]
    assert [(o["id"], o["revision"], o["licence"]) for o in snapshots] == [
        (MODEL, COMMIT, "apache-2.0"),
        (ROWS, COMMIT, "cc0-1.0"),
    ]
    assert list(pack.rglob("*.bin")) == []
    # The libraries are those of the tests; the wheels are empty.
    asked = len(hub.requests)
    command = '. ./env.offline; exec "$PYTHON" train.py'
    done = run(pack, "sh", "-c", command, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert list(pack.glob("runs/*/model/*.safetensors"))
    assert len(hub.requests) == asked
    assert run(pack, "./verify.sh").returncode == 0, "running changes nothing packed"


def test_files_of_this_machine_keep_their_places(
    folder: Path, tiny_model_dir: Path
) -> None:
    shutil.copytree(tiny_model_dir, folder / "models" / "tiny")
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    spec = write_spec(folder, model="models/tiny", data="rows.jsonl")
    assert main(["pack", spec, "-o", "packed"]) == 0
    for name in ("rows.jsonl", "models/tiny/model.safetensors"):
        assert (folder / "packed" / name).read_bytes() == (folder / name).read_bytes()


def test_data_that_hides_another_part_of_the_pack_is_refused(
    folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (MODEL, "wheels"):
        hub.datasets.add(name)
        assert (
            main(["pack", write_spec(folder, model=MODEL, data=name), "-o", "x"]) == 2
        )
        assert f"{name} cannot be told from another part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "lost.jsonl"}, "lost.jsonl is not on this machine"),
        ({"data": "{}/rows.jsonl"}, "absolute path"),
        ({"push": {"enabled": True, "repo": "a/b"}}, "cannot push"),
        ({"dependencies": ["nowhere==1.0"]}, "nowhere"),
    ],
)
def test_what_cannot_be_packed_is_said_before_anything_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: Any, message: str
) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    if "data" in changed:
        changed = {"data": changed["data"].format(folder)}
    spec = write_spec(folder, model="builtin", **{"data": "rows.jsonl", **changed})
    assert main(["pack", spec, "-o", "packed"]) in (2, 4)
    assert message in capsys.readouterr().err
    assert not list(folder.glob("*packed*"))


def test_the_size_is_told_and_held_against_the_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pack", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert f"wheels for {HERE}" in told
    assert "together" in told
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9)
    )
    assert main(["pack", "-o", "packed"]) == 4
    assert "9 B are free" in capsys.readouterr().err
    assert not list(folder.glob("*packed*"))


def test_a_folder_in_use_is_left_alone(folder: Path) -> None:
    (folder / "packed").mkdir()
    (folder / "packed" / "mine").touch()
    assert main(["pack", "-o", "packed"]) == 2
    assert [one.name for one in (folder / "packed").iterdir()] == ["mine"]
