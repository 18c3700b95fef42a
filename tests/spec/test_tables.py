"""The generated tables are what the pinned transformers and TRL say."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")

from carl_bundle.spec.tables import table
from tools.make_tables import GENERATED


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_a_generated_file_is_current(path) -> None:
    expected = GENERATED[path]()

    assert (
        path.read_text(encoding="utf-8") == expected
    ), f"{path.name} is out of date: run `make tables`"


def test_the_tables_name_the_versions_they_were_made_from() -> None:
    import transformers
    import trl

    assert table("trl_fields.json")["versions"] == {
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }
