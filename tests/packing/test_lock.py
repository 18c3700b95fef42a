"""`carl bundle --lock`: what is written beside a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carl_bundle.cli.app import main
from carl_bundle.packing.lock import HEAD
from carl_runtime_min.entry import against_lock
from carl_runtime_min.run import sha256
from tests.packing.wheels import make_libraries

TARGET = ("--target", "cp312-linux-x86_64-cu130")


@pytest.fixture
def folder(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_libraries(wheels, 11, 12)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_lock_pins_digests_and_names_no_place(folder: Path) -> None:
    assert main(["bundle", "-o", "train.py", "--lock", *TARGET]) == 0
    text = (folder / "train.py.lock").read_text()
    lines = text.splitlines()
    assert lines[0] == HEAD
    assert "# target: cp312-linux-x86_64-cu130, glibc 2.28 or later" in lines
    assert "# torch: 2.13.0, built for cu130" in lines
    assert "://" not in text
    assert str(folder) not in text
    pins = dict(line.split(" --hash=sha256:") for line in lines if line[0] != "#")
    for pin, digest in pins.items():
        name, _, version = pin.replace("-", "_").partition("==")
        made = (folder / "all-wheels").glob(f"{name}-{version}-*.whl")
        assert digest in map(sha256, made)
    assert {"torch==2.13.0", "cuda-toolkit==13.0.3", "trl==1.16.0"} <= pins.keys()


def test_the_sidecar_binds_script_spec_lock_and_data(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    given = ["bundle", "--method", "sft", "--dataset", "rows.jsonl", "-o", "train.py"]
    assert main([*given, "--lock", *TARGET]) == 0
    script = folder / "train.py"
    found = json.loads((folder / "train.py.provenance.json").read_text())
    assert found["script_sha256"] == sha256(script)
    assert found["spec_sha256"] in script.read_text()
    assert found["lock_sha256"] == sha256(folder / "train.py.lock")
    assert found["targets"] == ["cp312-linux-x86_64-cu130"]
    [rows] = found["data"]
    assert rows["sha256"] == sha256(folder / "rows.jsonl")


def test_equal_inputs_give_equal_bytes(folder: Path) -> None:
    names = ("train.py", "train.py.lock", "train.py.provenance.json")

    def written() -> list[bytes]:
        assert main(["bundle", "-o", "train.py", "--lock", *TARGET]) == 0
        return [(folder / name).read_bytes() for name in names]

    assert written() == written()


def test_a_lock_of_another_tool_is_left_alone(folder: Path) -> None:
    other = folder / "train.py.lock"
    other.write_text("version = 1\n")
    given = ["bundle", "-o", "train.py", "--lock", *TARGET]
    assert main(given) == 2
    assert other.read_text() == "version = 1\n"
    assert not (folder / "train.py").exists()
    assert main([*given, "--force"]) == 0
    assert other.read_text().startswith(HEAD)


def test_a_lock_needs_a_file_to_lie_beside(folder: Path) -> None:
    assert main(["bundle", "--lock"]) == 2


def test_nothing_is_written_if_there_is_no_lock(folder: Path) -> None:
    assert main(["bundle", "-o", "x.py", "--lock", "--target", "cp313-linux-x86_64"])
    assert list(folder.glob("x.py*")) == []


def test_a_script_compares_what_is_installed_with_such_a_lock(folder: Path) -> None:
    assert main(["bundle", "-o", "train.py", "--lock", *TARGET]) == 0
    lock = folder / "train.py.lock"
    pins = [one.split()[0] for one in lock.read_text().splitlines() if one[0] != "#"]
    installed = dict(pin.split("==") for pin in pins)
    installed["Cuda.Toolkit"] = installed.pop("cuda-toolkit")
    installed["pip"] = "26.0"
    good = {"sha256": sha256(lock), "matched": True, "differs": []}
    assert against_lock(lock, installed) == good
    found = against_lock(lock, installed | {"trl": "1.0"})
    assert found == {**good, "matched": False, "differs": ["trl==1.16.0"]}
