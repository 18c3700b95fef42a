"""One spec, one text: whatever the process, the place and the locale."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import carl_bundle
from carl_bundle.bundler.cut import runtime_root
from carl_bundle.bundler.render import templates_root

SPEC = "seed: 7\nrewards:\n  - {name: exact_answer}\n  - {function: 'mine.py:score'}\n"
MINE = "SCALE = 2.0\n\ndef score(completions):\n    return [SCALE, *completions]\n"
PACKAGES = Path(carl_bundle.__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "carl.yaml").write_text(SPEC)
    (folder / "mine.py").write_text(MINE)
    return folder


def digest(spec: Path, cwd: Path, packages: Path = PACKAGES, **environment: str) -> str:
    """The digest of what a fresh process prints for a spec."""
    found = subprocess.run(
        [sys.executable, "-m", "carl_bundle.cli.app", "bundle", str(spec)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(packages), **environment},
        capture_output=True,
        check=True,
    )
    assert found.stderr == b""
    assert b"\r" not in found.stdout
    assert b"\ndef score(completions):" in found.stdout
    return hashlib.sha256(found.stdout).hexdigest()


@pytest.fixture(scope="module")
def expected(project: Path) -> str:
    return digest(project / "carl.yaml", project)


@pytest.mark.parametrize("seed", ["0", "1", "2", "4294967295"])
def test_the_hash_seed_does_not_matter(project: Path, expected: str, seed: str) -> None:
    assert digest(project / "carl.yaml", project, PYTHONHASHSEED=seed) == expected


def test_the_working_directory_does_not_matter(
    project: Path, expected: str, tmp_path: Path
) -> None:
    assert digest(project / "carl.yaml", tmp_path) == expected
    assert digest(Path("carl.yaml"), project) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo"},
        {"PYTHONIOENCODING": "latin-1", "LANG": "tr_TR.ISO-8859-9"},
    ],
    ids=["C", "UTF-8", "latin-1"],
)
def test_the_locale_does_not_matter(
    project: Path, expected: str, environment: dict[str, str]
) -> None:
    assert digest(project / "carl.yaml", project, **environment) == expected


def test_a_read_only_install_does_not_matter(
    project: Path, expected: str, tmp_path: Path
) -> None:
    install = tmp_path / "install"
    without = shutil.ignore_patterns("__pycache__")
    for source in (Path(carl_bundle.__file__).parent, runtime_root()):
        shutil.copytree(source, install / source.name, ignore=without)
    target = install / "carl_bundle" / "templates"
    if not target.exists():
        shutil.copytree(templates_root(), target)
    before = sorted(install.rglob("*"))
    for path in [install, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        found = digest(
            project / "carl.yaml", project, install, PYTHONDONTWRITEBYTECODE="1"
        )
        assert found == expected
        assert sorted(install.rglob("*")) == before
    finally:
        for path in [install, *before]:
            if path.is_dir():
                path.chmod(0o755)
