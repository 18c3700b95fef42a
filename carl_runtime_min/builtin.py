"""A model, a tokenizer and a task that need no network: reverse a string of digits."""

from __future__ import annotations

import random
from typing import Any

import torch

DIGITS = "0123456789"
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def builtin_tokenizer() -> Any:
    """One token per character, plus the marks of a conversation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = " abcdefghijklmnopqrstuvwxyz.,:;?!+-*/=()<>"
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *DIGITS, *letters))}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=list(SPECIAL[2:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def builtin_model(tokenizer: Any, seed: int) -> Any:
    """A Qwen3-style transformer with about a million random parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def builtin_rows(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, answer}: six digits, and the same digits reversed.

    The parts "sft", "grpo" and "eval" never share a prompt: a prompt belongs to the
    part that the sum of its digits, modulo 3, names.
    """
    from datasets import Dataset

    parts = ("sft", "grpo", "eval")
    draw = random.Random(f"{part} {seed}")
    prompts: list[str] = []
    while len(prompts) < count:
        digits = [draw.randrange(10) for _ in range(6)]
        if sum(digits) % 3 == parts.index(part):
            prompts.append("".join(map(str, digits)))
    rows = [{"prompt": prompt, "answer": prompt[::-1]} for prompt in prompts]
    return Dataset.from_list(rows)


def builtin_pairs(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, chosen, rejected}, which has one digit wrong."""
    from datasets import Dataset

    draw, rows = random.Random(f"pairs {part} {seed}"), []
    for row in builtin_rows(part, seed, count):
        answer, place = row["answer"], draw.randrange(6)
        digit = (int(answer[place]) + draw.randrange(1, 10)) % 10
        wrong = f"{answer[:place]}{digit}{answer[place + 1 :]}"
        rows.append({"prompt": row["prompt"], "chosen": answer, "rejected": wrong})
    return Dataset.from_list(rows)


def builtin_judged(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, completion, label}: right and wrong answers in turn."""
    from datasets import Dataset

    kinds, rows = ("chosen", "rejected"), []
    for i, row in enumerate(builtin_pairs(part, seed, count)):
        answer, good = row[kinds[i % 2]], i % 2 == 0
        rows.append({"prompt": row["prompt"], "completion": answer, "label": good})
    return Dataset.from_list(rows)
