"""`carl schema` prints the JSON Schema of carl.yaml."""

from __future__ import annotations

import json

from carl_bundle.spec.schema import json_schema
from tests.cli.conftest import Carl


def test_it_prints_the_schema_and_nothing_else(carl: Carl) -> None:
    result = carl("schema")

    assert result.code == 0
    assert json.loads(result.out) == json_schema()
    assert result.err == ""
