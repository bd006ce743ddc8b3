"""Traces as heat-maps: the tint of a score, and traces drawn on a terminal.

A tint runs from -1 (reads as wrong) to 1 (reads as expert). Where a terminal has no colours, the numbers are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

LOW, HIGH = (242, 153, 74), (109, 176, 255)  # the report's two sides on a dark page: both carry black letters
_FAINT = 0.08  # tints below it get no colour


def scale_of(scores: Iterable[float]) -> float:
    """The score whose tint is full. The largest tenth saturates, so that one outlier does not bleach the others."""
    sizes = sorted(abs(score) for score in scores)
    return sizes[math.ceil(0.9 * (len(sizes) - 1))] if sizes else 0.0


def tint_of(score: float | None, scale: float) -> float:
    """The tint of a score; 0 for none."""
    return 0.0 if score is None or not scale else max(-1.0, min(1.0, score / scale))


def _style(tint: float) -> str:
    if abs(tint) < _FAINT:
        return ""
    side = LOW if tint < 0 else HIGH
    red, green, blue = (round(255 + (tone - 255) * abs(tint)) for tone in side)
    return f"black on rgb({red},{green},{blue})"


def pictures(examples: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Each trace with its steps on their colours, and its tokens on theirs where they were read.

    examples: rows as `examples.jsonl` has them (docs/results.md).
    """
    scale = scale_of(score for example in examples for score in example["step_scores"])
    return [_picture(example, scale) for example in examples]


def _picture(example: Mapping[str, Any], scale: float) -> RenderableType:
    rows = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "right", "right"):
        rows.add_column(justify=justify, no_wrap=justify == "right")
    probabilities = example.get("step_probabilities") or [None] * len(example["steps"])
    for at, (text, score, right) in enumerate(
        zip(example["steps"], example["step_scores"], probabilities, strict=True)
    ):
        marks = ["▸ predicted"] if example["predicted"] == at else []
        marks += ["✗ true"] if example["first_error"] == at else []
        step = Text(text, style=_style(tint_of(score, scale)))
        if marks:
            step.append("  " + "  ".join(marks), style="bold")
        shown = "" if right is None else f"{100 * right:.0f} %"
        rows.add_row(Text(str(at), style="dim"), step, Text(f"{score:+.2f}"), Text(shown, style="dim"))
    parts: list[RenderableType] = [
        Text(str(example["id"]), style="bold"), Text(str(example["question"]), style="dim"), rows
    ]  # fmt: skip
    if tokens := example.get("tokens"):
        full = max(abs(score) for _, score in tokens)
        parts += [Text("tokens", style="dim"), Text.assemble(*((t, _style(tint_of(s, full))) for t, s in tokens))]
    return Group(*parts, Text())
