"""Whatever a file holds: a translation in which nothing is lost, or a usage error."""

# ruff: noqa: PT017 (an error is one of the two answers, so it is asserted in place)

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from carl_bundle.cli.resolved import to_yaml
from carl_bundle.errors import SpecError, UsageError
from carl_bundle.spec.imports import FORMATS, axolotl, llamafactory, translate, trl
from carl_bundle.spec.imports.common import RENAMED
from carl_bundle.spec.imports.detect import Format
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.tables import table
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.yaml import parse

MODULES = (trl, axolotl, llamafactory)
KEYS = sorted(
    {key for m in MODULES for key in (*m._RENAMED, *m._LORA, *m._NEUTRAL, *m._REASONS)}
    | {key for name in KINDS for key in table("trl_fields.json")[name]}
    | {*RENAMED, "datasets", "trl", "rl", "stage", "dataset", "dataset_dir", "adapter"}
    | {"finetuning_type", "report_to", "reward_funcs", "reward_weights", "max_steps"}
    | {"pref_loss", "flash_attn", "use_peft", "dtype", "pretraining_dataset", "odd"}
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["dpo", "grpo", "kto", "lora", "all", "a.b", "yes", "1e-4"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "type", "field_prompt", "reward_funcs", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    given_settings=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=8),
    kind=st.sampled_from(FORMATS),
    method=st.sampled_from([None, *KINDS]),
)
def test_any_settings(
    given_settings: dict[str, Any], kind: Format, method: str | None
) -> None:
    before = repr(given_settings)
    try:
        result = translate(given_settings, kind, method)
    except UsageError as error:
        assert error.remedy
        return
    assert repr(given_settings) == before
    reader = {"trl": trl, "axolotl": axolotl, "llamafactory": llamafactory}[kind]
    assert reader.read(given_settings, method, Path()).settings == {}
    assert all(result.dropped.values())
    assert all(problem.remedy for problem in result.problems)
    try:
        spec = TrainSpec.model_validate(parse(to_yaml(result.document), "carl.yaml"))
    except (SpecError, UsageError):
        assert result.problems
    else:
        assert spec == TrainSpec.model_validate(result.document)
