"""Conversations with tools: a template for them, and what a model would say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trl

from tests import tiny

QWEN3 = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
"""A chat template for tools, which TRL knows."""

END = tiny.END


def save_model(folder: Path, template: str = QWEN3) -> Path:
    """A tiny model with room for descriptions of tools."""
    return tiny.save(folder, template=template, max_position_embeddings=4096)


def call(name: str, **arguments: Any) -> str:
    """What a model says to call a tool."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>{END}"


class Says:
    """Says what it is told to, instead of a model: the turns of a group's completions.

    A turn is a text, or makes one of the trainer and the place of its completion.
    `prompts` are the token ids of the first turns.
    """

    def __init__(self, group: list[list[Any]]) -> None:
        self.group, self.turn = group, 0
        self.prompts: list[list[int]] = []

    def ids(self, trainer: Any, prompts: list[list[int]]) -> list[list[int]]:
        if self.turn == 0:
            self.trainer, self.prompts = trainer, prompts
        found = []
        for place in range(len(self.prompts)):
            for said in self.group[place % len(self.group)][self.turn :][:1]:
                text = said if isinstance(said, str) else said(trainer, place)
                found.append(trainer.processing_class(text)["input_ids"])
        assert len(found) == len(prompts)
        self.turn = (self.turn + 1) % max(map(len, self.group))
        return found

    def instead(self, patch: pytest.MonkeyPatch) -> Says:
        """Put it in the place of TRL's own generation."""

        def generate(trainer: Any, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            return self.ids(trainer, prompt_ids), None

        patch.setattr(trl.GRPOTrainer, "_generate_single_turn", generate)
        return self
