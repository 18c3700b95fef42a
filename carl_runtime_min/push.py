"""Sending the result to the hub, when the phases before have succeeded."""

from __future__ import annotations

from typing import Any

from carl_runtime_min.run import RunDir


def push_result(run: RunDir, settings: dict[str, Any]) -> int:
    """Upload the model folder; credentials come from the environment or the keyring."""
    from huggingface_hub import HfApi

    hub = HfApi()
    repo = hub.create_repo(
        settings["repo"], private=settings["private"], exist_ok=True
    ).repo_id
    hub.upload_folder(repo_id=repo, folder_path=run.path / "model")
    hub.upload_file(
        repo_id=repo, path_in_repo="run.json", path_or_fileobj=run.path / "run.json"
    )
    print(f"push: the model is at {repo}")
    return 0
