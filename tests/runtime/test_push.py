"""What is sent to the hub, and that nothing else is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from carl_runtime_min.push import push_result
from carl_runtime_min.run import write_json
from tests.trainers import run_dir


class Hub:
    """Stands for the hub: notes what it is asked to do."""

    calls: list[tuple[str, dict[str, Any]]]

    def create_repo(self, repo_id: str, **given: Any) -> Any:
        self.calls.append(("create", {"repo_id": repo_id, **given}))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, **given: Any) -> None:
        self.calls.append(("folder", given))

    def upload_file(self, **given: Any) -> None:
        self.calls.append(("file", given))


@pytest.mark.parametrize("private", [True, False])
def test_the_model_and_the_record_of_the_run_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, private: bool
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    write_json(tmp_path / "run.json", {})
    settings = {"repo": "result", "private": private}
    assert push_result(run_dir(tmp_path, "push"), settings) == 0
    create, folder, file = Hub.calls
    assert create == (
        "create",
        {"repo_id": "result", "private": private, "exist_ok": True},
    )
    assert folder == (
        "folder",
        {"repo_id": "me/result", "folder_path": tmp_path / "model"},
    )
    assert file[1]["path_or_fileobj"] == tmp_path / "run.json"
    assert "me/result" in capsys.readouterr().out
