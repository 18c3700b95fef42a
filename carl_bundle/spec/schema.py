"""The JSON Schema of `carl.yaml`, for editors."""

from __future__ import annotations

import json
from typing import Any

from carl_bundle.spec.train_spec import TrainSpec


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) that every carl.yaml fulfils."""
    schema = TrainSpec.model_json_schema()
    for name in ("ModelSettings", "DataSettings", "Source"):
        # A bare string stands for the id, a list for a mixture.
        block = schema["$defs"].pop(name)
        lists = block["properties"].get("mix", {}).get("anyOf", [])
        forms = [{"type": "string"}, block, *lists[:1]]
        schema["$defs"][name] = {"anyOf": forms, "title": name}
    reporters = schema["properties"]["report_to"]
    schema["properties"]["report_to"] = {
        "anyOf": [reporters["items"], reporters],
        "default": "none",
        "title": "Report To",
    }
    schema["$defs"] = dict(sorted(schema["$defs"].items()))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "carl.yaml",
    }


def render_schema() -> str:
    """Return the schema as text, as it is published in docs/carl.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
