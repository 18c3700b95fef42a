"""Click rewards: does the last point in a text hit the row's box? In [0, 1]."""

from __future__ import annotations

import math
import re
from typing import Any

from carl_runtime_min.tasks import RowReward, answer_text

POINT = re.compile(  # 12, 34 and x=.5, y=.25 and x="1" y="2"; no backtracking
    r"""(?<![\d.])(-?(?:\d++(?:\.\d*+)?|\.\d++))"""
    r"""(?:["']?[\s,]++["']?y["']?\s*+[:=]\s*+["']?|\s*+,\s*+)"""
    r"""(-?(?:\d++(?:\.\d*+)?|\.\d++))"""
)
FAR = 1000.0  # the diagonal of an image whose size is unknown


def as_number(value: Any) -> float:
    """A number, or the number that a text is; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def misses(row: dict[str, Any], options: dict[str, Any]) -> tuple[float, float] | None:
    """How far the point lies outside the box, and from its centre, in diagonals.

    Infinitely far without a point; None without a box, or a size to scale points by.
    """
    box, scale = row.get("bbox"), options["scale"]
    ends = [as_number(end) for end in (box if isinstance(box, list) else [])]
    width, height = (
        as_number(options[name] or row.get(name)) for name in ("width", "height")
    )
    sized = width > 0 and height > 0 and math.isfinite(width * height)
    if len(ends) != 4 or not all(map(math.isfinite, ends)) or (scale and not sized):
        return None
    points = POINT.findall(answer_text(row["completions"]))
    if not points:
        return math.inf, math.inf
    x, y = map(float, points[-1])
    if scale:
        x, y = x / scale * width, y / scale * height
    (left, right), (top, bottom) = sorted(ends[::2]), sorted(ends[1::2])
    far = math.hypot(width, height) if sized else FAR
    outside = math.hypot(max(left - x, 0, x - right), max(top - y, 0, y - bottom))
    off = math.hypot(x - (left + right) / 2, y - (top + bottom) / 2)
    return outside / far, off / far


def click_inside_reward(options: dict[str, Any]) -> RowReward:
    """1 inside the box or on its edge, else 0.5 less half the distance to it."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float | None:
        missed = misses(row, options)
        if missed is None:
            return None
        return 1.0 if missed[0] == 0 else max(0.0, 0.5 * (1 - missed[0]))

    return RowReward("click_inside", scorer, "bbox")


def click_distance_reward(options: dict[str, Any]) -> RowReward:
    """1 at the centre of the box, falling with the distance to it."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float | None:
        missed = misses(row, options)
        return None if missed is None else max(0.0, 1 - missed[1])

    return RowReward("click_distance", scorer, "bbox")


def coordinate_format_reward(options: dict[str, Any]) -> RowReward:
    """1 for one point with fewer than 10 other characters, 0.6 for points, else 0."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float:
        text = answer_text(row["completions"])
        found = [match[0] for match in POINT.finditer(text)]
        alone = len(found) == 1 and len(text) - len(found[0]) < 10
        return (1.0 if alone else 0.6) if found else 0.0

    return RowReward("coordinate_format", scorer)
