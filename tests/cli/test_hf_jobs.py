"""`carl train --compute l4x1` and what asks after its jobs: money first."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from backends.fake_hf import FakeHf

from cli.conftest import Carl

SFT = ("--method", "sft", "--set", "sft.max_steps=1")
ON_HF = ("train", *SFT, "--compute", "l4x1", "--python", "cat")
COST = "l4x1: 0.80 USD/h x 1 h = at most 0.80 USD"


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "--yes agrees"),
        (("--yes", "--max-cost", "0.5"), "may be more than 0.50 USD"),
        (("--yes", "--max-cost", "1", "--timeout", "2h"), "at most 1.60 USD"),
    ],
)
def test_no_money_is_spent_that_nobody_agreed_to(
    carl: Carl,
    hub: FakeHf,
    given: tuple[str, ...],
    told: str,
) -> None:
    found = carl(*ON_HF, *given)
    assert (found.code, found.out) == (2, "")
    assert told in found.err
    assert "l4x1: 0.80 USD/h x" in found.err
    assert hub.submitted() == []
    assert hub.files == {}
    assert carl("list").out == ""


def test_a_price_that_is_not_known_is_no_small_one(
    carl: Carl,
    hub: FakeHf,
) -> None:
    def no_prices(method: str, path: str) -> int | None:
        return 500 if path == "/api/jobs/hardware" else None

    hub.fault = no_prices
    found = carl(*ON_HF, "--yes", "--max-cost", "1000")
    assert found.code == 2
    assert "an unknown price" in found.err
    assert carl(*ON_HF, "--yes", "--json").code == 0


@pytest.mark.parametrize(("answer", "jobs"), [("y\n", 1), ("\n", 0), ("", 0)])
def test_whoever_is_there_is_asked(
    carl: Carl,
    hub: FakeHf,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    jobs: int,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    found = carl(*ON_HF, "--detach")
    assert COST in found.err
    assert found.code == (0 if jobs else 2)
    assert len(hub.submitted()) == jobs


def test_a_job_is_asked_after_from_another_terminal(
    carl: Carl,
    hub: FakeHf,
) -> None:
    hub.runs = True
    shown = carl(*ON_HF, "--yes")
    assert shown.code == 0
    assert shown.out == carl("bundle", *SFT).out
    job = json.loads(carl("list", "--json").out)["jobs"][0]
    assert job["state"] == "succeeded"
    assert job["compute"] == "l4x1"
    assert carl("logs", job["id"]).out == shown.out
    assert "is done" in carl("resume", job["id"], "--yes").err
    fetched = carl("fetch", job["id"])
    assert (fetched.code, fetched.out) == (0, "")
    [name] = [name for name in hub.files if name.endswith("train.py")]
    assert hub.files[name].decode() == shown.out


def test_to_go_on_costs_money_too(carl: Carl, hub: FakeHf) -> None:
    job = json.loads(carl(*ON_HF, "--yes", "--json").out)["id"]
    assert carl("stop", job).out.split()[1] == "stopped"
    refused = carl("resume", job)
    assert refused.code == 2
    assert COST in refused.err
    assert len(hub.submitted()) == 1
    assert carl("resume", job, "--yes", "--detach").code == 0
    assert len(hub.submitted()) == 2


def test_a_dry_run_shows_the_request_and_asks_nothing(
    carl: Carl,
    hub: FakeHf,
) -> None:
    found = carl(*ON_HF, "--dry-run", "--compute", "hf:h200@org", "--timeout", "90m")
    plan = json.loads(found.out)
    assert plan["request"]["json"]["flavor"] == "h200"
    assert plan["request"]["json"]["timeoutSeconds"] == 5400
    assert plan["request"]["json"]["secrets"] == {"HF_TOKEN": "***"}
    assert plan["folder"].startswith("org/jobs-artifacts/carl/")
    assert "hf_of_the_tests" not in found.out + found.err
    assert [method for method, _, _ in hub.requests if method != "GET"] == []


@pytest.mark.parametrize("compute", ["hf", "hf@org"])
def test_a_flavor_is_needed(carl: Carl, compute: str) -> None:
    found = carl("train", *SFT, "--compute", compute)
    assert found.code == 2
    assert "hf:l4x1" in found.err
