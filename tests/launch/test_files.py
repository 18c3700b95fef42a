"""Launch files: as written, as shells and YAML read them, and what is refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from carl_bundle import TrainSpec
from carl_bundle.errors import UsageError
from carl_bundle.launch.emit import KINDS, launch_file
from carl_bundle.launch.k8s import LARGEST
from carl_bundle.launch.spec import LaunchSpec, gpus_of, launch_spec

EXPECTED = Path(__file__).parent / "expected"
TOKEN = "hf_" + "a1B2" * 9
ONE = LaunchSpec(
    name="My_run",
    script="train.py",
    text='print("⟦hello⟧")\n',
    gpus=2,
    gpu="H100",
    limit=8 * 3600,
    secrets=("HF_TOKEN", "WANDB_API_KEY"),
    run_dir="runs/My_run",
)
CASES = {
    "train.sbatch": ONE,
    "many.sbatch": replace(ONE, nodes=4, gpus=8, script="many.py"),
    "train.sky.yaml": replace(ONE, data=("rows.jsonl",)),
    "train.k8s.yaml": ONE,
    "train.Dockerfile": replace(ONE, data=("my rows.jsonl",), sandbox=True),
}
SUFFIXES = {suffix: kind for kind, (suffix, _) in KINDS.items()}


def written(name: str, spec: LaunchSpec) -> str:
    kind = SUFFIXES[name[name.index(".") :]]
    called, text = launch_file(kind, spec)
    assert called == name
    return text


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_as_expected(name: str) -> None:
    """Where it should change: read the difference, then write it there by hand."""
    found = written(name, CASES[name])
    assert found == (EXPECTED / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["train.sbatch", "many.sbatch"])
def test_a_shell_can_read_it_whatever_its_names_are(name: str) -> None:
    script = name.replace(".sbatch", ".py")
    for run_dir in ("runs/x", "a 'b' $c", '/x"y`z'):
        spec = replace(CASES[name], run_dir=run_dir, script=script, limit=None)
        text = launch_file("sbatch", spec)[1]
        done = subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        shown = "\n".join(line for line in text.splitlines() if "run_dir=" in line)
        said = subprocess.run(
            ["bash", "-c", f'{shown}\nprintf %s "$run_dir"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout == run_dir
        assert "--time" not in text


def test_the_parts_for_kubernetes_fit_each_other() -> None:
    config, claim, job = yaml.safe_load_all(written("train.k8s.yaml", ONE))
    assert config["data"] == {"train.py": ONE.text}
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one.pop("name"): one for one in pod["volumes"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["script"]["configMap"]["name"] == config["metadata"]["name"]
    claimed = volumes["runs"]["persistentVolumeClaim"]["claimName"]
    assert claimed == claim["metadata"]["name"]
    assert container["command"] == ["uv", "run", f"{mounts['script']}/train.py"]
    assert container["workingDir"] == mounts["runs"], "runs/ is kept on the volume"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert job["spec"]["activeDeadlineSeconds"] == 8 * 3600
    named = [one["name"] for one in container["env"]]
    assert named == list(ONE.secrets)
    assert not any("value" in one for one in container["env"])
    labels = [one["metadata"]["name"] for one in (config, claim, job)]
    assert labels == ["my-run-script", "my-run-runs", "my-run"]


def test_skypilot_takes_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opt-in: `pip install skypilot`, which takes half a minute to import."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sky = pytest.importorskip("sky")
    Path("train.py").touch()
    Path("train.sky.yaml").write_text(written("train.sky.yaml", ONE))
    task = sky.Task.from_yaml("train.sky.yaml")
    [resources] = task.resources
    assert resources.accelerators == {"H100": 2}
    assert task.secrets.keys() == set(ONE.secrets)


def test_kubernetes_takes_the_documents() -> None:
    """An opt-in: `pip install kubernetes-validate`, which holds the schemas."""
    validate = pytest.importorskip("kubernetes_validate").validate
    for spec in (ONE, replace(ONE, gpus=0, gpu="", limit=None, secrets=())):
        for one in yaml.safe_load_all(written("train.k8s.yaml", spec)):
            validate(one, "1.31", strict=True)


def test_a_script_too_large_for_kubernetes_is_refused() -> None:
    text = "#" * (LARGEST + 1)
    with pytest.raises(UsageError, match="1048577 bytes"):
        launch_file("k8s", replace(ONE, text=text))
    launch_file("k8s", replace(ONE, text=text[1:]))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("k8s", {"data": ("rows.jsonl",)}, "does not see rows.jsonl"),
    ("k8s", {"sandbox": True}, "no sandbox"),
    ("k8s", {"nodes": 2}, "for one machine"),
    ("sky", {"nodes": 2}, "for one machine"),
    ("docker", {"nodes": 2}, "for one machine"),
    ("sky", {"gpu": ""}, "kind of GPU"),
    ("nomad", {}, "no launch file is called 'nomad'"),
    ("k8s", {"text": f"token = '{TOKEN}'\n"}, "looks like a token"),
]


@pytest.mark.parametrize(("kind", "given", "said"), REFUSED)
def test_what_cannot_be_launched_is_refused(
    kind: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as found:
        launch_file(kind, replace(ONE, **given))
    assert found.value.remedy


def test_a_pipeline_takes_one_machine() -> None:
    with pytest.raises(UsageError, match="a pipeline has several"):
        replace(ONE, one_phase=False, nodes=2)


@pytest.mark.parametrize(
    ("text", "found"),
    [("8", (8, "")), ("0", (0, "")), ("A100-80GB:4", (4, "A100-80GB"))],
)
def test_gpus_are_a_count_and_perhaps_a_kind(text: str, found: tuple[int, str]) -> None:
    assert gpus_of(text) == found


@pytest.mark.parametrize("text", ["", "H100", "H100:", ":8", "-1", "8:H100", "1;rm"])
def test_what_names_no_gpus_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no GPUs"):
        gpus_of(text)


def test_a_spec_tells_its_secrets_its_data_and_its_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    given = {"method": "sft", "model": "builtin", "data": "rows.jsonl"}
    spec = TrainSpec.model_validate({**given, "report_to": "wandb"})
    found = launch_spec(spec, "train.py", "", gpus=0)
    assert found.data == ("rows.jsonl",)
    assert found.secrets == ("WANDB_API_KEY",)
    assert found.one_phase
    built_in = launch_spec(TrainSpec(), "train.py", "")
    assert (built_in.secrets, built_in.data, built_in.one_phase) == ((), (), False)
    frozen = {"commit": "a" * 40, "architecture": "LlamaForCausalLM"}
    hub = {"method": "sft", "model": {"id": "a/b", "frozen": frozen}}
    spec = TrainSpec.model_validate({**hub, "data": "rows.jsonl"})
    assert launch_spec(spec, "train.py", "").secrets == ("HF_TOKEN",)
