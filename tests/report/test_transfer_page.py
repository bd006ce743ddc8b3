"""The page of a matrix: its maps, what is counted, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from traceward import cli
from traceward.errors import RunError
from traceward.report.build import build_report
from traceward.report.tables import Cell
from traceward.report.transfer import Map, Tile

Value = dict[str, float]


def value(at: float, low: float, high: float) -> Value:
    return {"value": at, "low": low, "high": high, "seeds": 2}


def cell(learn: str, use: str, gain: Value, over: Value, located: Value | None) -> dict[str, Any]:
    rerank = {"reward": value(0.6, 0.5, 0.7), "sft_logprob": value(0.5, 0.4, 0.6), "oracle": value(0.8, 0.7, 0.9)}
    return {
        "learn": learn,
        "use": use,
        "seeds": [0, 1],
        "through_text": learn != use,
        "rerank": rerank,
        "rerank_gain": gain,
        "rerank_over_sft_logprob": over,
        "localise": {"reward": located, "chance": value(0.3, 0.2, 0.4)} if located else {},
        "localise_gain": located,
        "localise_over_sft_logprob": None,
    }


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    up, down, unsure = value(0.31, 0.2, 0.4), value(-0.12, -0.2, -0.05), value(0.02, -0.1, 0.1)
    cells = [
        cell("a<b", "a<b", up, unsure, up),
        cell("a<b", "far", down, down, None),
        cell("odd", "a<b", up, down, unsure),
        cell("odd", "far", unsure, unsure, up),
    ]
    found = {
        "schema": 1, "matrix": "planted", "learn": ["a<b", "odd"], "use": ["a<b", "far"], "seeds": [0, 1],
        "commits": [], "wanted": 8, "finished": 7, "cells": cells,
        "failed": [{"part": "transfer-1", "pair": "odd → far, seed 1", "reason": "traces must fit"}],
    }  # fmt: skip
    (tmp_path / "transfer.json").write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def test_the_page_shows_each_pair_with_its_interval_and_colour(matrix: Path) -> None:
    text = build_report([matrix]).read_text(encoding="utf-8")
    tiles = re.findall(r'<td class="tile ([^"]*)" style="--tint:(\d+)">(.*?)</td>', text, re.DOTALL)
    assert len(tiles) == 4 * 4  # four maps of four pairs
    first = [(sides, int(tint)) for sides, tint, _ in tiles[:4]]
    # A scale of 35 points: the next multiple of 5 above the largest value.
    assert first == [("high own sure", 89), ("low sure", 34), ("high sure", 89), ("high", 6)]
    assert "+31.0" in tiles[0][2]
    assert "−20 to −5" in tiles[1][2]
    assert "not measured" in tiles[5][2]
    assert "a&lt;b" in text
    assert "a<b" not in text


def test_the_page_says_plainly_where_it_holds(matrix: Path) -> None:
    text = re.sub(r"<[^>]+>", "", build_report([matrix]).read_text(encoding="utf-8"))
    assert "picks surely better than chance in 1 of 3 pairs" in text
    assert "names the first wrong step surely better than chance in 1 of 2." in text
    assert "that is 0 of 3 and 0 of 0" in text
    assert "7 of 8 pairs with a seed" in text
    assert "odd → far, seed 1" in text
    assert "a&lt;b → far, odd → a&lt;b" in text  # read through text


def test_a_pair_is_sure_where_its_interval_is_on_one_side() -> None:
    def tile(at: float | None, low: float, high: float, own: bool = False) -> Tile:
        return Tile(Cell(at, (low, high)), 0.0, own)

    row = (tile(0.1, 0.05, 0.2), tile(0.1, 0.0, 0.2), tile(-0.1, -0.2, -0.01), tile(0.2, 0.1, 0.3, own=True))
    assert [one.sure for one in row] == [True, False, True, True]
    assert Map("", "", 1.0, (("a", row), ("b", (Tile(Cell(None), 0.0, False),)))).above() == (1, 3)


def test_the_verb_takes_a_matrix_alone(matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", str(matrix), "--out", str(tmp_path / "page.html")]) == 0
    assert json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))["matrix"] == "planted"
    assert cli.run(["report", str(matrix), str(tmp_path / "other")]) == 2
    assert "report must be of runs or of one matrix" in capsys.readouterr().err


def test_a_torn_or_foreign_file_is_refused(matrix: Path) -> None:
    file = matrix / "transfer.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    for broken, said in (
        ({**whole, "schema": 2}, "schema must be 1: got 2"),
        ({**whole, "cells": [{**whole["cells"][0], "rerank_gain": 3}]}, "rerank_gain must be an object"),
    ):
        file.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(RunError, match=said):
            build_report([matrix])
