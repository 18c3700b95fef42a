"""A model small enough to train in a test: Qwen3, byte-level BPE, a chat template."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,  # large: the distributions are far from uniform
}


@cache
def _bpe() -> str:
    """A byte-level BPE of 300 tokens, as JSON; the same bytes in every process."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "user assistant system what is the answer to this question plus minus"
    bpe.train_from_iterator([text] * 20, trainer)
    return bpe.to_str()


def tokenizer(template: str | None = CHAT_TEMPLATE) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()),
        pad_token="<|pad|>",
        eos_token=END,
        extra_special_tokens=["<|im_start|>"],
    )
    made.chat_template = template
    return made


def model(seed: int = 0, rows: int = 320, **config: Any) -> Any:
    """Random weights; `rows` of the head, more than the tokenizer has tokens.

    Every upper-case letter ends a sequence, so that completions differ in length.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = tokenizer()
    ends = [words.eos_token_id, *(words.convert_tokens_to_ids(c) for c in "ABCDEFGH")]
    torch.manual_seed(seed)
    settings = {"eos_token_id": ends, "pad_token_id": words.pad_token_id}
    settings |= {"bos_token_id": None, "vocab_size": rows, **SHAPE, **config}
    return Qwen3ForCausalLM(Qwen3Config(**settings))


def adapted() -> Any:
    """A model with adapters that change it from the start."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False
    )
    torch.manual_seed(1)
    return get_peft_model(model(), config)


def save(folder: Path, template: str | None = CHAT_TEMPLATE, **config: Any) -> Path:
    """A model directory as `from_pretrained` and `carl bundle` take it."""
    model(**config).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def questions(count: int = 24) -> list[dict[str, str]]:
    """Rows of {prompt, answer}: sums, of prompts that differ in length."""
    pairs = [(7 * i % 10 * 10 ** (i % 5), 3 * i % 7) for i in range(count)]
    return [{"prompt": f"{a}+{b}?", "answer": str(a + b)} for a, b in pairs]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
