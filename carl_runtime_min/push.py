"""Sending the result to the hub, when the phases before have succeeded."""

from __future__ import annotations

from typing import Any

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import Run


def push_result(run: Run, settings: dict[str, Any]) -> int:
    """Upload the model folder; credentials come from the environment or the keyring."""
    from huggingface_hub import HfApi

    hub, name, model = HfApi(), settings["repo"], run.path / "model"
    record, own = run.path / "run.json", ["training_args.bin", "ref/*"]
    try:
        repo = hub.create_repo(name, private=settings["private"], exist_ok=True).repo_id
        hub.upload_folder(repo_id=repo, folder_path=model, ignore_patterns=own)
        hub.upload_file(repo_id=repo, path_in_repo=record.name, path_or_fileobj=record)
    except Exception as error:  # refused, no network, ...: the model stays here
        remedy = "check HF_TOKEN and the name, then run it again: only the push is left"
        raise CarlError(f"push: {error}", remedy=remedy, exit_code=5) from error
    print(f"push: the model is at {repo}")
    return 0
