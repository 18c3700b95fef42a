"""Scripts whose model calls tools, in environments built in and of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_bundle.errors import SpecError
from carl_runtime_min.run import read_json
from tests import tiny
from tests.scripts import SMALL, here, load, render
from tests.tool_calls import END, QWEN3, Says, call, save_model

SUM = "import sys\nprint(sum(map(int, sys.stdin)))"
TESTS = [{"input": "1\n2\n", "output": "3"}, {"input": "5\n", "output": "5"}]
PYTHON = {"prompt": "Sum up the numbers.", "tests": TESTS}
TABLE = "create table t (x); insert into t values (%d), (9);"
SQL = {
    "prompt": "Find all x.",
    "databases": [TABLE % 1, TABLE % 2],
    "query": "select x from t",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "calls")


def spec_of(model: Path, **given: Any) -> dict[str, Any]:
    grpo = {"num_generations": 4, "max_completion_length": 600, "max_length": 3000}
    grpo |= {**SMALL, **grpo, "max_steps": 2, "learning_rate": 1e-3}
    grpo["per_device_train_batch_size"] = 8
    grpo |= given.pop("grpo", {})
    common = {"name": "x", "method": "grpo", "model": str(model), "lora": False}
    return {**common, "grpo": grpo, **given}


def rows(folder: Path, *kinds: dict[str, Any]) -> str:
    return str(tiny.write_jsonl(folder / "rows.jsonl", [*kinds] * (8 // len(kinds))))


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "runs" / "x" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_programs_are_run_and_judged(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Says(
        [
            [call("run", code=SUM, stdin="4\n5"), call("submit", code=SUM), f"9{END}"],
            [call("submit", code="pass"), f"done{END}"],
            [call("submit", code="print(3)"), f"done{END}"],
            [f"no tool{END}"],
        ]
    ).instead(monkeypatch)
    data = rows(tmp_path, PYTHON)
    script = render(tmp_path, spec_of(model, data=data, environments=["python"]))
    assert here(script, "--phase", "grpo") == 0
    for row in logged(tmp_path):
        assert row["rewards/PythonEnvironment/mean"] == 0.25
        assert row["reward"] == 0.25
        assert row["cascade/metric"] == 0.25
        assert row["tools/call_frequency"] == 1
        assert row["tools/failure_frequency"] == 0
        assert row["grad_norm"] > 0
    sample = json.loads((tmp_path / "runs/x/samples.jsonl").read_text().splitlines()[0])
    assert sample["rewards"] == {"PythonEnvironment": 1, "carl": None}
    said = [turn["content"] for turn in sample["completion"]]
    assert said[1].strip() == "9"
    assert said[3] == "handed in"
    assert len(sample["phi"]) == len(sample["p"]) < len(sample["token_ids"])
    assert read_json(tmp_path / "runs/x/summary.json")["weights_sha256"]


USER = '''
class Shop:
    """Sells one thing."""

    def reset(self, answer, **row):
        self.price, self.paid = len(answer), 0
        return " It costs a few coins."

    def pay(self, coins: int) -> str:
        """Pay for the thing.

        Args:
            coins: How many coins to pay.
        """
        self.paid = coins
        return "thanks"

    def get_reward(self) -> float:
        return float(self.paid == self.price)


def look(word: str) -> str:
    """Look a word up.

    Args:
        word: The word.
    """
    return word * 2
'''
CARL = {"cascade": "fixed", "carl_start": 0, "warmup_steps": 1, "weight": 0.5}


def brute_force(model: Any, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """(log p, H) of each token: the full softmax over the logits of a plain forward."""
    training = model.training
    with torch.no_grad():
        logits = model.eval()(torch.tensor([prompt + tokens])).logits[0].double()
    model.train(training)
    log_p = logits[len(prompt) - 1 : -1].log_softmax(-1)  # [T, V]
    chosen = log_p[range(len(tokens)), tokens]
    return torch.stack([chosen, -(log_p.exp() * log_p).sum(-1)])


@pytest.mark.parametrize(
    "grpo", [{}, {"num_iterations": 2, "max_steps": 4}], ids=["scored", "reused"]
)
def test_the_field_is_of_what_the_policy_said(
    grpo: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next tokens after a tool's are no transition."""
    group = [
        [call("run", code="print(2)"), call("run", code="1 / 0"), f"so{END}"],
        [call("nothing"), f"odd{END}"],
        [f"no tool{END}"],
        [call("submit", code=SUM), f"done{END}"],
    ]
    says, checked = Says(group).instead(monkeypatch), []
    data = rows(tmp_path, PYTHON)
    spec = spec_of(model, data=data, environments=["python"], carl=CARL, grpo=grpo)
    script = render(tmp_path, spec)
    assert ("class ReusedScores" in script.read_text()) is bool(grpo)
    module = load(script)
    plain = module.CoherenceReward.__call__

    def witness(self: Any, completion_ids: Any, **given: Any) -> Any:
        words = says.trainer.processing_class
        for i, tokens in enumerate(completion_ids):
            exact = brute_force(says.trainer.model, says.prompts[i], tokens)
            own = [words(text)["input_ids"] for text in group[i % 4]]
            assert tokens[: len(own[0])] == own[0]
            assert tokens[len(tokens) - len(own[-1]) :] == own[-1]
            places, start = [], 0
            for turn in own:
                while tokens[start : start + len(turn)] != turn:
                    start += 1
                places += range(start, start + len(turn))
                start += len(turn)
            found = [given["token_logps"][i], given["token_entropies"][i]]
            assert torch.allclose(
                torch.stack(found).double(), exact[:, places], atol=2e-4
            )
            starts = given["token_junctions"][i].nonzero().flatten().tolist()
            ends = [sum(map(len, own[:n])) for n in range(1, len(own))]
            assert starts == ends
            checked.append(len(tokens) - len(places))
        return plain(self, completion_ids, **given)

    monkeypatch.setattr(module.CoherenceReward, "__call__", witness)
    assert here(script, "--phase", "grpo", module=module) == 0
    assert len(checked) == 16
    assert [n > 10 for n in checked[:4]] == [True, True, False, True]
    found = [row["reward"] for row in logged(tmp_path) if "reward" in row]
    assert len(found) == 2
    assert min(found) > 0.25  # of the task, and R_CARL


def test_several_environments_tools_and_rewards_add_up(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is of one environment; TRL appends their rewards, R_CARL stays last."""
    (tmp_path / "mine.py").write_text(USER)
    kinds = [
        {**PYTHON, "environment": "python"},
        {**SQL, "environment": "sql"},
        {"prompt": "Buy it.", "answer": "four", "environment": "Shop"},
    ]
    columns = {name: None for kind in kinds for name in kind}
    data = rows(tmp_path, *({**columns, **kind} for kind in kinds))  # 6 of them
    right = {
        "python": call("submit", code=SUM),
        "sql": call("submit", sql="select 0 + x from t where x > 0"),
        "Shop": call("pay", coins=4),
    }

    def second(trainer: Any, place: int) -> str:
        return right[trainer._batch_environments[place]]

    turns = [call("look", word="ab"), second, f"done{END}"]
    Says([turns, [f"no{END}"]]).instead(monkeypatch)
    spec = spec_of(
        model,
        data={"id": data, "columns": {"answer": "answer"}},
        tools=["mine.py:look"],
        environments=[
            "python",
            {"name": "sql", "weight": 0.5},
            {"factory": "mine.py:Shop", "weight": 0.25},
        ],
        rewards=[{"name": "pattern", "pattern": "done", "weight": 2}],
        carl=CARL,
        grpo={"per_device_train_batch_size": 24},
    )
    assert here(render(tmp_path, spec), "--phase", "grpo") == 0
    for row in logged(tmp_path):
        task = 0.5 * 2 + 0.5 * (1 + 0.5 + 0.25) / 3
        assert row["cascade/metric"] == pytest.approx(task)
        total = task + 0.5 * row["rewards/carl/mean"]
        assert row["reward"] == pytest.approx(total, abs=1e-5)
    record = (tmp_path / "runs/x/samples.jsonl").read_text().splitlines()[0]
    names = ["pattern", "PythonEnvironment", "SQLEnvironment", "Shop", "carl"]
    assert list(json.loads(record)["rewards"]) == names


def test_tools_alone_need_no_environment(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(USER)
    says = Says([[call("look", word="ab"), f"abab{END}"], [f"no{END}"]])
    says.instead(monkeypatch)
    rewards = [{"name": "exact_answer"}]
    data = rows(tmp_path, {"prompt": "Look up ab.", "answer": "abab"})
    spec = spec_of(model, data=data, tools=["mine.py:look"], rewards=rewards)
    script = render(tmp_path, spec)
    assert here(script, "--phase", "grpo") == 0
    assert [row["reward"] for row in logged(tmp_path)] == [0.5, 0.5]
    for absent in ("check_sandbox", "class PythonEnvironment", "check_rows"):
        assert absent not in script.read_text()


def test_built_in_rows_need_no_data(model: Path, tmp_path: Path, capsys: Any) -> None:
    script = render(tmp_path, spec_of(model, environments=["sql", "python"]))
    assert here(script, "--dry-run") == 0
    assert "reads integers" in capsys.readouterr().out
    module = load(script)
    module.check_sandbox()
    settings = module.CONFIG["grpo"]
    found = module.grpo_data(module.load_tokenizer(module.CONFIG["model"]), settings)
    assert set(found["environment"]) == {"python", "sql"}
    module.check_rows(found, module.task_environments(settings))


CONSTANT = [{"input": "1", "output": "3"}, {"input": "2", "output": "3 "}]
UNTYPED = USER.replace("word: str", "word")
UNPAID = USER.replace("get_reward", "_reward")
MINE = {"environments": ["mine.py:Shop"], "tools": ["mine.py:look"]}


@pytest.mark.parametrize(
    ("row", "mine", "spec", "words"),
    [
        ({"prompt": "x"}, "", {}, "no column 'tests'"),
        ({**PYTHON, "tests": CONSTANT}, "", {}, "let a constant pass"),
        ({**PYTHON, "tests": []}, "", {}, "let a constant pass"),
        (
            {**SQL, "databases": [TABLE % 1] * 2},
            "",
            {"environments": ["sql"]},
            "lets a constant pass",
        ),
        (
            {**SQL, **PYTHON, "environment": "perl"},
            "",
            {"environments": ["python", "sql"]},
            "of environment 'perl'",
        ),
        ({"prompt": "x"}, UNTYPED, {**MINE}, "word"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weights_are_read(
    row: dict[str, Any],
    mine: str,
    spec: dict[str, Any],
    words: str,
    tmp_path: Path,
    capsys: Any,
) -> None:
    (tmp_path / "mine.py").write_text(mine)
    folder = save_model(tmp_path / "model")
    given = {"environments": ["python"], **spec}
    script = render(tmp_path, spec_of(folder, data=rows(tmp_path, row), **given))
    (folder / "model.safetensors").unlink()
    assert here(script, "--phase", "grpo") == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "fix: " in shown


@pytest.mark.parametrize("flags", [["--phase", "grpo"], ["--dry-run"]])
def test_a_template_without_tools_is_refused_when_the_script_starts(
    flags: list[str], tmp_path: Path, capsys: Any
) -> None:
    """The template may have changed after the script was written."""
    folder = save_model(tmp_path / "model")
    spec = spec_of(folder, data=rows(tmp_path, PYTHON), environments=["python"])
    script = render(tmp_path, spec)
    tiny.save(folder)
    (folder / "model.safetensors").unlink()
    assert here(script, *flags) == 2
    assert "the chat template supports no tool calls" in capsys.readouterr().err


def test_a_template_that_trl_cannot_read_calls_of_is_refused(
    tmp_path: Path, capsys: Any
) -> None:
    folder = save_model(tmp_path / "model", QWEN3 + "{# mine #}")
    (folder / "model.safetensors").unlink()
    spec = spec_of(folder, data=rows(tmp_path, PYTHON), environments=["python"])
    assert here(render(tmp_path, spec), "--phase", "grpo") == 2
    assert "Unrecognized chat template" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--phase", "grpo"], ["--dry-run"]])
def test_a_run_without_a_sandbox_is_refused(
    flags: list[str], tmp_path: Path, capsys: Any
) -> None:
    folder = save_model(tmp_path / "model")
    spec = spec_of(folder, data=rows(tmp_path, PYTHON), environments=["python"])
    script = render(tmp_path, spec)
    (folder / "model.safetensors").unlink()
    module = load(script)
    module.SANDBOX_PATH = str(tmp_path)
    assert here(script, *flags, module=module) == 4
    assert "install bubblewrap" in capsys.readouterr().err


def test_a_sandbox_that_breaks_down_ends_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A program that could not be run is not a wrong one."""
    spec = spec_of(model, data=rows(tmp_path, PYTHON), environments=["python"])
    script = render(tmp_path, spec)
    module = load(script)

    def broken(trainer: Any, place: int) -> str:
        module.SANDBOX_PATH = str(tmp_path)
        return call("submit", code=SUM)

    Says([[call("run", code=SUM), broken, f"done{END}"]]).instead(monkeypatch)
    assert here(script, "--phase", "grpo", module=module) == 4
    assert "no sandbox" in capsys.readouterr().err


def test_an_environment_that_rewards_nothing_is_refused(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "mine.py").write_text(UNPAID)
    data = rows(tmp_path, {"prompt": "x", "answer": "four"})
    source = {"id": data, "columns": {"answer": "answer"}}
    spec = spec_of(model, data=source, environments=["mine.py:Shop"])
    assert here(render(tmp_path, spec), "--phase", "grpo") == 2
    assert "nothing rewards the task" in capsys.readouterr().err


def test_a_template_without_tools_is_refused_when_the_script_is_written(
    tmp_path: Path,
) -> None:
    folder = save_model(tmp_path / "model", tiny.CHAT_TEMPLATE)
    spec = spec_of(folder, environments=["python"])
    with pytest.raises(SpecError, match="no calls of tools"):
        render(tmp_path, spec)


def test_thinking_is_switched_without_a_change_of_the_template(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL knows templates for tools by their exact text."""
    says = Says([[call("submit", code=SUM), f"9{END}"]]).instead(monkeypatch)
    spec = spec_of(model, data=rows(tmp_path, PYTHON), environments=["python"])
    spec["model"] = {"id": str(model), "thinking": "off"}
    assert here(render(tmp_path, spec), "--phase", "grpo") == 0
    asked = says.trainer.processing_class.decode(says.prompts[0])
    assert asked.endswith("<think>\n\n</think>\n\n")


def test_an_evaluation_runs_in_the_environments_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Says([[call("submit", code=SUM), f"9{END}"]]).instead(monkeypatch)
    spec = spec_of(model, data=rows(tmp_path, PYTHON), environments=["python"])
    spec |= {"eval": {"every": 1, "items": 4}}
    spec["grpo"]["save_steps"] = 1
    assert here(render(tmp_path, spec), "--phase", "grpo") == 0
    lines = (tmp_path / "runs/x/metrics.jsonl").read_text().splitlines()
    found = [
        row["eval_reward"] for row in map(json.loads, lines) if "eval_reward" in row
    ]
    assert found == [1, 1]
