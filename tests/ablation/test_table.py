"""Rows, means and differences of cells whose values by problem are written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from traceward.ablation.grid import Grid, load_grid
from traceward.ablation.sharing import place, prepare
from traceward.ablation.table import grid_table
from traceward.training.run_directory import RunDirectory
from traceward.workflows.pool import part_name

TEXT = """
[run]
name = "planted"
arms = ["sft", "adversarial"]
[ablation]
measures = ["pass_at_1", "rerank", "localise", "held_out_auroc"]
compare = [["adversarial", "sft"], ["scalar", "log-ratio"], ["best", "base"]]
[grid]
reward.head = ["log-ratio", "scalar"]
run.seed = [0, 1]
"""
# (head, seed) -> the adversarial policy's share of each of four test problems
ADVERSARIAL = {
    ("log-ratio", 0): [1.0, 0.5, 0.0, 0.5],
    ("log-ratio", 1): [1.0, 1.0, 0.5, 0.5],
    ("scalar", 0): [0.5, 0.5, 0.0, 0.0],
    ("scalar", 1): [0.5, 0.5, 0.0, 0.0],
}
SFT = {0: [0.5, 0.0, 0.0, 0.0], 1: [0.5, 0.5, 0.0, 0.0]}
BASE = [0.0, 0.0, 0.0, 0.25]


def measured(shares: list[float], validation: list[float]) -> dict[str, Any]:
    both = {"pass_at_1_by_problem": shares, "greedy_by_problem": [1.0] * 4}
    return {**both, "validation": {"pass_at_1_by_problem": validation, "greedy_by_problem": validation}}


def plant(grid: Grid, room: Path, *, without: tuple[str, int] | None = None) -> list[Any]:
    """The parts of all cells, as their stages would leave them; `without` the policy of one cell."""
    cells = place(grid.cells)
    for placed in cells:
        head, seed = placed.cell.labels["reward.head"], placed.cell.seed
        found: dict[str, dict[str, Any]] = {
            "reward": {"held_out_auroc": 0.8 if head == "scalar" else 0.9},
            "measure:base": measured(BASE, [0.0, 0.0]),
            "measure:sft": measured(SFT[seed], [0.5, 0.5]),
            # On validation scalar is ahead, on test it is behind: validation decides.
            "adversarial": measured(ADVERSARIAL[head, seed], [1.0, 0.5] if head == "scalar" else [0.5, 0.0]),
            "judge": {
                "rerank_by_problem": {"reward": [1.0, 1.0, 0.0, 0.0], "sft_logprob": [1.0, 0.0, 0.0, 0.0]},
                "localise_by_problem": {"wrong_traces": [2.0, 0.0, 1.0, 1.0], "reward": [2.0, 0.0, 1.0, 0.0]},
            },
        }
        for stage, part in placed.parts.items():
            if not (stage == "adversarial" and (head, seed) == without):
                RunDirectory(prepare_alone(room, part)).finish(part_name(stage), found.get(stage, {}))
    return cells


def prepare_alone(room: Path, part: Any) -> Path:
    for name in part.inputs:
        for kind in ("data", "metrics", "parts", "policies"):
            (room / name / kind).mkdir(parents=True, exist_ok=True)
    return prepare(room, part)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    path = tmp_path / "grid.toml"
    path.write_text(TEXT, encoding="utf-8")
    return load_grid(path, check=lambda _recipe: None)


def test_the_table_by_hand(grid: Grid, tmp_path: Path) -> None:
    room = tmp_path / "shared"
    table = grid_table(grid, plant(grid, room), room, {})
    assert (table["cells"], table["finished"]) == (4, 4)
    assert table["measures"] == ["validation_pass_at_1", "pass_at_1", "rerank", "localise", "held_out_auroc"]
    rows = {tuple(row["labels"].values()): row for row in table["rows"]}
    # SFT and base are the same work for both heads: one row each, without the head. The order is that of validation.
    assert list(rows) == [("scalar", "adversarial"), ("sft",), ("log-ratio", "adversarial"), ("base",)]
    ours = rows["log-ratio", "adversarial"]["values"]
    assert ours["pass_at_1"]["by_seed"] == [0.5, 0.75]
    assert ours["pass_at_1"]["value"] == pytest.approx(0.625)
    assert ours["rerank"]["by_seed"] == [0.5, 0.5]
    assert ours["localise"]["by_seed"] == [3 / 4, 3 / 4]  # traces, not problems
    assert ours["held_out_auroc"] == {"value": 0.9, "low": 0.9, "high": 0.9, "seeds": 2, "by_seed": [0.9, 0.9]}
    assert rows["sft",]["values"]["pass_at_1"]["value"] == pytest.approx((0.125 + 0.25) / 2)
    assert rows["sft",]["values"]["rerank"]["value"] == 0.25  # by its own log-prob
    assert "rerank" not in rows["base",]["values"]  # nobody scored by the base here
    assert rows["base",]["seeds"] == [0, 1]
    assert rows["scalar", "adversarial"]["cells"] == ["scalar-seed-0", "scalar-seed-1"]


def test_differences_pair_what_agrees_and_best_is_chosen_on_validation(grid: Grid, tmp_path: Path) -> None:
    room = tmp_path / "shared"
    table = grid_table(grid, plant(grid, room), room, {})
    pairs = [(tuple(p["a"].values()), tuple(p["b"].values())) for p in table["differences"]]
    assert pairs == [
        (("scalar", "adversarial"), ("sft",)),
        (("log-ratio", "adversarial"), ("sft",)),
        (("scalar", "adversarial"), ("log-ratio", "adversarial")),
        (("scalar", "adversarial"), ("base",)),
    ]
    over_sft = table["differences"][1]["values"]
    assert over_sft["pass_at_1"]["value"] == pytest.approx(((0.5 - 0.125) + (0.75 - 0.25)) / 2)
    assert over_sft["rerank"]["value"] == pytest.approx(0.25)
    heads = table["differences"][2]["values"]
    assert heads["held_out_auroc"]["value"] == pytest.approx(-0.1)
    assert heads["localise"] == {"value": 0.0, "low": 0.0, "high": 0.0, "seeds": 2}  # paired: equal traces, no width


def test_an_unfinished_row_is_shown_for_the_seeds_it_has(grid: Grid, tmp_path: Path) -> None:
    room = tmp_path / "shared"
    table = grid_table(grid, plant(grid, room, without=("log-ratio", 1)), room, {"adversarial-x": "it broke"})
    assert table["finished"] == 3
    row = next(row for row in table["rows"] if row["labels"] == {"reward.head": "log-ratio", "arm": "adversarial"})
    assert row["values"]["pass_at_1"]["by_seed"] == [0.5]
    assert row["values"]["rerank"]["seeds"] == 2
    pair = next(p for p in table["differences"] if p["a"] == row["labels"])
    assert pair["values"]["pass_at_1"]["value"] == pytest.approx(0.5 - 0.125)  # seed 0 alone, on both sides
    assert table["failed"] == [{"part": "adversarial-x", "reason": "it broke"}]
