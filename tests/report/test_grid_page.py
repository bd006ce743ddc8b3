"""The page of a grid: order, marks, differences and what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from traceward.errors import RunError
from traceward.report.build import build_report


def value(mean: float, spread: float = 0.05) -> dict[str, float]:
    return {"value": mean, "low": mean - spread, "high": mean + spread}


def row(labels: dict[str, str], judge: str | None, *means: float) -> dict[str, Any]:
    values = {name: value(mean) for name, mean in zip(("validation_pass_at_1", "pass_at_1"), means, strict=False)}
    return {"labels": labels, "judge": judge, "seeds": [0, 1], "cells": [], "values": values}


GRID: dict[str, Any] = {
    "schema": 1,
    "grid": "planted",
    "axes": {"reward.head": ["log-ratio", "scalar"]},
    "measures": ["validation_pass_at_1", "pass_at_1"],
    "sort": "validation_pass_at_1",
    "cells": 4,
    "finished": 3,
    "rows": [
        row({"arm": "outcome"}, None, 0.8, 0.81),
        row({"reward.head": "scalar", "arm": "adversarial"}, "reward", 0.7, 0.612),
        row({"reward.head": "log-ratio", "arm": "adversarial"}, "reward", 0.6, 0.69),
        row({"arm": "sft"}, "sft_logprob"),
    ],
    "differences": [
        {
            "a": {"reward.head": "scalar", "arm": "adversarial"},
            "b": {"reward.head": "log-ratio", "arm": "adversarial"},
            "values": {"pass_at_1": value(-0.078, 0.02)},
        }
    ],
    "removed": [{"labels": {"reward.head": "scalar <b>"}, "reason": "heads must fit: got scalar & more; mend it"}],
    "failed": [{"part": "reward-01ab", "reason": "it broke"}],
}  # fmt: skip


def page_of(tmp_path: Path, grid: dict[str, Any]) -> str:
    (tmp_path / "grid.json").write_text(json.dumps(grid), encoding="utf-8")
    return build_report([tmp_path]).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = page[page.index("<main>") : page.index("<details>")]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).replace(" ,", ",")


def test_validation_chooses_and_the_test_figure_stands_beside_it(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, GRID))
    assert "validation chooses scalar · adversarial . pass@1: 61.2% (56–66) on test problems." in text
    rows = re.findall(r"(Outcome RL|scalar Adversarial|log-ratio Adversarial|SFT) 2 ", text)
    assert rows == ["Outcome RL", "scalar Adversarial", "log-ratio Adversarial", "SFT"]
    assert "3 of 4 cells" in text
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert numbers["grid"] == GRID


def test_a_difference_says_what_agrees_and_is_coloured_where_it_excludes_zero(tmp_path: Path) -> None:
    page = page_of(tmp_path, GRID)
    text = text_of(page)
    assert "scalar log-ratio adversarial not measured −7.8 −9.8 to −5.8" in text
    assert "is ±10 points" in text
    assert page.count('swing worse"') == 1
    near = {**GRID, "differences": [{**GRID["differences"][0], "values": {"pass_at_1": value(-0.01, 0.02)}}]}
    assert 'swing rival"' in page_of(tmp_path, near)


def test_what_could_not_run_is_named_with_its_reason_and_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path, GRID)
    assert "scalar &lt;b&gt;" in page
    assert "heads must fit: got scalar &amp; more; mend it" in page
    assert "it broke" in page
    assert "http://" not in page


def test_a_grid_without_rows_is_a_page(tmp_path: Path) -> None:
    text = text_of(page_of(tmp_path, {**GRID, "rows": [], "differences": []}))
    assert "No row with a learned reward has finished." in text
    assert "not measured" in text


def test_a_grid_is_reported_alone_and_a_foreign_one_not_at_all(tmp_path: Path) -> None:
    page_of(tmp_path, GRID)
    with pytest.raises(RunError, match="must be of runs or of one grid"):
        build_report([tmp_path, tmp_path / "other"])
    with pytest.raises(RunError, match="schema must be 1: got 2"):
        page_of(tmp_path, {**GRID, "schema": 2})
