"""Hugging Face Jobs on the loopback interface: its buckets, its jobs and its faults.

Every request is held against hf_contract.json. Jobs can be run for real: a bucket is
then a folder, and `/data` in a command stands for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote

import jsonschema

CONTRACT = json.loads(Path(__file__).with_name("hf_contract.json").read_text())
ENDS = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
TIME = "2026-01-02T03:04:05.678Z"
HARDWARE = [
    {"name": "cpu-basic", "cpu": "2 vCPU", "ram": "16 GB", "unitCostUSD": 0.0002},
    {
        "name": "l4x1",
        "cpu": "8 vCPU",
        "ram": "30 GB",
        "unitCostUSD": 0.0133,
        "accelerator": {
            "type": "gpu",
            "model": "L4",
            "quantity": "1",
            "vram": "24 GB",
            "manufacturer": "Nvidia",
        },
    },
]


@dataclass
class FakeJob:
    """A job and what it printed, line by line."""

    info: dict[str, Any]
    printed: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def stage(self) -> str:
        return str(self.info["status"]["stage"])

    @stage.setter
    def stage(self, value: str) -> None:
        self.info["status"]["stage"] = value


@dataclass
class FakeHf:
    """What the server holds, and what was asked of it.

    Attributes:
        files: Contents by their path: namespace/bucket/path.
        public: Whether the bucket is.
        requests: Method, path and body of each request, without the storage's.
        fault: Says what is to go wrong with a request: "before" it is done or "after"
            it the connection breaks, a status is answered, or None.
        cuts: After so many bytes each stream of events breaks, one after another.
        waits: Seconds that a stream of events of a job that runs stays open.
        runs: Whether jobs are run.
        broken: What was against the contract.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    public: bool = False
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    fault: Callable[[str, str], str | int | None] = lambda method, path: None
    cuts: list[int] = field(default_factory=list)
    waits: float = 10.0
    runs: bool = False
    broken: list[str] = field(default_factory=list)
    endpoint: str = ""
    # Of all servers: the client's cache knows what it has sent to any of them.
    xorbs: ClassVar[dict[str, list[bytes]]] = {}
    known: ClassVar[dict[str, bytes]] = {}

    def submitted(self) -> list[dict[str, Any]]:
        """The bodies of the jobs that were asked for, whether answered or not."""
        return [
            body
            for method, path, body in self.requests
            if method == "POST" and re.fullmatch(r"/api/jobs/[^/]+", path)
        ]

    def start(self, namespace: str, body: dict[str, Any]) -> FakeJob:
        number = f"68{len(self.jobs) + 1:022x}"
        secrets = body.get("secrets", {})
        info = {
            **{k: v for k, v in body.items() if k not in ("secrets", "timeoutSeconds")},
            "id": number,
            "secrets": dict.fromkeys(secrets, "***"),
            "createdAt": TIME,
            "startedAt": TIME,
            "status": {"stage": "RUNNING", "message": None},
            "durations": {"schedulingSecs": 1, "runningSecs": 2, "totalSecs": 3},
            "owner": {"id": "u1", "name": namespace, "type": "user"},
        }
        job = self.jobs[number] = FakeJob(info)
        if self.runs:
            env = {**os.environ, **body["environment"], **secrets}
            threading.Thread(target=self._run, args=(job, env), daemon=True).start()
        return job

    def _run(self, job: FakeJob, env: dict[str, str]) -> None:
        """Run a job: the files of its volume are there, and go back at its end."""
        [volume] = job.info["volumes"]
        base = f"{volume['source']}/{volume['path']}/"
        folder = Path(tempfile.mkdtemp(prefix="fake-hf-"))
        for name, content in list(self.files.items()):
            if name.startswith(base):
                path = folder / name.removeprefix(base)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        at = volume["mountPath"]
        command = [one.replace(at, str(folder), 1) for one in job.info["command"]]
        command[0] = sys.executable
        job.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert job.process.stdout is not None
        for line in job.process.stdout:
            job.printed.append(line.decode().removesuffix("\n"))
        code = job.process.wait()
        for path in filter(Path.is_file, folder.rglob("*")):
            self.files[base + path.relative_to(folder).as_posix()] = path.read_bytes()
        shutil.rmtree(folder)
        if job.stage not in ENDS:
            job.stage = "ERROR" if code else "COMPLETED"


@contextmanager
def serve(hub: FakeHf) -> Iterator[FakeHf]:
    """Answer until the block ends; sets `hub.endpoint`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        for job in hub.jobs.values():
            if job.process is not None:
                job.process.kill()
        server.shutdown()
        server.server_close()


class DropError(Exception):
    """The connection is to break."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHf

    def log_message(self, *args: object) -> None:
        pass

    def _any(self) -> None:
        try:
            raw = self._body()
            method, path = self.command, unquote(self.path.partition("?")[0])
            fault = None
            if path.startswith("/cas/"):
                return self._storage(path, raw)
            fault = self.hub.fault(method, path)
            if fault == "before":
                raise DropError
            if isinstance(fault, int):
                return self._json({"error": "wait"}, fault)
            self.after = fault == "after"
            self._api(method, path, raw)
        except (DropError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST = do_HEAD = do_PUT = _any  # noqa: N815

    after = False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, value: Any, status: int = 200) -> None:
        if self.after:
            raise DropError
        data = json.dumps(value).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "3")
        self.send_header("Content-Type", "application/json")
        self._finish(data)

    def _finish(self, data: bytes) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _api(self, method: str, path: str, raw: bytes) -> None:
        hub = self.hub
        for rule in CONTRACT["requests"]:
            if rule["method"] == method and re.fullmatch(rule["path"], path):
                break
        else:
            hub.broken.append(f"{method} {path} is not in the contract")
            return self._json({"error": "not found"}, 404)
        given: Any = None
        if rule.get("lines"):
            given = [json.loads(line) for line in raw.splitlines()]
        elif raw:
            given = json.loads(raw)
        hub.requests.append((method, path, given))
        try:
            jsonschema.validate(given, {**rule["body"], "$defs": CONTRACT["$defs"]})
            if rule.get("token", True) and not self.headers.get("Authorization"):
                return self._json({"error": "Invalid username or password."}, 401)
        except jsonschema.ValidationError as error:
            hub.broken.append(f"{method} {path}: {error.message}")
            return self._json({"error": error.message}, 422)
        getattr(self, f"_{rule['name']}")(*path.strip("/").split("/"), body=given)

    def _harnesses(self, *path: str, body: Any) -> None:
        self._json({"standardEnvVars": [], "harnesses": {}})

    def _whoami(self, *path: str, body: Any) -> None:
        self._json({"type": "user", "id": "u1", "name": "tester", "orgs": []})

    def _hardware(self, *path: str, body: Any) -> None:
        common = {"unitCostMicroUSD": 1, "unitLabel": "minute"}
        found = [{"prettyName": one["name"], **common, **one} for one in HARDWARE]
        self._json(found)

    def _run_job(self, api: str, jobs: str, namespace: str, *, body: Any) -> None:
        self._json(self.hub.start(namespace, body).info)

    def _list(self, api: str, jobs: str, namespace: str, *, body: Any) -> None:
        wanted = parse_qs(self.path.partition("?")[2]).get("label", [])
        found = [
            job.info
            for job in self.hub.jobs.values()
            if job.info["owner"]["name"] == namespace
            and all(
                job.info.get("labels", {}).get(one.partition("=")[0])
                == one.partition("=")[2]
                for one in wanted
            )
        ]
        self._json(found)

    def _job(self, namespace: str, number: str) -> FakeJob | None:
        job = self.hub.jobs.get(number)
        if job is None or job.info["owner"]["name"] != namespace:
            self._json({"error": "Job not found"}, 404)
            return None
        return job

    def _inspect(self, *path: str, body: Any) -> None:
        if job := self._job(*path[2:4]):
            self._json(job.info)

    def _cancel(self, *path: str, body: Any) -> None:
        if job := self._job(*path[2:4]):
            if job.stage in ENDS:
                return self._json({"error": "it has ended"}, 409)
            job.stage = "CANCELED"
            if job.process is not None:
                job.process.terminate()
            self._json(job.info)

    def _logs(self, *path: str, body: Any) -> None:
        job = self._job(*path[2:4])
        if job is None:
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        left = self.hub.cuts.pop(0) if self.hub.cuts else None
        for event in self._events(job):
            if left is not None:
                event, left = event[:left], left - len(event)
            self.wfile.write(event)
            self.wfile.flush()
            if left is not None and left <= 0:
                raise DropError

    def _events(self, job: FakeJob) -> Iterator[bytes]:
        yield _event("===== Job started at a time =====")
        told, end = 0, time.monotonic() + self.hub.waits
        while time.monotonic() < end:
            over = job.stage in ENDS and (
                job.process is None or job.process.poll() is not None
            )
            for line in job.printed[told:]:
                yield _event(line)
                told += 1
            if over and told == len(job.printed):
                return
            yield b": keep-alive\n\n"
            time.sleep(0.01)

    def _create_bucket(self, *path: str, body: Any) -> None:
        self._json({"url": f"{self.hub.endpoint}/buckets/{path[2]}/{path[3]}"})

    def _bucket(self, *path: str, body: Any) -> None:
        name = "/".join(path[2:4])
        private = not self.hub.public
        facts = {"id": name, "private": private, "size": 1, "totalFiles": 1}
        self._json({**facts, "createdAt": TIME})

    def _xet_token(self, *path: str, body: Any) -> None:
        end = int(time.time()) + 3600
        cas = f"{self.hub.endpoint}/cas"
        self._json({"accessToken": "xet", "exp": end, "casUrl": cas})

    def _batch(self, *path: str, body: Any) -> None:
        for one in body:
            name = f"{path[2]}/{path[3]}/{one['path']}"
            self.hub.files[name] = self.hub.known[one["xetHash"]]
        done = {"processed": len(body), "succeeded": len(body)}
        self._json({"success": True, **done, "failed": []})

    def _resolve(self, *path: str, body: Any) -> None:
        name = "/".join([*path[1:3], *path[4:]])
        data = self.hub.files.get(name)
        if data is None:
            return self._json({"error": "Entry not found"}, 404)
        if self.after:
            data, lost = data[: len(data) // 2], data
            self.send_response(200)
            self.send_header("Content-Length", str(len(lost)))
            self.end_headers()
            self.wfile.write(data)
            raise DropError
        self.send_response(200)
        self._finish(data)

    def _storage(self, path: str, raw: bytes) -> None:
        """The content-addressed storage, as the Rust client wants it."""
        kind = path.split("/")[3]
        if path.startswith("/cas/v1/xorbs/"):
            self.hub.xorbs[path.rpartition("/")[2]] = list(_chunks(raw))
            return self._json({"was_inserted": True})
        if path.startswith("/cas/v1/shards"):
            for name, terms in _shard(raw):
                parts = [b"".join(self.hub.xorbs[x][a:b]) for x, a, b in terms]
                self.hub.known[name] = b"".join(parts)
            return self._json({"result": 1})
        return self._json({"error": f"no {kind}"}, 404)


def _event(line: str) -> bytes:
    said = {"data": line, "timestamp": TIME}
    return f"data: {json.dumps(said, ensure_ascii=False)}\n\n".encode()


def _hash(data: bytes) -> str:
    words = (data[i : i + 8] for i in range(0, 32, 8))
    return "".join(f"{int.from_bytes(word, 'little'):016x}" for word in words)


def _chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a xorb, none of them compressed."""
    at = 0
    while at + 8 <= len(data) and data[at] == 0:
        size, scheme = int.from_bytes(data[at + 1 : at + 4], "little"), data[at + 4]
        assert scheme == 0, "HF_XET_XORB_COMPRESSION_POLICY is to be none"
        yield data[at + 8 : at + 8 + size]
        at += 8 + size


def _shard(data: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """The files that a shard describes: hash, and terms of xorb, first, last chunk."""

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 4], "little")

    at = 48
    while data[at : at + 32] != b"\xff" * 32:
        name, flags, count = _hash(data[at : at + 32]), number(at + 32), number(at + 36)
        terms = []
        for one in range(at + 48, at + 48 * (count + 1), 48):
            xorb = _hash(data[one : one + 32])
            terms.append((xorb, number(one + 40), number(one + 44)))
        yield name, terms
        at += 48 * (count + 1)
        at += 48 * count if flags & 1 << 31 else 0
        at += 48 if flags & 1 << 30 else 0
