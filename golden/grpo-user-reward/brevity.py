# SPDX-License-Identifier: CC0-1.0
"""A reward for short answers."""

import re

WORDS = re.compile(r"\w+")
ENOUGH = 12


def words(text):
    return len(WORDS.findall(text))


def brevity(completions, **columns):
    """1 for up to twelve words, less for more."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [min(1.0, ENOUGH / max(1, words(text))) for text in texts]
