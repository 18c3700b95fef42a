"""Images: the processor that reads them, the rows that hold them, the scores they move.

Every row gets `images`, a list; they are decoded when a row is read. Its messages get
parts, so that each image has its place. A class of trainer that scores samples sees the
images by a mixin before the others:

    class Trainer(SeesImages, CoherentPolicy, GRPOTrainer): ...
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carl_runtime_min.data import ANSWERS, IMAGES, QUESTIONS
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.models import with_template

IMAGE_HOOKS = {"_tokenize_prompts": "prompts"}


def load_processor(source: dict[str, Any]) -> Any:
    """What turns text and images into inputs of the spec's model."""
    from transformers import AutoProcessor

    name, options = source["tokenizer"], source["tokenizer_options"]
    try:
        processor = AutoProcessor.from_pretrained(name, **options)
    except ImportError as error:
        reason = str(error).strip().partition("\n")[0]
        remedy = "install what this script lists at its top, as `uv run` does"
        raise CarlError(reason, remedy=remedy, exit_code=4) from error
    if not hasattr(processor, "image_processor"):
        remedy = "name a model for images and text, or train on text alone"
        raise UsageError(f"{name} has no image processor", remedy=remedy)
    tokenizer = processor.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"  # as TRL pads the prompts that the images go with
    own = getattr(processor, "text_kwargs", {})
    processor.text_kwargs = {**own, "padding": False}  # TRL would sample after padding
    if "template" in source:
        with_template(processor, source["template"])
    tokenizer.chat_template = processor.chat_template
    return processor


def stored_images(rows: Any, source: dict[str, Any]) -> Any:
    """The rows with their images as they are stored: {bytes, path}, not decoded."""
    from datasets import Image, List

    ours = next(name for name in IMAGES if name in source["columns"])
    theirs, kind = source["columns"][ours], Image(decode=False)
    if theirs not in rows.column_names:
        return rows  # which is told with all the others
    try:
        return rows.cast_column(theirs, kind if ours == "image" else List(kind))
    except Exception as error:  # the libraries below raise too many kinds to name
        remedy = "image needs paths of files or bytes, images needs lists of them"
        found = f"column {theirs!r} holds {rows.features[theirs]}"
        raise UsageError(f"{source['id']}: {found}", remedy=remedy) from error


def with_images(rows: Any, source: dict[str, Any], processor: Any) -> Any:
    """The rows with `images` and `tokens`, how many the model sees of a row.

    Each image is opened once before any is learned from. To sample for, each row needs
    one: the size of its first is `width` and `height`, unless it has such columns.
    """
    from datasets import Image, List

    column, folder = source["columns"], Path(source["id"]).parent
    ours, decoder = next(c for c in IMAGES if c in column), Image(mode="RGB")
    last = f" of the last {-source['part'][0]}" if source["part"][0] else ""
    names = {*rows.column_names}
    sampled = "prompt" in names and not {*ANSWERS} & names
    if "tools" in names and not sampled:
        reason = f"{source['id']}: TRL shows no tools to models that learn from images"
        raise UsageError(reason, remedy="leave the column 'tools' out")

    def seen(row: dict[str, Any], place: int) -> dict[str, Any]:
        where = f"{source['id']}: row {place + 1}{last}, column {column[ours]!r}"
        stored = row[ours] if ours == "images" else [row[ours]]
        stored = [] if stored in (None, [None]) else stored
        if None in stored or (sampled and not stored):
            remedy = "leave such rows out: TRL samples with images in all or in none"
            raise UsageError(f"{where}: no image", remedy=remedy)
        try:
            stored = [located(image, folder) for image in stored]
            images = [decoder.decode_example(image) for image in stored]
        except Exception as error:  # broken files raise anything
            reason = f"{where}: {str(error) or type(error).__name__}"
            remedy = "mend or leave out the image; paths start at the data file"
            raise UsageError(reason, remedy=remedy) from error
        try:
            asked = next(name for name in QUESTIONS if name in row)
            talks = {n: parted(row[n]) for n in (asked, *ANSWERS) if n in row}
            talks[asked] = placed(talks[asked], len(images))
            tokens = seen_length(talks, images, processor)
        except ValueError as error:
            remedy = "write text, or a list of {type: text, text} and {type: image}"
            raise UsageError(f"{where}: {error}", remedy=remedy) from error
        size = images[0].size if sampled else ()
        values = dict(zip(("width", "height"), size, strict=False))
        values |= {name: row[name] for name in row if name not in IMAGES}
        return {**values, **talks, "images": stored, "tokens": tokens}

    rows = rows.map(seen, with_indices=True, remove_columns=[ours])
    return rows.cast_column("images", List(decoder))


def located(image: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A stored image; the path of one without bytes, seen from here."""
    if image["bytes"] is not None or image["path"] is None:
        return {**image, "path": None}
    return {"bytes": None, "path": str((folder / image["path"]).absolute())}


def parted(talk: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose contents are lists of parts, {type, text}.

    ValueError: a part is neither text nor the place of an image.
    """

    def parts(content: Any) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        others = [one for one in content or () if one["type"] not in ("text", "image")]
        if others:
            raise ValueError(f"a message holds {others[0]}")
        return [{"type": one["type"], "text": one.get("text")} for one in content or ()]

    return [{**message, "content": parts(message["content"])} for message in talk]


def image_count(talk: list[dict[str, Any]]) -> int:
    """How many images have a place in messages with parts."""
    return sum(one["type"] == "image" for turn in talk for one in turn["content"])


def placed(talk: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Messages with a place for every image: before the first question, if not said.

    ValueError: there are places, but not as many as images; or there is no question.
    """
    places = image_count(talk)
    if places == count:
        return talk
    first = next((n for n, turn in enumerate(talk) if turn["role"] == "user"), None)
    if places or first is None:
        raise ValueError(f"its messages have {places} places for {count} images")
    content = [{"type": "image", "text": None}] * count + talk[first]["content"]
    return [*talk[:first], {**talk[first], "content": content}, *talk[first + 1 :]]


def seen_length(talks: dict[str, Any], images: list[Any], processor: Any) -> int:
    """Tokens of a row and its images, with the longest of its answers if it has any.

    ValueError: an answer has an image, or the processor does not take one.
    """
    from trl import prepare_multimodal_messages

    answers = [talks[name] for name in ANSWERS if name in talks]
    if any(map(image_count, answers)):
        raise ValueError("an answer holds an image")
    asked = talks["prompt"] if "prompt" in talks else talks["messages"]
    asked = prepare_multimodal_messages(asked, images=images)
    found = processor.apply_chat_template(
        [asked + answer for answer in answers or [[]]],
        add_generation_prompt=not answers and "prompt" in talks,
        tokenize=True,
        return_dict=True,
    )
    return max(map(len, found["input_ids"]))


def show_images(row: dict[str, Any]) -> None:
    """Print the sizes of a row's images, and its length with them."""
    sizes = ", ".join(f"{image.width} x {image.height}" for image in row["images"])
    print(f"its images: {sizes}; {row['tokens']} tokens with those that stand for them")


class TextLoss:
    """A collator whose labels leave out the tokens `image`, which are no text."""

    def __init__(self, collate: Any, image: int) -> None:
        self.collate, self.image = collate, image

    def __call__(self, rows: list[Any]) -> Any:
        batch = self.collate(rows)
        batch["labels"][batch["labels"] == self.image] = -100
        return batch


class SeesImages:
    """Mixin before `SampledPolicy`, whose own scoring pass then sees the images.

    They are read anew for each part of the batch, as TRL reads them to sample.
    """

    def _generate(self, prompts: list[Any]) -> Any:
        self.prompts = prompts
        return super()._generate(prompts)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        keep: int,
        batch_size: int | None = None,
        **given: Any,
    ) -> Any:
        score = super()._get_per_token_logps_and_entropies
        if "num_images" in given:  # a pass of TRL's, which brings the images
            for name in ("token_type_ids", "mm_token_type_ids"):
                if given.get(name) is not None:  # TRL lets the tokenizer add BOS twice
                    given[name] = given[name][:, -ids.shape[1] :]
            return score(model, ids, mask, keep, batch_size, **given)
        size, found = batch_size or len(ids), []
        for start in range(0, len(ids), size):
            rows = slice(start, min(start + size, len(ids)))
            seen = self.image_inputs(self.prompts[rows], len(ids[0]) - keep, keep)
            found.append(score(model, ids[rows], mask[rows], keep, **given, **seen))
        log_probs, entropy, _ = zip(*found, strict=True)
        return torch.cat(log_probs), torch.cat(entropy), None

    def image_inputs(self, prompts: list[Any], width: int, keep: int) -> dict[str, Any]:
        """What the model takes beside the tokens of `prompts`, [B, width + keep].

        The counts are all on the first row: the part is not divided any further.
        """
        _, _, fields = self._tokenize_prompts(prompts)
        inputs: dict[str, Any] = {}
        for name, values in fields.items():
            if isinstance(values, list) and isinstance(values[0], list):  # by token
                rows = [[0] * (width - len(row)) + row + [0] * keep for row in values]
                values = rows
            inputs[name] = torch.as_tensor(np.array(values)).to(self.accelerator.device)
        rest = [0] * (len(prompts) - 1)
        inputs["num_images"] = [sum(map(image_count, prompts)), *rest]
        inputs["num_tiles"] = [len(inputs["pixel_values"]), *rest]
        return inputs
