"""Tiny wheels in a folder that pip takes for all there is."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from carl_bundle.bundler.pins import PINS

MANYLINUX = "manylinux_2_17_x86_64"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    tag: str = "py3-none-any",
    requires: Iterable[str] = (),
    extras: Iterable[str] = (),
    licence: str = "MIT",
) -> Path:
    """A wheel with one empty package; `tag` says which machines it is for."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}"]
    metadata += [f"License-Expression: {licence}"]
    metadata += [f"Provides-Extra: {extra}" for extra in extras]
    metadata += [f"Requires-Dist: {text}" for text in requires]
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    files = {
        f"{name.replace('-', '_')}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": wheel,
    }
    lines = [f"{path},{_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(zipfile.ZipInfo(name), text)
    return path


def make_torch(folder: Path, tag: str) -> None:
    """torch for CPUs, and for CUDA 13.0 under its plain version, as indexes have it."""
    version = PINS["torch"]
    make_wheel(folder, "torch", f"{version}+cpu", tag)
    cuda = 'cuda-toolkit[cudart]==13.0.3; platform_system == "Linux"'
    make_wheel(folder, "torch", version, tag, [cuda])
    runtime = 'nvidia-cuda-runtime==13.0.96; extra == "cudart"'
    make_wheel(folder, "cuda-toolkit", "13.0.3", requires=[runtime], extras=["cudart"])
    make_wheel(folder, "nvidia-cuda-runtime", "13.0.96")


def make_libraries(folder: Path, *minors: int) -> None:
    """Everything that scripts pin; torch for Python 3.`minor`, each."""
    for name, version in PINS.items():
        if name != "torch":
            make_wheel(folder, name, version)
    for minor in minors:
        make_torch(folder, f"cp3{minor}-cp3{minor}-{MANYLINUX}")


def _digest(text: str) -> str:
    raw = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
