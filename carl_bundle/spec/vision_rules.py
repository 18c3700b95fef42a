"""Rules for rows with images: who learns from them, and what cannot hold for them."""

from __future__ import annotations

from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.config_reader import known_types
from carl_bundle.spec.train_spec import TrainSpec

_METHODS = {
    "orpo": ("TRL's trainer of ORPO takes no images", "choose dpo"),
    "pipeline": (
        "its evaluation and the way from SFT to GRPO are of text alone",
        "run sft first, then grpo on its result (method: sft, method: grpo)",
    ),
}


def image_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what does not go with rows that have images."""
    if not spec.vision:
        if spec.eval.data and spec.eval.data.has_images:
            yield Problem(
                "eval.data.columns",
                "has images, and the rows to train on have none",
                "name the column of images under data.columns too, or remove it",
            )
        return
    if spec.method in _METHODS:
        reason, remedy = _METHODS[spec.method]
        yield Problem("data.columns, method", f"{reason}, and rows have images", remedy)
    if spec.sampled and spec.calls_tools:
        yield Problem(
            "data.columns, tools, environments",
            "tools are called in conversations of text alone",
            "remove the column of images, or the tools",
        )
    if spec.method == "sft" and "tools" in (spec.sft.data or spec.data).columns:
        yield Problem(
            "data.columns.tools",
            "TRL shows a model with images no tools in SFT",
            "remove it",
        )
    yield from _sources(spec)
    yield from _model(spec)
    for name, phase in spec.phases.items():
        if phase.too_long == "truncate":
            yield Problem(
                f"{name}.too_long",
                "a cut could fall into the tokens of an image",
                "set it to drop (left out and counted) or refuse",
            )
        if phase.trainer.get("packing") or phase.trainer.get("padding_free"):
            yield Problem(
                f"{name}.trainer",
                "TRL neither packs rows with images nor trains them without padding",
                "remove packing and padding_free",
            )


def _sources(spec: TrainSpec) -> Iterator[Problem]:
    blocks = {name: phase.data for name, phase in spec.phases.items()}
    if spec.eval.every is not None:
        blocks["eval"] = spec.eval.data
    for name, data in blocks.items():
        data = data or spec.data
        where = "data" if data == spec.data else f"{name}.data"
        if data.mix:
            yield Problem(
                f"{where}.mix",
                "mixtures hold text alone",
                "put the rows with images into one file or data set",
            )
        elif not data.has_images:
            yield Problem(
                f"{where}.columns",
                "has no images, and the other rows have",
                "name its column of images",
            )
        elif {"image", "images"} <= set(data.columns):
            yield Problem(
                f"{where}.columns",
                "names image and images",
                "name image (one in a row) or images (a list in a row)",
            )


def _model(spec: TrainSpec) -> Iterator[Problem]:
    model, frozen = spec.model, spec.model.frozen
    if model.is_builtin:
        yield Problem(
            "model.id",
            "the built-in model reads text alone",
            "name a model for images and text",
        )
    elif frozen and frozen.architecture:
        entry = known_types().get(frozen.model_type or "", {}).get("auto", {})
        if entry and entry.get("image-text-to-text") != frozen.architecture:
            yield Problem(
                "model.id",
                f"{frozen.architecture} reads text alone",
                "name a checkpoint for images and text (…ForConditionalGeneration)",
            )
