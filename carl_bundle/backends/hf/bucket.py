"""The files of a job on Hugging Face: a folder in a private bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from carl_bundle.backends.hf.errors import MissingError, speaking
from carl_bundle.errors import ConfigurationError, RemoteError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BUCKET = "jobs-artifacts"
"""The name that `hf jobs` gives it too."""


def place(key: str) -> str:
    """The folder of a job."""
    return f"carl/{key}"


class Bucket:
    """What lies in the folder of one job."""

    def __init__(self, api: HfApi, namespace: str, key: str) -> None:
        self.api, self.name, self.folder = api, f"{namespace}/{BUCKET}", place(key)

    def send(self, files: Mapping[str, bytes | Path]) -> None:
        """Put files there; to do it again does no harm.

        Raises:
            ConfigurationError: The bucket is public.
        """
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            disable_progress_bars,
        )

        disable_progress_bars()
        with speaking():
            self.api.create_bucket(self.name, private=True, exist_ok=True)
            if not self.api.bucket_info(self.name).private:
                remedy = f"make it private: {self.api.endpoint}/buckets/{self.name}"
                raise ConfigurationError(f"{self.name} is public", remedy=remedy)
            added: list[tuple[str | Path | bytes, str]]
            added = [(what, f"{self.folder}/{name}") for name, what in files.items()]
            self.api.batch_bucket_files(self.name, add=added)

    def read(self, name: str) -> bytes | None:
        """A small file, None if it is not there."""
        try:
            return b"".join(self._stream(name))
        except MissingError:
            return None

    def fetch(self, target: Path) -> list[str]:
        """Copy what the job has saved below `target`; the names of the files.

        Raises:
            UsageError: Nothing is saved.
            RemoteError: A file is not as it was saved.
        """
        manifest = self.read("MANIFEST.json")
        if manifest is None:
            remedy = "wait a minute, or see carl logs"
            raise UsageError("the job has saved nothing", remedy=remedy)
        digests: dict[str, str] = json.loads(manifest)
        for name, digest in digests.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise RemoteError(f"{name} is no file of a job", remedy="look there")
            self._fetch(name, digest, target / path)
        return sorted(digests)

    def _fetch(self, name: str, digest: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft, found = target.with_name(f"{target.name}.part"), hashlib.sha256()
        try:
            with draft.open("wb") as file:
                for chunk in self._stream(f"made/{name}"):
                    found.update(chunk)
                    file.write(chunk)
            if found.hexdigest() != digest:
                raise RemoteError(f"{name} was just being saved", remedy="fetch again")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def _stream(self, name: str) -> Iterator[bytes]:
        path = quote(f"{self.folder}/{name}", safe="")
        return streamed(self.api, f"/buckets/{self.name}/resolve/{path}")


def streamed(api: HfApi, path: str, timeout: float = 30.0) -> Iterator[bytes]:
    """What the server answers, as it comes; `timeout`: seconds between two bytes."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    with speaking():
        headers = build_hf_headers(token=api.token)
        request = ("GET", f"{api.endpoint}{path}")
        with get_session().stream(*request, headers=headers, timeout=timeout) as answer:
            if answer.status_code != 200:
                answer.read()
                hf_raise_for_status(answer)
            yield from answer.iter_bytes()


def size(what: bytes | Path) -> int:
    """Bytes of a file that is to be sent."""
    return what.stat().st_size if isinstance(what, Path) else len(what)
