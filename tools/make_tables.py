"""`make tables`: write the tables that stand in for transformers and TRL.

The command and the bundler never import torch. What they must know about the
pinned libraries is read here once and kept as JSON in `carl_bundle/spec/tables`.
The JSON Schema of `carl.yaml` is published the same way. A test fails when a file is
not what this module would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from carl_bundle.spec.schema import render_schema
from tools.tables.class_limits import class_limits
from tools.tables.model_types import model_types
from tools.tables.trl_fields import trl_fields

ROOT = Path(__file__).parent.parent
TABLES = ROOT / "carl_bundle" / "spec" / "tables"

GENERATED: dict[Path, Callable[[], str]] = {
    TABLES / "class_limits.json": lambda: render(class_limits()),
    TABLES / "model_types.json": lambda: render(model_types()),
    TABLES / "trl_fields.json": lambda: render(trl_fields()),
    ROOT / "docs" / "carl.schema.json": render_schema,
}


def render(table: Mapping[str, Any]) -> str:
    """Return a table as JSON with one entry a line, so that a diff can be read.

    The first two levels are spread over lines, deeper ones are compact; keys are
    sorted.
    """
    lines = []
    for key in sorted(table):
        value = table[key]
        if isinstance(value, dict):
            entries = ",\n".join(
                f"  {json.dumps(name)}: {_compact(value[name])}"
                for name in sorted(value)
            )
            lines.append(f" {json.dumps(key)}: {{\n{entries}\n }}")
        else:
            lines.append(f" {json.dumps(key)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def main() -> int:
    """Write every file; print which ones changed."""
    for path, generate in GENERATED.items():
        text = generate()
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        path.write_bytes(text.encode())
        print(f"{'wrote' if changed else 'unchanged'} {path.name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
