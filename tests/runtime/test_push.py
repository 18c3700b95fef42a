"""What is sent to the hub, and that nothing else is."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from carl_runtime_min.errors import CarlError
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
    made = {"repo_id": "result", "private": private, "exist_ok": True}
    assert create == ("create", made)
    assert folder[1]["repo_id"] == file[1]["repo_id"] == "me/result"
    assert folder[1]["folder_path"] == tmp_path / "model"
    left_out = folder[1]["ignore_patterns"]
    assert any(fnmatch("training_args.bin", pattern) for pattern in left_out)
    assert not any(fnmatch("model.safetensors", pattern) for pattern in left_out)
    assert file[1]["path_or_fileobj"] == tmp_path / "run.json"
    assert "me/result" in capsys.readouterr().out


UNAUTHORIZED = httpx.Response(401, request=httpx.Request("POST", "https://hub/api"))


@pytest.mark.parametrize(
    "error",
    [
        HfHubHTTPError("not now", response=UNAUTHORIZED),
        HTTPError("not now"),  # of the client: there is no network
        OfflineModeIsEnabled("not now"),
    ],
)
@pytest.mark.parametrize("call", ["create_repo", "upload_folder", "upload_file"])
def test_a_push_that_fails_is_a_remote_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr(Hub, call, fail)
    with pytest.raises(CarlError, match="push: not now") as failed:
        push_result(run_dir(tmp_path, "push"), {"repo": "x", "private": True})
    assert failed.value.exit_code == 5
    assert "HF_TOKEN" in failed.value.remedy
