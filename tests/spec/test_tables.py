"""The generated tables are what the pinned transformers and TRL say."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")

from carl_bundle.spec.quantization import ADAPTERS, DEQUANTIZE, UNTRAINABLE
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


def test_every_quantisation_that_is_judged_exists_in_transformers() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    judged = ADAPTERS | DEQUANTIZE | UNTRAINABLE
    # The general name stands for both widths.
    known = AUTO_QUANTIZATION_CONFIG_MAPPING.keys() | {"bitsandbytes"}
    assert judged <= known
