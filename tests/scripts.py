"""Scripts as a user gets them: rendered by `carl bundle`, then run."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.trainers import Asked

SMALL = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "max_length": 96,
    "save_steps": 2,
}
"""A phase for a tiny model."""

GROUPS = {"num_generations": 4, "max_completion_length": 8}


def render(folder: Path, spec: dict[str, Any], **flags: Any) -> Path:
    """`carl bundle carl.yaml -o train.py` in `folder`."""
    from carl_bundle.cli.bundle import bundle

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "carl.yaml").write_text(yaml.safe_dump(spec))
    script = folder / "train.py"
    assert bundle(str(folder / "carl.yaml"), output=script, **flags) == 0
    return script


def load(script: Path) -> ModuleType:
    """The script as a module: nothing happens until its main() is called."""
    name = f"script_{abs(hash(script))}"
    found = importlib.util.spec_from_file_location(name, script)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # where dataclasses look up what annotations name
    found.loader.exec_module(module)
    return module


@contextmanager
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def here(script: Path, *arguments: str, module: ModuleType | None = None) -> int:
    """The exit code of the script with these arguments, run in this process."""
    module = module or load(script)
    with pytest.MonkeyPatch.context() as patch, signals_restored():
        patch.chdir(script.parent)
        patch.setattr(sys, "argv", [str(script), *arguments])
        return int(module.main())


def stop_in_step(module: ModuleType, step: int) -> None:
    """Ask the next phase of a loaded script to stop when it begins a step."""
    fit = module.fit

    def stopped(trainer: Any, run: Any, *rest: Any, **given: Any) -> bool:
        module.fit = fit
        trainer.add_callback(Asked(run.path, step))
        return bool(fit(trainer, run, *rest, **given))

    module.fit = stopped


def environment() -> dict[str, str]:
    """What a script gets in the tests: no network, one thread."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **offline}


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python train.py ...`, to its end."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=script.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


class Running:
    """`python train.py ...`, while it runs."""

    def __init__(self, script: Path, *arguments: str) -> None:
        self.log = script.parent / "log.txt"
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(script), *arguments],
                cwd=script.parent,
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def until(self, condition: Callable[[], Any], seconds: float = 120) -> Any:
        """Wait for `condition` to hold; what it says."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited {seconds} s in vain:\n{self.output}")

    def until_said(self, words: str) -> None:
        self.until(lambda: words in self.output)

    def code(self) -> int:
        return self.process.wait(timeout=120)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
