"""Asking pip: what would be installed, and the download. Its own settings hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from carl_bundle.errors import CarlError, ConfigurationError, RemoteError
from carl_bundle.packing.target import Target
from carl_bundle.packing.wheel import Wheel

QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
_NO_ANSWER = ("Retrying (", "Could not fetch URL", "ReadTimeoutError")


class NoSuchWheelError(ConfigurationError):
    """No wheel fits: of that version, for that target, or with all the others."""


def report(
    requirements: Sequence[str], target: Target, *, alone: bool = False
) -> list[Wheel]:
    """What pip would install for a target; markers are those of this machine.

    Args:
        requirements: What is asked for.
        target: Whose wheels are chosen.
        alone: Leave out what they depend on.

    Raises:
        NoSuchWheelError: pip finds no set of wheels.
        RemoteError: The package index does not answer.
    """
    words = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    words += ["--target", "unused", *target.pip_options]
    words += ["--no-deps"] if alone else []
    found = json.loads(_pip([*words, *requirements], target))
    return [Wheel.of(item) for item in found["install"]]


def download(lock: Path, target: Target, folder: Path) -> None:
    """Fetch the wheels of a lock; pip checks their digests. Raises as `report`."""
    words = ["download", "--quiet", "--no-deps", "--require-hashes"]
    words += ["--requirement", str(lock), "--dest", str(folder)]
    _pip([*words, *target.pip_options], target)


def _pip(words: Sequence[str], target: Target) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise _failure(done.stderr, target)
    return done.stdout


def _failure(text: str, target: Target) -> CarlError:
    if "No module named pip" in text:
        return ConfigurationError(
            f"{sys.executable} has no pip", remedy=f"{sys.executable} -m ensurepip"
        )
    lines = [line for line in text.splitlines() if line.startswith("ERROR:")]
    reason = "; ".join(line.removeprefix("ERROR:").strip() for line in lines)
    if any(sign in text for sign in _NO_ANSWER):
        return RemoteError(
            f"the package index does not answer: {reason}",
            remedy="try again, or name a folder of wheels in PIP_FIND_LINKS",
        )
    return NoSuchWheelError(
        f"pip finds no wheels for {target}: {reason or text.strip()[-500:]}",
        remedy="correct `dependencies:`; of a package without a wheel, build one with "
        "pip wheel and name its folder in PIP_FIND_LINKS",
    )
