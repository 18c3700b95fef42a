"""Hugging Face Jobs: a job is a container, and its files lie in a private bucket.

The bucket is the one that `hf jobs` itself uses. It is mounted in the container and can
be written there, so that the script comes, and what it makes goes, the same way. A job
is known by its labels: a second submission of it finds the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carl_bundle.backends.hf.bucket import Bucket, place, size, streamed
from carl_bundle.backends.hf.errors import MissingError, speaking
from carl_bundle.backends.hf.log import Tail
from carl_bundle.backends.hf.request import (
    IMAGE,
    LIMIT,
    QUIET,
    body,
    check,
    content,
    requested,
)
from carl_bundle.backends.hosts import ended
from carl_bundle.backends.protocol import Job, JobStatus, State
from carl_bundle.errors import (
    CarlError,
    ConfigurationError,
    RemoteError,
    UsageError,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobInfo

SETTLE, LOOKS = 2.0, 5  # seconds after which a job is surely listed, each of a few
LISTEN = 120.0  # seconds without a byte of a log; it is kept alive each 30
MISSING = "missing"
"""The raw state of a job that is not found; `lifecycle` waits before it is lost."""

STAGES = {
    "SCHEDULING": State.QUEUED,
    "RUNNING": State.RUNNING,
    "COMPLETED": State.SUCCEEDED,
    "CANCELED": State.STOPPED,
    "ERROR": State.FAILED,
}
HOURLY = {"second": 3600, "minute": 60, "hour": 1}
_TAILS: dict[tuple[str, str], Tail] = {}


@dataclass(frozen=True)
class Flavor:
    """A kind of machine that can be rented; memory as its vendor writes it."""

    name: str
    title: str
    cpu: str
    memory: str
    gpu: str
    usd_per_hour: float | None


class HfBackend:
    """Jobs in a namespace of Hugging Face; `ref` is NAMESPACE/ID of the first attempt.

    Attributes:
        flavor: The kind of machine.
        namespace: A user or an organisation; that of the token if it is empty.
    """

    name = "hf"

    def __init__(self, flavor: str, namespace: str = "") -> None:
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            get_session,
        )

        if not hasattr(HfApi, "batch_bucket_files"):
            remedy = "pip install -U 'huggingface_hub>=2.4'"
            raise ConfigurationError("huggingface_hub is too old", remedy=remedy)
        constants.HF_HUB_DISABLE_TELEMETRY = True
        get_session().timeout = 30.0  # none is set there
        self.api: HfApi = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        self.flavor, self._namespace = flavor, namespace

    @property
    def namespace(self) -> str:
        """Where the jobs are; ConfigurationError if no token tells."""
        if not self._namespace:
            with speaking():
                self._namespace = self.api.whoami()["name"]
        return self._namespace

    def flavors(self) -> Sequence[Flavor]:
        """What can be rented, at the prices of now."""
        with speaking():
            return [_flavor(one) for one in self.api.list_jobs_hardware()]

    def plan(self, job: Job) -> dict[str, Any]:
        """Also without a network or a token; then price and namespace are not known."""
        check(job)
        with contextlib.suppress(CarlError):
            self._namespace = self.namespace
        request = requested(job, self.flavor, self._namespace or "NAMESPACE")
        url = f"{self.api.endpoint}/api/jobs/{request['namespace']}"
        return {
            "flavor": self.flavor,
            "command": list(job.command),
            "folder": f"{request['volumes'][0].source}/{place(job.key)}",
            "files": {name: size(what) for name, what in content(job).items()},
            "request": {"method": "POST", "url": url, "json": body(request)},
            "secrets": sorted(job.secrets),
            "limit": job.limit or LIMIT,
            "usd_per_hour": self.price(),
        }

    def price(self) -> float | None:
        """US dollars an hour, None if nobody tells."""
        with contextlib.suppress(CarlError):
            for one in self.flavors():
                if one.name == self.flavor:
                    return one.usd_per_hour
        return None

    def charge(self, ref: str) -> dict[str, Any]:
        """What `restart` may cost, as in a plan."""
        info = self._newest(ref)
        limit = _labels(info).get("limit", str(LIMIT)) if info else LIMIT
        facts = {"flavor": self.flavor, "limit": float(limit)}
        return {**facts, "usd_per_hour": self.price()}

    def submit(self, job: Job) -> str:
        check(job)
        found = self.find(job.key)
        if found is not None:
            return found
        Bucket(self.api, self.namespace, job.key).send(content(job))
        return self._run(requested(job, self.flavor, self.namespace))

    def find(self, key: str) -> str | None:
        attempts = self._attempts(self.namespace, key)
        return f"{self.namespace}/{attempts[0].id}" if attempts else None

    def restart(self, ref: str, secrets: Mapping[str, str]) -> None:
        info = self._newest(ref)
        if info is None:
            raise UsageError(f"there is no job {ref}", remedy="carl train starts one")
        if not has_ended(info):
            return
        _TAILS.pop((self.api.endpoint, ref), None)
        attempt = str(_attempt(info) + 1)
        labels = {**_labels(info), "attempt": attempt}
        self._run(
            {
                "image": info.docker_image or IMAGE,
                "command": [*(info.command or [])[:-1], attempt],
                "env": info.environment or {},
                "secrets": dict(secrets),
                "flavor": info.flavor,
                "timeout": int(labels["limit"]),
                "labels": labels,
                "volumes": info.volumes,
                "namespace": _split(ref)[0],
            }
        )
        for _ in range(LOOKS):
            newest = self._newest(ref)
            if newest is not None and str(_attempt(newest)) == attempt:
                return
            time.sleep(SETTLE)  # else `status` would tell of the one before

    def status(self, ref: str) -> JobStatus:
        info = self._newest(ref)
        if info is None:
            reason = "Hugging Face has no such job"
            return JobStatus(State.UNKNOWN, reason, raw=MISSING)
        return as_status(info, self._exit(ref, info))

    def log(self, ref: str, offset: int, count: int = 1 << 20) -> bytes:
        """Of its last attempt."""
        name = (self.api.endpoint, ref)
        while True:
            tail = _TAILS.get(name)
            if tail is None or not tail.serves(offset):
                least = max(tail.seen, tail.least or 0) if tail else None
                tail = _TAILS[name] = self._tail(ref, offset, least)
            found = tail.take(offset, count)
            if found or not tail.over or tail.is_final:
                return found
            if not tail.ended and not has_ended(self._newest(ref)):
                return b""

    def stop(self, ref: str, grace: float) -> None:
        """Cancel it. How long it may then take for a checkpoint is not ours to say."""
        info = self._newest(ref)
        if info is None or has_ended(info):
            return
        try:
            with speaking():
                self.api.cancel_job(job_id=info.id, namespace=_split(ref)[0])
        except UsageError:
            if not has_ended(self._newest(ref)):  # it just has
                raise

    def fetch(self, ref: str, target: Path) -> list[str]:
        """What was saved last: all that it made, once it has ended."""
        info = self._newest(ref)
        if info is None:
            raise UsageError(f"there is no job {ref}", remedy="carl list names them")
        return self._files(ref, info).fetch(target)

    def list(self) -> dict[str, JobStatus]:
        with speaking():
            found = [*self.api.list_jobs(namespace=self.namespace)]
        keys = {_labels(one).get("carl") for one in found} - {None}
        attempts = [_of(found, str(key)) for key in keys]
        return {
            f"{self.namespace}/{one[0].id}": as_status(one[-1], None)
            for one in attempts
        }

    def _newest(self, ref: str) -> JobInfo | None:
        """The last attempt of a job, None if there is no job."""
        namespace, job = _split(ref)
        try:
            with speaking():
                info = self.api.inspect_job(job_id=job, namespace=namespace)
        except MissingError:
            return None
        if info.status.stage == "DELETED":
            return None
        if not has_ended(info):
            return info
        return [info, *self._attempts(namespace, _key(info))][-1]

    def _attempts(self, namespace: str, key: str) -> Sequence[JobInfo]:
        """All jobs with a key, the first one first."""
        with speaking():
            labels = {"carl": key}
            return _of(self.api.list_jobs(labels=labels, namespace=namespace), key)

    def _run(self, request: dict[str, Any]) -> str:
        try:
            with speaking(request["secrets"].values()):
                info = self.api.run_job(**request)
        except RemoteError:
            time.sleep(SETTLE)  # it may have been started: whoever looks shall find it
            raise
        return f"{request['namespace']}/{info.id}"

    def _files(self, ref: str, info: JobInfo) -> Bucket:
        return Bucket(self.api, _split(ref)[0], _key(info))

    def _tail(self, ref: str, offset: int, least: int | None) -> Tail:
        info = self._newest(ref)
        if info is None:
            raise UsageError(f"there is no job {ref}", remedy="carl list names them")
        path = f"/api/jobs/{_split(ref)[0]}/{info.id}/logs"
        stream = partial(streamed, self.api, path, LISTEN)
        return Tail(stream, offset, has_ended(info), least)

    def _exit(self, ref: str, info: JobInfo) -> dict[str, Any] | None:
        """What the guard wrote of the end; it may be listed a moment after it."""
        stage, files = info.status.stage, self._files(ref, info)
        if stage not in ("ERROR", "CANCELED"):
            return None
        for attempt in range(2):
            said = files.read(f"exit-{_attempt(info)}.json")
            if said is not None:
                return dict(json.loads(said))
            if stage == "ERROR" and attempt == 0:
                time.sleep(SETTLE)
        return None


def as_status(info: JobInfo, told: dict[str, Any] | None) -> JobStatus:
    """What Hugging Face, and exit.json if it is `told`, say of an attempt."""
    raw = str(info.status.stage)
    said = info.status.message or ""
    seconds = info.durations.running_secs if info.durations else None
    started = info.started_at.timestamp() if info.started_at else None
    state, code = STAGES.get(raw, State.UNKNOWN), None
    if state is State.SUCCEEDED:
        code = 0
    elif state is State.UNKNOWN:
        said = f"Hugging Face says {raw}"
    elif told is not None:
        code = told["code"]
        if state is State.FAILED:
            state, said = ended(code, told["reason"])
    elif state is State.FAILED and (seconds or 0.0) >= _limit(info):
        state, said = State.TIMEOUT, "its time limit"
    return JobStatus(state, said, code, started, seconds, raw)


def has_ended(info: JobInfo | None) -> bool:
    """Whether an attempt is over."""
    return info is None or info.status.stage in ("COMPLETED", "CANCELED", "ERROR")


def _flavor(one: Any) -> Flavor:
    gpu = one.accelerator
    gpu = f"{gpu.quantity}x {gpu.model}, {gpu.vram}" if gpu else ""
    hours = HOURLY.get(one.unit_label)
    price = one.unit_cost_usd * hours if hours else None
    return Flavor(one.name, one.pretty_name, one.cpu, one.ram, gpu, price)


def _of(jobs: Iterable[JobInfo], key: str) -> list[JobInfo]:
    found = [one for one in jobs if _key(one) == key]
    return sorted(found, key=lambda one: (_attempt(one), one.id))


def _labels(info: JobInfo) -> dict[str, str]:
    return info.labels or {}


def _key(info: JobInfo) -> str:
    return _labels(info).get("carl", "")


def _attempt(info: JobInfo) -> int:
    return int(_labels(info).get("attempt", "1"))


def _limit(info: JobInfo) -> float:
    return float(_labels(info).get("limit", "inf"))


def _split(ref: str) -> tuple[str, str]:
    namespace, _, job = ref.partition("/")
    return namespace, job
