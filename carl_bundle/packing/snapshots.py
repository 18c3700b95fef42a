"""Models and data sets of the hub, as folders that a script finds without it.

A model lies where the hub's own cache keeps it, so the script asks for its revision and
gets just that. The cache of data sets holds no files, but rows prepared for one version
of a library; so a data set is a folder with its name, which `datasets` prefers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import yaml

from carl_bundle.errors import UsageError
from carl_bundle.packing.sources import sources
from carl_bundle.spec.hub import TIMEOUT, explained
from carl_bundle.spec.locate import SHA
from carl_bundle.spec.train_spec import TrainSpec

HUB = "hub"
"""The folder of a pack that takes the place of the hub's cache."""

_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_CARD = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_DUPLICATES = ("original/*", "onnx/*", "openvino/*", "consolidated*", ".git*")


@dataclass(frozen=True)
class Snapshot:
    """A repository of the hub at one commit.

    Attributes:
        kind: What it holds.
        repo: Its id.
        revision: Its commit.
        code: Whether its Python files are needed.
        weights: Whether its weights are.
    """

    kind: Literal["model", "dataset"]
    repo: str
    revision: str
    code: bool = False
    weights: bool = True

    @property
    def folder(self) -> str:
        """Where it lies in a pack."""
        if self.kind == "dataset":
            return self.repo
        return f"{HUB}/models--{self.repo.replace('/', '--')}/snapshots/{self.revision}"

    def wants(self, name: str) -> bool:
        """Whether a file of the repository is used: of a model, no pickles."""
        if any(fnmatch(name, pattern) for pattern in _DUPLICATES):
            return False
        patterns = (*_MODEL_FILES, *_CARD, *["*.py"] * self.code)
        patterns += ("*.safetensors",) * self.weights
        return self.kind == "dataset" or any(fnmatch(name, one) for one in patterns)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file that is used.

        Raises:
            UsageError: There is no such repository, or no weights that can be used.
            ConfigurationError: Access needs a token.
            RemoteError: The hub does not answer.
        """
        from huggingface_hub import HfApi

        with explained(self.kind, self.repo, self.revision):
            info = HfApi().repo_info(
                self.repo,
                repo_type=self.kind,
                revision=self.revision,
                timeout=TIMEOUT,
                files_metadata=True,
            )
        siblings = getattr(info, "siblings", None) or []
        files = {one.rfilename: one.size or 0 for one in siblings}
        found = {name: size for name, size in files.items() if self.wants(name)}
        weights = any(name.endswith(".safetensors") for name in found)
        if self.kind == "model" and self.weights and not weights:
            raise UsageError(
                f"the model {self.repo} holds no .safetensors",
                remedy="name a model whose weights are not pickled",
            )
        return found

    def download(self, pack: Path, names: list[str]) -> None:
        """Fetch its files into a pack. Raises as `sizes`."""
        from huggingface_hub import hf_hub_download

        folder = pack / self.folder
        with explained(self.kind, self.repo, self.revision):
            for name in names:
                hf_hub_download(
                    self.repo,
                    name,
                    repo_type=self.kind,
                    revision=self.revision,
                    local_dir=folder,
                )
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    def licence(self, pack: Path) -> str:
        """What the head of its card names; unknown if it names none."""
        card = pack / self.folder / "README.md"
        text = card.read_text("utf-8", "replace") if card.is_file() else ""
        if not text.startswith("---\n"):
            return "unknown"
        try:
            head: Any = yaml.safe_load(text[4:].partition("\n---")[0])
        except yaml.YAMLError:
            return "unknown"
        named = head.get("license") if isinstance(head, dict) else None
        return str(named or "unknown")


def snapshots(frozen: TrainSpec) -> list[Snapshot]:
    """What a spec reads from the hub. UsageError if a part of it is not pinned."""
    return list(dict.fromkeys(_named(frozen)))


def _named(frozen: TrainSpec) -> Iterator[Snapshot]:
    model, code = frozen.model, frozen.model.trust_remote_code
    commit = (model.frozen and model.frozen.commit) or model.revision
    if not model.is_builtin and not Path(model.id).exists():
        yield _pinned("model", model.id, commit, code)
    other = model.tokenizer
    if other not in (None, model.id) and not Path(other).exists():
        tokenizer = model.frozen.tokenizer_commit if model.frozen else None
        pinned = _pinned("model", other, tokenizer, code)
        yield replace(pinned, weights=False)
    for one in sources(frozen):
        if one.source == "hub":
            yield _pinned("dataset", one.id, one.revision, False)


def _pinned(
    kind: Literal["model", "dataset"], repo: str, revision: str | None, code: bool
) -> Snapshot:
    if revision is None or not SHA.fullmatch(revision):
        field = "model" if kind == "model" else "data"
        raise UsageError(
            f"the {kind} {repo} is not pinned to a commit",
            remedy=f"set {field}.revision to a 40-digit commit id",
        )
    return Snapshot(kind, repo, revision, code)
