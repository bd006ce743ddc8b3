"""Traces drawn on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from traceward.heatmap import pictures, scale_of, tint_of

EXAMPLE: dict[str, Any] = {
    "id": "t1",
    "question": "How many pens?",
    "steps": ["Two [pens].", "Then five."],
    "step_scores": [0.5, -1.5],
    "predicted": 1,
    "first_error": 0,
    "correct": False,
    "exported": -2.0,
}


def drawn(example: dict[str, Any], **options: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100, **options)
    for picture in pictures([example]):
        console.print(picture)
    return stream.getvalue()


def test_a_plain_terminal_shows_numbers_and_marks() -> None:
    lines = drawn(EXAMPLE).splitlines()
    assert [line.rstrip() for line in lines[:2]] == ["t1", "How many pens?"]
    assert lines[2].split() == ["0", "Two", "[pens].", "✗", "true", "+0.50"]
    assert lines[3].split() == ["1", "Then", "five.", "▸", "predicted", "-1.50"]
    assert "\x1b" not in drawn(EXAMPLE)
    with_chances = drawn({**EXAMPLE, "step_probabilities": [0.987, 0.2]})
    assert "99 %" in with_chances
    assert "20 %" in with_chances


def test_colours_say_which_way_and_how_much() -> None:
    text = drawn(
        {**EXAMPLE, "tokens": [("Two", 0.0), (" [pens]", -4.0)]}, force_terminal=True, color_system="truecolor"
    )
    low, full = "48;2;242;153;74", "48;2;109;176;255"
    assert f"{low}mThen five." in text
    assert f"{low}m [pens]" in text  # the most negative token has the whole colour
    assert full not in text
    assert "48;2;206;229;255mTwo [pens]." in text  # +0.5 beside -1.5 has a third of it


def test_the_largest_tenth_saturates_and_no_score_has_no_tint() -> None:
    assert scale_of([1.0] * 19 + [100.0]) == 1.0
    assert scale_of([]) == 0
    assert [tint_of(score, 2.0) for score in (None, 1.0, -3.0)] == [0, 0.5, -1]
    assert tint_of(1.0, 0.0) == 0
    assert tint_of(5.0, scale_of([5.0, -5.0])) == pytest.approx(1)
