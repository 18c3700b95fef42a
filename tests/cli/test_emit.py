"""`carl bundle --emit`: launch files, beside the script or printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli.conftest import Carl

SFT = ("bundle", "--method", "sft", "--model", "builtin")


def test_a_launch_file_lies_beside_the_script(carl: Carl) -> None:
    given = (*SFT, "--emit", "sbatch", "--nodes", "2", "--gpus", "4", "--time", "90m")
    assert carl(*given, "-o", "run.py").code == 0
    assert not Path("run.py").exists()
    text = Path("run.sbatch").read_text()
    assert carl(*given).out == text.replace("run.py", "train.py").replace(
        "run.sbatch", "train.sbatch"
    )
    for line in ("--nodes=2", "--gpus-per-node=4", "--time=90"):
        assert f"#SBATCH {line}\n" in text


def test_it_carries_the_script_that_is_printed(carl: Carl) -> None:
    script = carl(*SFT).out
    documents = yaml.safe_load_all(carl(*SFT, "--emit", "k8s").out)
    assert next(documents)["data"]["train.py"] == script


def test_accelerate_is_one_of_the_kinds(carl: Carl) -> None:
    found = carl(*SFT, "--emit", "accelerate")
    assert found.code == 0
    assert found.out == carl(*SFT, "--accelerate").out
    assert "distributed_type" in found.out


def test_an_edited_file_is_not_overwritten(carl: Carl) -> None:
    given = (*SFT, "--emit", "docker", "-o", "train.py")
    assert carl(*given).code == carl(*given).code == 0
    Path("train.Dockerfile").write_text("mine")
    assert carl(*given).code == 2
    assert Path("train.Dockerfile").read_text() == "mine"
    assert carl(*given, "--force").code == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--emit", "nomad"), "no launch file is called"),
        (("--emit", "sky"), "kind of GPU"),
        (("--emit", "sbatch", "--nodes", "0"), "run nothing"),
        (("--emit", "sbatch", "--gpus", "many"), "names no GPUs"),
        (("--emit", "sbatch", "--time", "8"), "is no time"),
        (("--gpus", "8"), "for files of schedulers"),
        (("--accelerate", "--gpus", "8"), "for files of schedulers"),
        (("--emit", "sbatch", "--resolved"), "each write their own"),
        (("--emit", "sbatch", "--accelerate"), "each write their own"),
        (("--emit", "sbatch", "--check"), "each write their own"),
    ],
)
def test_what_makes_no_sense_is_refused(
    carl: Carl, given: tuple[str, ...], said: str
) -> None:
    found = carl(*SFT, *given)
    assert (found.code, found.out) == (2, "")
    assert said in found.err
    assert "fix: " in found.err
