"""A hub on the loopback interface: model and dataset repositories with commits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "a" * 40
"""The commit of every branch of every repository."""


@dataclass
class FakeHub:
    """What the hub holds, and what was asked of it.

    Attributes:
        models: Files of each model repository.
        datasets: Names of the dataset repositories.
        rows: Files of those that have some.
        gated: Repositories that answer 403.
        requests: Method and path of each request.
    """

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: set[str] = field(default_factory=set)
    rows: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Answer for a hub until the block ends; sets `hub.endpoint`."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(self.path.partition("?")[0]).strip("/")
        if path.startswith("api/models/"):
            self._info(path.removeprefix("api/models/"), self.hub.models)
        elif path.startswith("api/datasets/"):
            names = {name: self.hub.rows.get(name, {}) for name in self.hub.datasets}
            self._info(path.removeprefix("api/datasets/"), names)
        elif "/resolve/" in path:
            repo, _, rest = path.partition("/resolve/")
            self._file(repo, *rest.split("/", 1))
        else:
            self._error(404, "EntryNotFound")

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def _info(self, path: str, repos: dict[str, dict[str, bytes]]) -> None:
        repo, _, revision = path.partition("/revision/")
        if repo in self.hub.gated:
            return self._error(403, "GatedRepo")
        if repo not in repos:
            return self._error(404, "RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self._error(404, "RevisionNotFound")
        files = repos[repo]
        siblings = [{"rfilename": n, "size": len(raw)} for n, raw in files.items()]
        body = {"id": repo, "sha": COMMIT, "siblings": siblings}
        return self._answer(200, json.dumps(body).encode(), {})

    def _file(self, repo: str, revision: str, name: str) -> None:
        rows = {f"datasets/{name}": files for name, files in self.hub.rows.items()}
        repos = self.hub.models | rows
        if repo not in repos:
            return self._error(404, "RepoNotFound")
        if revision != COMMIT:
            return self._error(404, "RevisionNotFound")
        raw = repos[repo].get(name)
        if raw is None:
            return self._error(404, "EntryNotFound")
        return self._answer(200, raw, {"ETag": f'"{len(raw)}-{name}"'})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-Repo-Commit": COMMIT,
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
