"""Reading a repository of the Hugging Face hub at one commit.

huggingface_hub is imported only here, and only when a hub id has to be resolved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from carl_bundle.errors import ConfigurationError, RemoteError, UsageError
from carl_bundle.spec.locate import SHA
from carl_bundle.spec.model_files import MAX_BYTES, NAMES, ModelFiles

TIMEOUT = 20.0
"""Seconds to wait for an answer of the hub."""


def read_repository(repo: str, revision: str | None) -> ModelFiles:
    """Return the small files of a model repository.

    A pinned commit that is in the local cache needs no network.

    Raises:
        UsageError: There is no such repository, revision or config.json, or it
            cannot be resolved offline.
        ConfigurationError: Access needs a token or a granted request.
        RemoteError: The hub does not answer.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    pinned = revision is not None and SHA.fullmatch(revision) is not None
    if pinned and isinstance(
        try_to_load_from_cache(repo, "config.json", revision=revision), str
    ):
        return _download(repo, str(revision), NAMES, None)
    # Asking for the list first fails at once without network; a download retries.
    with explained("model", repo, revision):
        info = HfApi().model_info(
            repo, revision=revision, timeout=TIMEOUT, files_metadata=True
        )
    siblings = info.siblings or []
    present = {file.rfilename: file.size or 0 for file in siblings}
    names = [name for name in NAMES if name in present]
    weights = sum(
        size for name, size in present.items() if name.endswith(".safetensors")
    )
    for name in names:
        if present[name] > MAX_BYTES:
            raise UsageError(
                f"{repo}: {name} is larger than {MAX_BYTES} bytes",
                remedy="this is not the file that transformers writes",
            )
    return _download(repo, str(info.sha), names, weights or None)


def dataset_commit(repo: str, revision: str | None) -> str:
    """Return the commit of a dataset repository. Raises as `read_repository`."""
    if revision is not None and SHA.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with explained("dataset", repo, revision):
        info = HfApi().dataset_info(repo, revision=revision, timeout=TIMEOUT)
    return str(info.sha)


def _download(
    repo: str, commit: str, names: tuple[str, ...] | list[str], weights: int | None
) -> ModelFiles:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    content: dict[str, bytes] = {}
    cached_only = False
    with explained("model", repo, commit):
        for name in names:
            try:
                path = hf_hub_download(repo, name, revision=commit)
            except LocalEntryNotFoundError:
                # No network: the cache may still hold the other files.
                cached_only = True
            except EntryNotFoundError:
                continue
            else:
                content[name] = Path(path).read_bytes()
    if "config.json" not in content and cached_only:
        raise RemoteError(
            f"cannot reach the hub for {repo}, and the cache does not hold it",
            remedy="connect once, or render the output of `carl bundle --resolved`",
        )
    if "config.json" not in content:
        raise UsageError(
            f"{repo} holds no config.json", remedy="name a transformers model"
        )
    has_template = (
        "chat_template.jinja" in content
        or b'"chat_template"' in content.get("tokenizer_config.json", b"")
    )
    if cached_only and not has_template:
        raise RemoteError(
            f"cannot tell without network whether {repo} has a chat template",
            remedy="connect once, or render the output of `carl bundle --resolved`",
        )
    return ModelFiles(repo, content, commit, None, weights)


@contextmanager
def explained(kind: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn errors of huggingface_hub into ours."""
    # HTTPError is that of httpx or httpx2, whichever huggingface_hub speaks.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    pin = (
        f"set {kind if kind == 'model' else 'data'}.revision to a 40-digit commit id, "
        "or render the output of `carl bundle --resolved`, made where there is network"
    )
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UsageError(
            f"the {kind} {repo} is not pinned, and the hub is switched off", remedy=pin
        ) from error
    except (GatedRepoError, LocalTokenNotFoundError) as error:
        raise ConfigurationError(
            f"the {kind} {repo} is gated",
            remedy="ask for access on its page and set HF_TOKEN",
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"the {kind} {repo} has no revision {revision!r}",
            remedy="name a branch, a tag or a commit that exists",
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"there is no {kind} {repo!r}: no such directory here, and none on the hub",
            remedy="check the name; a private repository needs HF_TOKEN",
        ) from error
    except HFValidationError as error:
        raise UsageError(
            f"{repo!r} is no repository id", remedy="write owner/name"
        ) from error
    except (HTTPError, OSError) as error:
        raise RemoteError(
            f"the hub does not answer for {repo}: {type(error).__name__}",
            remedy=f"try again; without network, {pin}",
        ) from error
