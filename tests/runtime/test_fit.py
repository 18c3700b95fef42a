"""A phase from start to result, through stops, crashes and resumes."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_runtime_min import fit as fit_module
from carl_runtime_min.cascade import Cascade
from carl_runtime_min.errors import CarlError
from carl_runtime_min.fit import fit, head_width, training_arguments
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.grpo import CoherentGRPO, ReusedScores
from carl_runtime_min.run import COMPLETE, complete_checkpoints, read_json
from tests import tiny, trainers
from tests.trainers import Asked, Crash, run_dir

SETTINGS = {"keep": 2, "result": "model"}
TIMES = ("runtime", "per_second", "step_time")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What each optimizer step logged, without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    return [
        {k: v for k, v in row.items() if not any(word in k for word in TIMES)}
        for row in rows
    ]


def fit_grpo(
    folder: Path,
    mixin: type = CoherentGRPO,
    stop: Any = None,
    crash: int = -1,
    **given: Any,
) -> tuple[bool, Any]:
    options = {"max_steps": 6, "save_steps": 2, "samples_every": 2}
    trainer = trainers.grpo(folder, mixin, **(options | given))
    done = fit(
        trainer,
        run_dir(folder),
        SETTINGS,
        {"cascade": trainer.cascade},
        stop or Asked(),
        [Crash(crash)],
    )
    return done, trainer


def fit_sft(
    folder: Path,
    gate: PhaseTransitionGate | None = None,
    stop: Any = None,
    crash: int = -1,
    **given: Any,
) -> tuple[bool, Any]:
    gate = gate or PhaseTransitionGate(threshold=2.0)
    options = {"max_steps": 8, "save_steps": 3}
    trainer, watch = trainers.sft(folder, gate, **(options | given))
    run = run_dir(folder, "sft")
    callbacks = [watch, Crash(crash)]
    done = fit(trainer, run, SETTINGS, {"gate": gate}, stop or Asked(), callbacks)
    return done, trainer


def test_a_phase_leaves_metrics_checkpoints_model_and_digest(tmp_path: Path) -> None:
    done, _ = fit_sft(tmp_path, max_steps=4, save_steps=1)
    assert done
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["phase"] == "sft"
        phi = 1 - row["entropy"] / math.log(320)
        assert row["phi"] == pytest.approx(phi, abs=1e-6)
    kept = complete_checkpoints(tmp_path / "checkpoints" / "sft")
    assert [path.name for path in kept] == ["checkpoint-3", "checkpoint-4"]
    assert len(list((tmp_path / "checkpoints" / "sft").glob("checkpoint-*"))) == 2
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert len(read_json(tmp_path / "summary.json")["weights_sha256"]) == 64
    assert not list(tmp_path.rglob("*.draft"))


def crashed(action: Any) -> None:
    with pytest.raises(KeyboardInterrupt, match="machine is gone"):
        action()


SOLVED = {"maximum": 1.0, "warmup_steps": 3}


def always_right(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("mixin", "given", "crash"),
    [
        (CoherentGRPO, {"cascade": {"open_by": 1, "warmup_steps": 6}}, 5),
        (
            ReusedScores,
            {"num_iterations": 2, "cascade": {"open_by": 1, "warmup_steps": 6}},
            5,
        ),
        (
            CoherentGRPO,
            {
                "cascade": SOLVED,
                "tasks": (always_right,),
                "max_steps": 14,
                "save_steps": 6,
                "max_completion_length": 3,
            },
            8,
        ),
    ],
)
def test_grpo_after_a_crash_is_the_run_that_had_none(
    tmp_path: Path, mixin: type, given: dict[str, Any], crash: int
) -> None:
    """Weights, metrics, samples, and what the cascade knows."""
    _, plain = fit_grpo(tmp_path / "plain", mixin, **given)
    hurt = tmp_path / "hurt"
    crashed(lambda: fit_grpo(hurt, mixin, crash=crash, **given))
    assert not (hurt / "model").exists()
    done, resumed = fit_grpo(hurt, mixin, **given)
    assert done
    assert trainers.same_weights(plain.model, resumed.model)
    assert metrics(hurt) == metrics(tmp_path / "plain")
    assert (hurt / "samples.jsonl").read_text() == (
        tmp_path / "plain" / "samples.jsonl"
    ).read_text()
    assert resumed.cascade.state_dict() == plain.cascade.state_dict()
    assert resumed.cascade.stage == "B"
    summaries = [
        read_json(path / "summary.json") for path in (hurt, tmp_path / "plain")
    ]
    assert summaries[0] == summaries[1]


def test_sft_after_a_crash_is_the_run_that_had_none(tmp_path: Path) -> None:
    """The gate counts on: it fires at the fifth observation, two before the crash."""

    def any_five() -> PhaseTransitionGate:
        return PhaseTransitionGate(threshold=0.0, window=5, min_above=5)

    gate = any_five()
    _, plain = fit_sft(tmp_path / "plain", gate)
    assert gate.step == 5
    assert plain.state.global_step == 5
    hurt = tmp_path / "hurt"
    crashed(lambda: fit_sft(hurt, any_five(), crash=4))
    again = any_five()
    done, resumed = fit_sft(hurt, again)
    assert done
    assert again.state_dict() == gate.state_dict()
    assert trainers.same_weights(plain.model, resumed.model)
    kept = ("loss", "mean_token_accuracy", "entropy", "step")
    rows = [
        [{k: row[k] for k in kept} for row in metrics(path)]
        for path in (hurt, tmp_path / "plain")
    ]
    assert rows[0] == rows[1]


def test_a_crash_before_the_first_checkpoint_leaves_no_second_record(
    tmp_path: Path,
) -> None:
    crashed(lambda: fit_grpo(tmp_path, crash=1, max_steps=3))
    fit_grpo(tmp_path, max_steps=3)
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 8


@pytest.mark.parametrize("step", [2, 4])
def test_a_stop_leaves_a_checkpoint_from_which_the_run_goes_on(
    tmp_path: Path, step: int
) -> None:
    fit_grpo(tmp_path / "plain", max_steps=4, save_steps=4)
    path = tmp_path / "stopped"
    done, _ = fit_grpo(path, max_steps=4, save_steps=4, stop=Asked(step))
    if not done:
        last = complete_checkpoints(path / "checkpoints" / "grpo")[-1]
        assert last.name == f"checkpoint-{step}"
        assert not (path / "model").exists()
        done, _ = fit_grpo(path, max_steps=4, save_steps=4)
    assert done
    assert metrics(path) == metrics(tmp_path / "plain")
    summaries = [read_json(at / "summary.json") for at in (path, tmp_path / "plain")]
    assert summaries[0] == summaries[1]


def firing() -> PhaseTransitionGate:
    return PhaseTransitionGate(threshold=0.0, window=2, min_above=2)


def test_a_stop_at_the_step_of_the_gate_does_not_train_on(tmp_path: Path) -> None:
    _, plain = fit_sft(tmp_path / "plain", firing())
    path = tmp_path / "stopped"
    done, resumed = fit_sft(path, firing(), stop=Asked(2))
    if not done:
        done, resumed = fit_sft(path, firing())
    assert done
    assert trainers.same_weights(plain.model, resumed.model)


@pytest.mark.parametrize("gate", [firing, lambda: None])
def test_a_crash_between_the_last_step_and_the_result_does_not_train_on(
    tmp_path: Path, monkeypatch: Any, gate: Any
) -> None:
    _, plain = fit_sft(tmp_path / "plain", gate(), max_steps=3)

    def crash(*_: Any) -> str:
        raise KeyboardInterrupt("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "weights_sha256", crash)
        crashed(lambda: fit_sft(tmp_path / "hurt", gate(), max_steps=3))
    done, resumed = fit_sft(tmp_path / "hurt", gate(), max_steps=3)
    assert done
    assert trainers.same_weights(plain.model, resumed.model)
    for path in ("hurt", "plain"):
        assert metrics(tmp_path / path)[-1]["step"] == plain.state.global_step
    digests = [
        read_json(tmp_path / path / "summary.json")["weights_sha256"]
        for path in ("hurt", "plain")
    ]
    assert digests[0] == digests[1]


def test_the_old_checkpoint_goes_only_after_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: Any
) -> None:
    write_json = fit_module.write_json

    def crash(path: Path, value: Any) -> None:
        if path.parent.name == "checkpoint-3":
            raise KeyboardInterrupt("the machine is gone")
        write_json(path, value)

    monkeypatch.setattr(fit_module, "write_json", crash)
    monkeypatch.setitem(SETTINGS, "keep", 1)
    crashed(lambda: fit_sft(tmp_path, save_steps=1))
    folder = tmp_path / "checkpoints" / "sft"
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-2"]
    assert (folder / "checkpoint-2" / "model.safetensors").is_file()
    assert (folder / "checkpoint-3").is_dir()  # half of one, without its mark
    monkeypatch.undo()
    done, _ = fit_sft(tmp_path, save_steps=1, max_steps=4)
    assert done
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4]
    assert (folder / "checkpoint-3" / COMPLETE).is_file()


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "target", ["carl_runtime_min.fit.write_json", "torch.save", "safetensors"]
)
def test_a_full_disk_is_told_plainly_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    fit_sft(tmp_path, stop=Asked(1))
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        if target == "safetensors":
            patch.setattr("transformers.modeling_utils.safe_save_file", disk_full)
        else:
            patch.setattr(target, disk_full)
        with pytest.raises(CarlError, match=f"no space left for {tmp_path}") as full:
            fit_sft(tmp_path)
    assert full.value.exit_code == 4
    assert "same command" in full.value.remedy
    folder = tmp_path / "checkpoints" / "sft"
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-1"]
    assert sorted(tmp_path.rglob("*")) == before
    done, _ = fit_sft(tmp_path)
    assert done


def test_an_error_of_the_users_code_is_not_a_full_disk(tmp_path: Path) -> None:
    def wrong(**_: Any) -> list[float]:
        raise ZeroDivisionError("in the reward")

    with pytest.raises(ZeroDivisionError, match="in the reward"):
        fit_grpo(tmp_path, tasks=(wrong,))


def test_adapters_are_checkpointed_and_resumed(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def adapted() -> Any:
        torch.manual_seed(1)
        return get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["q_proj"]))

    _, plain = fit_sft(tmp_path / "plain", model=adapted(), max_steps=4)
    hurt = tmp_path / "hurt"
    crashed(lambda: fit_sft(hurt, model=adapted(), max_steps=4, crash=3))
    _, resumed = fit_sft(hurt, model=adapted(), max_steps=4)
    assert trainers.same_weights(plain.model, resumed.model)
    names = {path.name for path in (hurt / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names


def test_the_state_of_the_cascade_is_in_the_checkpoint_as_json(tmp_path: Path) -> None:
    fit_grpo(tmp_path, max_steps=2, cascade={"open_by": 1, "warmup_steps": 2})
    saved = read_json(
        tmp_path / "checkpoints" / "grpo" / "checkpoint-2" / "complete.json"
    )
    assert saved["step"] == 2
    cascade = Cascade(open_by=1, warmup_steps=2)
    cascade.load_state_dict(saved["cascade"])
    assert (cascade.stage, cascade.opened_at, cascade.reason) == ("B", 1, "open_by")


def test_the_head_decides_the_vocabulary(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    assert len(tiny.tokenizer()) == 300
    assert head_width(tiny.model(rows=333)) == 333
    assert head_width(tiny.model(tie_word_embeddings=True)) == 320
    adapted = get_peft_model(tiny.model(), LoraConfig(target_modules=["q_proj"]))
    assert head_width(adapted) == 320


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(("bf16", "expected"), [(None, False), (True, True)])
def test_arguments_fit_a_machine_without_a_gpu(
    tmp_path: Path, bf16: bool | None, expected: bool
) -> None:
    settings = {"trainer": {"max_steps": 3, "seed": 5}, "bf16": bf16}
    found = training_arguments(run_dir(tmp_path, "sft"), settings)
    assert found["max_steps"] == 3
    assert found["use_cpu"]
    assert found["bf16"] is expected
    assert not found["dataloader_pin_memory"]
    assert found["output_dir"] == str(tmp_path / "checkpoints" / "sft")
