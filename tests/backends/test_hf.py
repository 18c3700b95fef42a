"""Jobs on Hugging Face: a server on the loopback interface, and the vendor's client.

The server holds every request against a contract, and can run the jobs for real.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jobs.test_records import RECORD

from backends.conftest import ended, until
from backends.fake_hf import FakeHf, FakeJob
from carl_bundle.backends.hf import backend as hf
from carl_bundle.backends.hf import errors, log
from carl_bundle.backends.hf.backend import HfBackend
from carl_bundle.backends.hf.request import told
from carl_bundle.backends.protocol import Job, JobStatus, State
from carl_bundle.errors import (
    CarlError,
    ConfigurationError,
    RemoteError,
    UsageError,
)
from carl_bundle.jobs import lifecycle
from carl_bundle.jobs.lifecycle import noted, persistent
from carl_bundle.jobs.records import Records

SECRET = "correct horse 'battery\" staple"
REF = "tester/680000000000000000000001"


def shell(text: str, key: str = "a1", **given: Any) -> Job:
    """A job that runs a shell script."""
    job = Job(key, {"job.sh": text.encode()}, ("sh", "job.sh"), output="runs/x")
    return replace(job, **given)


def started(hub: FakeHf, **given: Any) -> FakeJob:
    """A job that is not run: a test says what becomes of it."""
    HfBackend("l4x1").submit(shell("true", **given))
    return list(hub.jobs.values())[-1]


def whole_log(backend: HfBackend, offset: int = 0) -> bytes:
    """As `carl logs` reads it."""
    found = b""
    while chunk := persistent(partial(backend.log, REF, offset + len(found))):
        found += chunk
    return found


# What is asked for


def test_the_plan_is_the_request_that_is_sent_but_for_secrets(hub: FakeHf) -> None:
    backend = HfBackend("l4x1")
    job = shell("true", secrets={"TOKEN": SECRET}, limit=7200.0)
    plan = backend.plan(job)
    assert hub.submitted() == []
    assert SECRET not in json.dumps(plan)
    assert backend.submit(job) == REF
    [sent] = hub.submitted()
    assert sent.pop("secrets") == {"TOKEN": SECRET}
    assert SECRET not in json.dumps(sent)
    request = plan["request"]
    assert request["json"].pop("secrets") == {"TOKEN": "***"}
    assert request["json"] == sent
    assert request["url"] == f"{hub.endpoint}/api/jobs/tester"
    assert sent["timeoutSeconds"] == 7200
    assert sent["labels"]["name"] == "x"
    assert sent["environment"]["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert plan["usd_per_hour"] == pytest.approx(0.798)
    assert plan["limit"] == 7200


def test_what_is_sent_is_what_was_given_byte_by_byte(
    hub: FakeHf, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    rows.write_bytes(bytes(range(256)) * 4096)
    job = shell("echo ä\r\n")
    HfBackend("l4x1", "org").submit(replace(job, files={**job.files, "d/rows": rows}))
    base = "org/jobs-artifacts/carl/a1/work"
    assert hub.files[f"{base}/job.sh"] == "echo ä\r\n".encode()
    assert hub.files[f"{base}/d/rows"] == rows.read_bytes()
    assert not [path for _, path, _ in hub.requests if "whoami" in path]


def test_a_limit_is_always_set_and_leaves_time_to_save(hub: FakeHf) -> None:
    started(hub)
    assert hub.submitted()[0]["timeoutSeconds"] == 3600
    assert told(shell("true"))["limit"] == 3600 - 60 - 120
    assert told(shell("true", limit=10.0))["limit"] == 5


def test_a_plan_without_a_network_or_a_token_says_what_is_not_known(
    hub: FakeHf,
) -> None:
    hub.fault = lambda method, path: 503
    plan = HfBackend("l4x1").plan(shell("true"))
    assert plan["usd_per_hour"] is None
    assert plan["request"]["url"].endswith("/api/jobs/NAMESPACE")


def test_flavors_have_the_prices_of_now(hub: FakeHf) -> None:
    cpu, gpu = HfBackend("l4x1").flavors()
    assert (cpu.name, cpu.gpu, cpu.usd_per_hour) == ("cpu-basic", "", 0.012)
    assert (gpu.name, gpu.gpu) == ("l4x1", "1x L4, 24 GB")


# A bad line


def faulty(number: int, kind: str | int) -> Callable[[str, str], str | int | None]:
    """A fault at the request of this number."""
    asked = iter(range(10_000))
    return lambda method, path: kind if next(asked) == number else None


def requests_of_a_submission(hub: FakeHf) -> int:
    HfBackend("l4x1").submit(shell("true", "ff"))
    found = len(hub.requests)
    hub.jobs.clear()
    hub.requests.clear()
    return found


@pytest.mark.parametrize("kind", ["before", "after", 429, 500, 503])
def test_a_fault_at_any_request_makes_no_second_job_and_loses_none(
    hub: FakeHf, kind: str | int
) -> None:
    count = requests_of_a_submission(hub)
    assert count >= 7
    for number in range(count):
        key = f"a{number}"
        hub.fault = faulty(number, kind)
        backend = HfBackend("l4x1")
        ref = persistent(lambda b=backend, k=key: b.submit(shell("true", k)))
        hub.fault = lambda method, path: None
        assert backend.find(key) == ref
        assert backend.status(ref).state is State.RUNNING
    made = [job.info["labels"]["carl"] for job in hub.jobs.values()]
    assert made == [f"a{number}" for number in range(count)]


def test_many_submissions_with_faults_at_random_are_one_job_each(hub: FakeHf) -> None:
    draw = random.Random(8)

    def fault(method: str, path: str) -> str | int | None:
        kinds = ("before", "after", 429, 502)
        return draw.choice(kinds) if draw.random() < 0.15 else None

    for number in range(15):
        hub.fault = fault
        try:
            persistent(
                lambda k=f"b{number}": HfBackend("l4x1").submit(shell("true", k))
            )
        except RemoteError:  # `carl status` finds out
            hub.fault = lambda method, path: None
            if HfBackend("l4x1").find(f"b{number}") is None:
                HfBackend("l4x1").submit(shell("true", f"b{number}"))
    keys = [job.info["labels"]["carl"] for job in hub.jobs.values()]
    assert sorted(keys) == sorted({f"b{number}" for number in range(15)})


def test_what_a_server_asks_us_to_wait_is_waited(
    hub: FakeHf, slept: list[float]
) -> None:
    started(hub)
    hub.fault = faulty(0, 429)
    with pytest.raises(RemoteError):
        HfBackend("l4x1").status(REF)
    assert 3.0 in slept


# What becomes of it


@pytest.mark.parametrize(
    ("stage", "state", "code"),
    [
        ("SCHEDULING", State.QUEUED, None),
        ("RUNNING", State.RUNNING, None),
        ("COMPLETED", State.SUCCEEDED, 0),
        ("CANCELED", State.STOPPED, None),
        ("ERROR", State.FAILED, None),
        ("HIBERNATING", State.UNKNOWN, None),
        ("DELETED", State.UNKNOWN, None),
    ],
)
def test_a_stage_is_a_state(
    hub: FakeHf, stage: str, state: State, code: int | None
) -> None:
    job = started(hub)
    job.stage = stage
    said = HfBackend("l4x1").status(REF)
    assert (said.state, said.exit_code) == (state, code)
    if stage in ("HIBERNATING", "ERROR"):
        assert said.raw == stage


def test_an_error_after_the_limit_is_the_limit(hub: FakeHf) -> None:
    job = started(hub, limit=60.0)
    job.stage = "ERROR"
    assert HfBackend("l4x1").status(REF).state is State.FAILED
    job.info["durations"]["runningSecs"] = 60
    assert HfBackend("l4x1").status(REF).state is State.TIMEOUT


def test_a_job_that_is_not_found_is_lost_only_after_a_while(
    hub: FakeHf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(hub)
    hub.jobs.clear()
    said = HfBackend("l4x1").status(REF)
    assert (said.state, said.raw) == (State.UNKNOWN, "missing")
    records = Records(tmp_path)
    records.add(replace(RECORD, state=State.RUNNING))
    now = time.time()
    for later, state in ((0, State.UNKNOWN), (59, State.UNKNOWN), (61, State.LOST)):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda then=now + later: then)
            found = noted(records, records.find(RECORD.id), said)
        assert found.state is state
    with pytest.raises(UsageError, match="there is no job"):
        HfBackend("l4x1").log(REF, 0)


def test_a_job_that_appears_again_was_not_lost(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(replace(RECORD, state=State.RUNNING))
    missing = JobStatus(State.UNKNOWN, "gone", raw="missing")
    noted(records, records.find(RECORD.id), missing)
    found = noted(records, records.find(RECORD.id), JobStatus(State.RUNNING))
    assert found.state is State.RUNNING


def test_a_stop_cancels_once(hub: FakeHf) -> None:
    job = started(hub)
    backend = HfBackend("l4x1")
    backend.stop(REF, 60)
    backend.stop(REF, 60)
    assert job.stage == "CANCELED"
    cancels = [path for _, path, _ in hub.requests if path.endswith("/cancel")]
    assert len(cancels) == 1
    assert backend.status(REF).state is State.STOPPED


def test_a_stop_that_comes_as_the_job_ends_does_no_harm(
    hub: FakeHf, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started(hub)

    def ends_first(method: str, path: str) -> None:
        if path.endswith("/cancel"):
            job.stage = "COMPLETED"

    hub.fault = ends_first
    HfBackend("l4x1").stop(REF, 60)
    assert HfBackend("l4x1").status(REF).state is State.SUCCEEDED


def test_only_jobs_of_ours_are_listed(hub: FakeHf) -> None:
    started(hub, key="a1").stage = "COMPLETED"
    started(hub, key="a2")
    other = hub.start("tester", {"labels": {"name": "another"}, "environment": {}})
    states = {ref: said.state for ref, said in HfBackend("l4x1").list().items()}
    assert list(states.values()).count(State.SUCCEEDED) == 1
    assert len(states) == 2
    assert f"tester/{other.info['id']}" not in states


# Its log

LINES = ["plain", "", "ü\u2028 not a line end", "\x0b tab \x85", "x" * 300, "last"]
WHOLE = "".join(f"{line}\n" for line in LINES).encode()


@pytest.mark.parametrize("last", [[], [log.END]])
def test_a_log_that_breaks_at_any_byte_is_whole_and_nothing_comes_twice(
    hub: FakeHf, last: list[str]
) -> None:
    """The connection just closes: between two events nothing says that it broke."""
    job = started(hub)
    job.printed, job.stage = LINES + last, "COMPLETED"
    assert whole_log(HfBackend("l4x1")) == WHOLE
    for cut in range(0, 900, 41):
        hf._TAILS.clear()
        hub.cuts = [cut, cut + 100, 60, cut + 300]
        assert whole_log(HfBackend("l4x1")) == WHOLE, cut


def test_a_log_is_read_from_any_byte_in_pieces_of_any_size(hub: FakeHf) -> None:
    job = started(hub)
    job.printed, job.stage = list(LINES), "COMPLETED"
    backend = HfBackend("l4x1")
    for offset in (0, 3, 6, 7, 20, len(WHOLE) - 1, len(WHOLE), len(WHOLE) + 9):
        hf._TAILS.clear()
        assert whole_log(backend, offset) == WHOLE[offset:]
    assert backend.log(REF, 2, 3) == WHOLE[2:5]


def test_a_log_goes_on_while_the_job_runs_over_a_line_that_breaks(hub: FakeHf) -> None:
    job, backend, found = started(hub), HfBackend("l4x1"), b""
    hub.cuts = [150, 260, 390]
    for number in range(12):
        job.printed.append(f"step {number}")
        found += whole_log(HfBackend("l4x1"), len(found))
    assert found == "".join(f"step {n}\n" for n in range(12)).encode()
    asked = [path for _, path, _ in hub.requests if path.endswith("/logs")]
    assert len(asked) == 4, "one connection, and one for each break"
    job.printed.append("the end")
    job.stage = "COMPLETED"
    found += whole_log(backend, len(found))
    assert found.endswith(b"step 11\nthe end\n")
    assert whole_log(backend, len(found)) == b""


def test_a_stream_that_ends_before_its_job_is_taken_up_again(hub: FakeHf) -> None:
    hub.waits = 0.1
    job, backend = started(hub), HfBackend("l4x1")
    job.printed.append("one")
    assert whole_log(backend) == b"one\n"
    until(backend, REF, lambda _: hf._TAILS[hub.endpoint, REF].over)
    job.printed.append("two")
    job.stage = "ERROR"
    assert whole_log(backend, 4) == b"two\n"


# Run for real: the guard in the container, and what it brings back


@pytest.fixture
def running_hub(hub: FakeHf) -> FakeHf:
    hub.runs = True
    return hub


@pytest.mark.parametrize(
    ("code", "state"),
    [(0, State.SUCCEEDED), (3, State.FAILED), (85, State.PREEMPTED)],
)
def test_a_job_runs_to_its_end_and_brings_home_what_it_made(
    running_hub: FakeHf, tmp_path: Path, code: int, state: State
) -> None:
    backend = HfBackend("l4x1")
    text = (
        f"mkdir -p runs/x; printf made > runs/x/f; echo hi; echo bad >&2; exit {code}"
    )
    ref = backend.submit(shell(text))
    said = ended(backend, ref)
    assert (said.state, said.exit_code) == (state, code)
    assert whole_log(backend) == b"hi\nbad\n"
    assert backend.fetch(ref, tmp_path / "home") == ["runs/x/f"]
    assert (tmp_path / "home" / "runs" / "x" / "f").read_text() == "made"


def test_a_secret_reaches_the_script_and_nothing_else(
    running_hub: FakeHf, tmp_path: Path
) -> None:
    text = (
        'mkdir -p runs/x; echo "$TOKEN" > ../seen; echo "it is $TOKEN"; printf "$TOKEN"'
    )
    backend = HfBackend("l4x1")
    ref = backend.submit(shell(text, secrets={"TOKEN": SECRET}))
    assert ended(backend, ref).state is State.SUCCEEDED
    assert whole_log(backend) == b"it is ***\n***\n"
    assert not [n for n, data in running_hub.files.items() if SECRET.encode() in data]
    for method, path, body in running_hub.requests:
        if (method, path) == ("POST", "/api/jobs/tester"):
            body = {**body, "secrets": None}
        assert SECRET not in json.dumps([method, path, body], ensure_ascii=False)


def test_the_guard_keeps_the_time_limit_and_saves_a_checkpoint(
    running_hub: FakeHf, tmp_path: Path
) -> None:
    text = (
        "trap 'mkdir -p runs/x; echo saved > runs/x/f; exit 85' TERM\n"
        "while true; do sleep 0.05; done"
    )
    backend = HfBackend("l4x1")
    ref = backend.submit(shell(text, limit=2.0))
    said = ended(backend, ref)
    assert (said.state, said.exit_code) == (State.TIMEOUT, 124)
    assert backend.fetch(ref, tmp_path) == ["runs/x/f"]


def test_a_job_goes_on_in_a_new_container_where_it_was(
    running_hub: FakeHf, tmp_path: Path
) -> None:
    text = (
        "[ -f runs/x/f ] && { cat runs/x/f; echo $TOKEN; exit 0; }\n"
        "mkdir -p runs/x; echo step 7 > runs/x/f; echo first; exit 85"
    )
    backend = HfBackend("l4x1")
    ref = backend.submit(shell(text, secrets={"TOKEN": "one secret"}))
    assert ended(backend, ref).exit_code == 85
    assert whole_log(backend) == b"first\n"
    assert backend.charge(ref)["limit"] == 3600
    backend.restart(ref, {"TOKEN": "another"})
    assert ended(backend, ref).state is State.SUCCEEDED
    assert whole_log(backend) == b"step 7\n***\n"
    assert list(backend.list()) == [ref]
    one, two = running_hub.submitted()
    assert two["secrets"] == {"TOKEN": "another"}
    assert two["labels"] == {**one["labels"], "attempt": "2"}
    same = ("flavor", "timeoutSeconds", "environment", "volumes", "dockerImage")
    assert [one[name] for name in same] == [two[name] for name in same]


def test_a_job_that_runs_is_not_started_again(hub: FakeHf) -> None:
    started(hub)
    HfBackend("l4x1").restart(REF, {})
    assert len(hub.jobs) == 1


def test_a_copy_that_was_cut_off_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (Path(hf.__file__).parent, Path(hf.__file__).parents[1]):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "guard", raising=False)
    import guard

    work, home, new = tmp_path / "work", tmp_path / "home", tmp_path / "new"
    (work / "runs" / "c1").mkdir(parents=True)
    (work / "runs" / "c1" / "w").write_text("1")
    home.mkdir()
    kept = guard.Kept(work, "runs", home)
    kept.save()
    (work / "runs" / "c1" / "w").unlink()
    for name in ("c2", "c3"):
        (work / "runs" / name).mkdir()
        (work / "runs" / name / "w").write_text(name)
    copied = guard.copied

    def killed(source: Path, target: Path) -> str:
        if "c3" in str(source):
            raise KeyboardInterrupt
        return str(copied(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(guard, "copied", killed)
        with pytest.raises(KeyboardInterrupt):
            kept.save()
    guard.Kept(new, "runs", home).restore()
    files = [path for path in new.rglob("*") if path.is_file()]
    assert [path.read_text() for path in files] == ["1"]
    kept.save()
    manifest = json.loads((home / "MANIFEST.json").read_text())
    assert sorted(manifest) == ["runs/c2/w", "runs/c3/w"]
    assert not (home / "made" / "runs" / "c1" / "w").exists()


# What is refused, and what is broken


def fetched(hub: FakeHf, manifest: dict[str, str], tmp_path: Path) -> list[str]:
    started(hub)
    base = "tester/jobs-artifacts/carl/a1"
    hub.files[f"{base}/MANIFEST.json"] = json.dumps(manifest).encode()
    hub.files[f"{base}/made/f"] = b"made"
    return HfBackend("l4x1").fetch(REF, tmp_path / "home")


def test_a_file_that_is_not_as_it_was_saved_does_not_come(
    hub: FakeHf, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match="f was just being saved"):
        fetched(hub, {"f": "0" * 64}, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../f", "/f"])
def test_no_file_is_put_outside_of_the_folder(
    hub: FakeHf, tmp_path: Path, name: str
) -> None:
    with pytest.raises(RemoteError, match="is no file of a job"):
        fetched(hub, {name: "0" * 64}, tmp_path)


def test_a_download_that_breaks_is_taken_up_again(hub: FakeHf, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(b"made").hexdigest()
    for number in range(1, 4):
        hub.jobs.clear()
        hub.fault = lambda method, path: None
        started(hub)
        hub.fault = faulty(number - 1, "after")
        backend = HfBackend("l4x1")
        base = "tester/jobs-artifacts/carl/a1"
        hub.files[f"{base}/MANIFEST.json"] = json.dumps({"f": digest}).encode()
        hub.files[f"{base}/made/f"] = b"made"
        ref = f"tester/{next(iter(hub.jobs))}"
        home = tmp_path / str(number)
        assert persistent(lambda b=backend, r=ref, h=home: b.fetch(r, h)) == ["f"]
        assert (home / "f").read_bytes() == b"made"


def test_nothing_saved_is_said(hub: FakeHf, tmp_path: Path) -> None:
    started(hub)
    with pytest.raises(UsageError, match="has saved nothing"):
        HfBackend("l4x1").fetch(REF, tmp_path)


def test_a_public_bucket_gets_no_file(hub: FakeHf) -> None:
    hub.public = True
    with pytest.raises(ConfigurationError, match="is public"):
        HfBackend("l4x1").submit(shell("true"))
    assert hub.files == {}
    assert hub.jobs == {}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, UsageError),
        (401, ConfigurationError),
        (402, ConfigurationError),
        (403, ConfigurationError),
        (404, UsageError),
        (422, UsageError),
        (500, RemoteError),
    ],
)
def test_an_answer_is_an_error_with_a_remedy_and_without_a_secret(
    hub: FakeHf, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[CarlError]
) -> None:
    from backends import fake_hf

    def echo(self: Any, api: str, jobs: str, name: str, *, body: Any) -> None:
        self._json({"error": f"not {json.dumps(body['secrets'])}"}, status)

    monkeypatch.setattr(fake_hf._Handler, "_run_job", echo)
    with pytest.raises(kind) as no:
        HfBackend("l4x1").submit(shell("true", secrets={"TOKEN": "s3cr3t value"}))
    assert no.value.remedy
    assert "Hugging Face" in str(no.value)
    shown = f"{no.value!r} {no.value} {no.value.__cause__!r}"
    assert "s3cr3t value" not in shown
    assert "***" in str(no.value)


def test_no_token_is_said(hub: FakeHf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(
        "huggingface_hub.utils._auth._get_token_from_file", lambda: None
    )
    with pytest.raises(ConfigurationError) as no:
        HfBackend("l4x1").submit(shell("true"))
    assert "HF_TOKEN" in no.value.remedy


def test_a_server_that_is_not_there_is_a_remote_error(
    hub: FakeHf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="Hugging Face"):
        HfBackend("l4x1", "me").status(REF)


def test_offline_is_said(hub: FakeHf, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="HF_HUB_OFFLINE"):
        HfBackend("l4x1", "me").status(REF)


def test_a_folder_of_a_host_is_refused(hub: FakeHf) -> None:
    with pytest.raises(UsageError, match="no folder that stays"):
        HfBackend("l4x1").submit(shell("true", copy="/shared"))


def test_the_client_of_the_vendor_sees_the_same_job(hub: FakeHf) -> None:
    from huggingface_hub import HfApi

    job = started(hub)
    job.printed, job.stage = ["one", "two"], "COMPLETED"
    api, number = HfApi(endpoint=hub.endpoint), REF.partition("/")[2]
    lines = api.fetch_job_logs(job_id=number, namespace="tester")
    assert list(lines) == ["one", "two"]
    info = api.inspect_job(job_id=number, namespace="tester")
    assert (info.labels or {})["carl"] == "a1"
    assert lifecycle.ATTEMPTS > 1
    assert errors.LONGEST_WAIT >= 3
