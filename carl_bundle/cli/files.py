"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from carl_bundle.errors import UsageError


def write_new(path: Path, text: str, *, force: bool = False) -> None:
    r"""Write UTF-8 text with `\n` line ends; on failure nothing is left behind.

    Raises:
        UsageError: The file exists and `force` is off, or it cannot be written.
    """
    if path.exists() and not force:
        raise UsageError(
            f"{path} exists", remedy="choose another name with -o, or add --force"
        )
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", dir=path.parent or Path()
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        # mkstemp makes files that only the owner reads.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            remedy="check the directory, its permissions and the free space",
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
