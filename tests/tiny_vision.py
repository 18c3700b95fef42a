"""Models for images and text, small enough to train in a test, and clicks to learn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests import tiny

IMAGE, START, STOP = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}PLACE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PATCH = 8  # pixels
SIDE = 4 * PATCH
TOWER = {"hidden_size": 16, "intermediate_size": 32, "patch_size": PATCH}


def tokenizer(place: str, begin: str | None = None) -> Any:
    """That of the text model; `place` stands for an image in its chat template.

    With a token to `begin`, both put it before a text, as those of Gemma do.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokens = {"image_token": IMAGE, "boi_token": START, "eoi_token": STOP}
    bpe = tiny.tokenizer()._tokenizer
    if begin:
        bpe.add_special_tokens([begin])
        pair = [(begin, bpe.token_to_id(begin))]
        bpe.post_processor = TemplateProcessing(f"{begin} $A", special_tokens=pair)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token=tiny.END,
        bos_token=begin,
        model_specific_special_tokens=tokens,
    )
    made.chat_template = (begin or "") + CHAT_TEMPLATE.replace("PLACE", place)
    return made


def text_config(words: Any) -> dict[str, Any]:
    ends = [words.eos_token_id, *(words.convert_tokens_to_ids(c) for c in "ABCDEFGH")]
    tokens = {"eos_token_id": ends, "pad_token_id": words.pad_token_id}
    return {"bos_token_id": None, "vocab_size": 320, **tokens, **tiny.SHAPE}


def qwen(folder: Path) -> Path:
    """Qwen3.5 with its tower, saved: images are rows of patches, as many as they need.

    The processor is one that takes the same images; Qwen's own also takes videos, for
    which it needs torchvision.
    """
    import torch
    import transformers as hf

    words = tokenizer(START + IMAGE + STOP)
    image, start, stop = words.convert_tokens_to_ids([IMAGE, START, STOP])
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    linear |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    layers = {"layer_types": ["linear_attention", "full_attention"]}
    tower = {"depth": 1, "num_heads": 2, "num_position_embeddings": 16}
    config = hf.Qwen3_5Config(
        text_config={**text_config(words), **linear, **layers},
        vision_config={**TOWER, **tower, "out_hidden_size": 32},
        image_token_id=image,
        video_token_id=319,
        vision_start_token_id=start,
        vision_end_token_id=stop,
    )
    torch.manual_seed(0)
    hf.Qwen3_5ForConditionalGeneration(config).save_pretrained(folder)
    size = {"shortest_edge": 4 * PATCH**2, "longest_edge": 64 * PATCH**2}
    pixels = hf.Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, size=size)
    template = words.chat_template
    processor = hf.PaddleOCRVLProcessor(pixels, words, chat_template=template)
    processor.save_pretrained(folder)
    return folder


def gemma(folder: Path) -> Path:
    """Gemma 3 with its tower, saved: every image becomes one square of four tokens.

    They see each other in both directions, told by `token_type_ids`.
    """
    import torch
    import transformers as hf

    words = tokenizer(START, "<bos>")
    image, start, stop = words.convert_tokens_to_ids([IMAGE, START, STOP])
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE}
    config = hf.Gemma3Config(
        text_config={**text_config(words), "sliding_window": 64},
        vision_config={**TOWER, **tower},
        mm_tokens_per_image=4,
        image_token_index=image,
        boi_token_index=start,
        eoi_token_index=stop,
    )
    torch.manual_seed(0)
    model = hf.Gemma3ForConditionalGeneration(config)
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()  # of 0
    model.save_pretrained(folder)
    pixels = hf.Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    given = {"chat_template": words.chat_template, "image_seq_length": 4}
    hf.Gemma3Processor(pixels, words, **given).save_pretrained(folder)
    return folder


def picture(number: int) -> Any:
    """An image of one colour with a square of another; three sizes."""
    from PIL import Image

    image = Image.new("RGB", (24 + 8 * (number % 3), SIDE), (40 * number % 255, 90, 60))
    left, top, right, bottom = square(number)
    image.paste((255, 240 - 30 * number % 200, 20), (left, top, right, bottom))
    return image


def square(number: int) -> list[int]:
    """Left, top, right and bottom of the square in a picture."""
    left = 4 + number % 3 * PATCH
    return [left, 8, left + PATCH, 16]


def clicks(folder: Path, count: int = 8, **columns: Any) -> Path:
    """Rows {prompt, image, bbox, completion}, with pictures beside them."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        path, (left, top, right, bottom) = f"pictures/{number}.png", square(number)
        picture(number).save(folder / path)
        row = {"prompt": "where is it?" + "?" * (number % 4), "image": path}
        row |= {"completion": f"{(left + right) / 2}, {(top + bottom) / 2}"}
        rows.append({**row, "bbox": [left, top, right, bottom], **columns})
    return tiny.write_jsonl(folder / "rows.jsonl", rows)


def source(path: Path, **given: Any) -> dict[str, Any]:
    """The data block of a script that reads `path`."""
    block: dict[str, Any] = {"id": os.fspath(path), "columns": {"image": "image"}}
    block |= {"part": [None, None], "limit": None, "system_prompt": None}
    return block | {"longest": 1000, "too_long": "drop"} | given
