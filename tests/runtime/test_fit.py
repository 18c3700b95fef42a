"""A phase from start to result, through stops, crashes and resumes."""

from __future__ import annotations

import errno
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerState

from carl_runtime_min.cascade import Cascade
from carl_runtime_min.entry import work
from carl_runtime_min.errors import UsageError
from carl_runtime_min.fit import Observer, fit, head_width, training_arguments
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.grpo import CoherentPolicy, ReusedScores
from carl_runtime_min.run import STATE, checkpoints, read_json, sha256, weights_sha256
from tests import tiny, trainers
from tests.scripts import signals_restored
from tests.trainers import Asked, Crash, run_dir

SETTINGS = {"result": "model", "non_finite": "stop"}
TIMES = ("runtime", "per_second", "step_time", "chain")  # which holds them too


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What each optimizer step logged, without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    return [
        {k: v for k, v in row.items() if not any(word in k for word in TIMES)}
        for row in rows
    ]


def whole(folder: Path, phase: str) -> list[str]:
    """The names of the whole checkpoints of a phase."""
    return sorted(path.name for path in checkpoints(folder / "checkpoints" / phase))


def fit_grpo(
    folder: Path,
    mixin: type = CoherentPolicy,
    asked: int = -1,
    crash: int = -1,
    **given: Any,
) -> tuple[bool, Any]:
    options = {"max_steps": 6, "save_steps": 2, "samples_every": 2}
    trainer = trainers.grpo(folder, mixin, **(options | given))
    parts, callbacks = {"cascade": trainer.cascade}, [Asked(folder, asked)]
    done = fit(trainer, run_dir(folder), SETTINGS, parts, [*callbacks, Crash(crash)])
    return done, trainer


def fit_sft(
    folder: Path,
    gate: PhaseTransitionGate | None = None,
    asked: int = -1,
    crash: int = -1,
    late: Any = None,
    **given: Any,
) -> tuple[bool, Any]:
    gate = gate or PhaseTransitionGate(threshold=2.0)
    options = {"max_steps": 8, "save_steps": 3, "save_total_limit": 2}
    trainer, watch = trainers.sft(folder, gate, **(options | given))
    callbacks = [watch, late or Asked(folder, asked), Crash(crash)]
    done = fit(trainer, run_dir(folder, "sft"), SETTINGS, {"gate": gate}, callbacks)
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
    assert whole(tmp_path, "sft") == ["checkpoint-3", "checkpoint-4"]
    assert len(list((tmp_path / "checkpoints" / "sft").glob("checkpoint-*"))) == 2
    assert (tmp_path / "model" / "model.safetensors").is_file()
    digest = read_json(tmp_path / "summary.json")["weights_sha256"]
    assert digest == weights_sha256(tmp_path / "model")
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
        (CoherentPolicy, {"cascade": {"open_by": 1, "warmup_steps": 6}}, 5),
        (
            ReusedScores,
            {"num_iterations": 2, "cascade": {"open_by": 1, "warmup_steps": 6}},
            5,
        ),
        (  # a checkpoint within a window of samples, and between two records
            ReusedScores,
            {
                "num_iterations": 2,
                "gradient_accumulation_steps": 2,
                "steps_per_generation": 4,
                "save_steps": 3,
                "logging_steps": 7,
                "max_steps": 14,
                "cascade": {"open_by": 1, "warmup_steps": 6},
            },
            5,
        ),
        (
            CoherentPolicy,
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
    assert resumed.cascade == plain.cascade
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
    assert again == gate
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


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_stop_leaves_a_checkpoint_from_which_the_run_goes_on(
    tmp_path: Path, step: int
) -> None:
    """What the step has done that the stop came in is given up."""
    fit_grpo(tmp_path / "plain", max_steps=4, save_steps=4)
    path = tmp_path / "stopped"
    done, _ = fit_grpo(path, max_steps=4, save_steps=4, asked=step)
    assert not done
    kept = [f"checkpoint-{step - 1}"] if step > 1 else []
    assert whole(path, "grpo") == kept
    assert not (path / "model").exists()
    done, _ = fit_grpo(path, max_steps=4, save_steps=4)
    assert done
    assert metrics(path) == metrics(tmp_path / "plain")
    summaries = [read_json(at / "summary.json") for at in (path, tmp_path / "plain")]
    assert summaries[0] == summaries[1]


def firing() -> PhaseTransitionGate:
    return PhaseTransitionGate(threshold=0.0, window=2, min_above=2)


class AskedLate(Asked):
    """Asks for the stop when the weights of the step are updated already."""

    def on_step_begin(self, *_: Any, **__: Any) -> None: ...

    def on_optimizer_step(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        super().on_step_begin(args, state, None)


def test_a_stop_at_the_step_of_the_gate_does_not_train_on(tmp_path: Path) -> None:
    _, plain = fit_sft(tmp_path / "plain", firing())
    path = tmp_path / "stopped"
    late = AskedLate(path, 2)
    done, resumed = fit_sft(path, firing(), late=late)
    assert done
    assert resumed.state.global_step == 2
    assert trainers.same_weights(plain.model, resumed.model)


@pytest.mark.parametrize("gate", [firing, lambda: None])
@pytest.mark.parametrize("last", ["shutil.rmtree", "weights_sha256"])
def test_a_crash_between_the_last_step_and_the_result_does_not_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Any, last: str
) -> None:
    _, plain = fit_sft(tmp_path / "plain", gate(), max_steps=3)

    def crash(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(f"carl_runtime_min.fit.{last}", crash)
        crashed(lambda: fit_sft(tmp_path / "hurt", gate(), max_steps=3))
    assert (tmp_path / "hurt" / "model").exists() == (last == "weights_sha256")
    done, resumed = fit_sft(tmp_path / "hurt", gate(), max_steps=3)
    assert done
    assert trainers.same_weights(plain.model, resumed.model)
    for path in ("hurt", "plain"):
        assert metrics(tmp_path / path)[-1]["step"] == plain.state.global_step
    digests = [
        read_json(tmp_path / path / "summary.json")["weights_sha256"]
        for path in ("hurt", "plain")
    ]
    assert digests[0] == digests[1] == weights_sha256(tmp_path / "hurt" / "model")
    assert not (
        tmp_path / "hurt" / "checkpoints" / "sft" / "checkpoint-result"
    ).exists()


def test_the_old_checkpoint_goes_only_after_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = TrainerState.save_to_json

    def crash(state: Any, path: str) -> None:
        if "checkpoint-3" in path:
            raise KeyboardInterrupt("the machine is gone")
        save(state, path)

    monkeypatch.setattr(TrainerState, "save_to_json", crash)
    crashed(lambda: fit_sft(tmp_path, save_steps=1, save_total_limit=1))
    folder = tmp_path / "checkpoints" / "sft"
    assert whole(tmp_path, "sft") == ["checkpoint-2"]
    assert (folder / "checkpoint-2" / "model.safetensors").is_file()
    assert (folder / "checkpoint-3").is_dir()  # half of one, without its state
    monkeypatch.undo()
    done, _ = fit_sft(tmp_path, save_steps=1, max_steps=4)
    assert done
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4]
    assert (folder / "checkpoint-3" / STATE).is_file()


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def sft_code(folder: Path) -> int:
    """The exit code of a phase that trains like `fit_sft`."""
    args = Namespace(run_dir=folder, resume="auto", phase="sft", until=None)
    with signals_restored():
        return work(args, lambda run: 0 if fit_sft(run.path, save_steps=1)[0] else 85)


@pytest.mark.parametrize(
    "target",
    [
        "transformers.TrainerState.save_to_json",
        "torch.save",
        "transformers.modeling_utils.safe_save_file",
    ],
)
def test_a_full_disk_is_told_plainly_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, target: str
) -> None:
    crashed(lambda: fit_sft(tmp_path, crash=1, save_steps=1))
    before = {*tmp_path.rglob("*"), tmp_path / "exit.json"}
    with monkeypatch.context() as patch:
        patch.setattr(target, disk_full)
        assert sft_code(tmp_path) == 4
    told = capsys.readouterr().err
    assert f"error: no space left for {tmp_path}\n" in told
    assert "same command" in told
    assert "Traceback" not in told
    assert whole(tmp_path, "sft") == ["checkpoint-1"]
    assert {*tmp_path.rglob("*")} == before
    assert sft_code(tmp_path) == 0


class FullDisk(Observer):
    """From the third step on, `metrics.jsonl` takes no more."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "metrics.jsonl"

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            self.file.rename(self.file.with_suffix(".kept"))
            self.file.symlink_to("/dev/full")


def test_metrics_that_find_no_space_are_complete_in_the_end(
    tmp_path: Path, capsys: Any
) -> None:
    """Even if a part of a line was written."""
    never, cut = tmp_path / "never", tmp_path / "cut"
    assert fit_sft(never, save_steps=1)[0]
    args = Namespace(run_dir=cut, resume="auto", phase="sft", until=None)
    with signals_restored():
        full = FullDisk(cut)
        assert work(args, lambda run: int(fit_sft(cut, late=full)[0])) == 4
    assert f"error: no space left for {cut}\n" in capsys.readouterr().err
    full.file.unlink()
    kept = full.file.with_suffix(".kept").rename(full.file)
    with kept.open("a") as file:
        file.write('{"phase": "sft", "st')
    assert sft_code(cut) == 0
    assert metrics(cut) == metrics(never)


def test_a_disk_that_is_full_at_the_end_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Trainer.save_model

    def full(trainer: Any, folder: str, **given: Any) -> None:
        save(trainer, folder, **given)
        if folder.endswith("-result"):
            disk_full()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_model", full)
        assert sft_code(tmp_path) == 4
    folder, rows = tmp_path / "checkpoints" / "sft", metrics(tmp_path)
    assert whole(tmp_path, "sft") == ["checkpoint-7", "checkpoint-8"]
    assert len(list(folder.glob("checkpoint-*"))) == 2
    assert not (tmp_path / "model").exists()
    assert sft_code(tmp_path) == 0
    assert metrics(tmp_path) == rows
    kept = sha256(folder / "checkpoint-8" / "model.safetensors")
    assert weights_sha256(tmp_path / "model") == kept


def test_rows_that_fill_no_batch_are_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not fill one batch") as refused:
        fit_grpo(tmp_path, per_device_train_batch_size=200)
    assert "add rows" in refused.value.remedy
    assert not (tmp_path / "model").exists()


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
    state = read_json(
        tmp_path / "checkpoints" / "grpo" / "checkpoint-2" / "trainer_state.json"
    )
    assert state["global_step"] == 2
    cascade = Cascade(open_by=1, warmup_steps=2)
    vars(cascade).update(state["stateful_callbacks"]["carl"]["parts"]["cascade"])
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
