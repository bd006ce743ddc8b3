"""Cells of a matrix whose values by problem are written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward.training.run_directory import RunDirectory
from traceward.transfer.matrix import load_matrix
from traceward.transfer.run import plan_matrix
from traceward.transfer.table import MatrixTable, Pair, measures
from traceward.transfer_tables import transfer_tables

TEXT = """
[run]
name = "planted"
[matrix]
seeds = [0, 1]
[learn.a]
[learn.b]
data.style = "result-first"
"""


def judged(reward: list[float], sft: list[float], hits: list[float]) -> dict[str, Any]:
    """A part as the stage leaves it: three problems, four wrong traces."""
    rerank = {"reward": reward, "sft_logprob": sft, "expected_random": [0.5, 0.25, 0.0], "oracle": [1.0, 1.0, 0.0]}
    wrong = {"wrong_traces": [2.0, 1.0, 1.0], "chance": [0.5, 0.25, 0.25]}
    return {
        "through_text": False,
        "rerank_by_problem": rerank,
        "localise": {"traces": 4},
        "localise_by_problem": {**wrong, "reward": hits, "sft_logprob": [1.0, 0.0, 0.0]},
    }


FIRST = judged([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.0, 1.0, 0.0])
SECOND = judged([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [2.0, 1.0, 1.0])


def test_the_values_of_a_pair_by_hand() -> None:
    found = measures({0: FIRST, 1: SECOND})
    assert (found["seeds"], found["problems"], found["wrong_traces"]) == ([0, 1], 3, 8)
    rerank = found["rerank"]
    assert rerank["reward"]["by_seed"] == pytest.approx([1 / 3, 2 / 3])
    assert rerank["reward"]["value"] == pytest.approx(0.5)
    assert rerank["expected_random"]["value"] == pytest.approx(0.25)
    assert found["rerank_gain"]["value"] == pytest.approx(0.25)
    assert found["rerank_gain"]["by_seed"] == pytest.approx([1 / 3 - 1 / 4, 2 / 3 - 1 / 4])
    assert found["rerank_over_sft_logprob"]["by_seed"] == pytest.approx([-1 / 3, 1 / 3])
    assert found["rerank_over_sft_logprob"]["value"] == pytest.approx(0)
    # Traces count, not problems: 3 of 4 and 4 of 4.
    assert found["localise"]["reward"]["by_seed"] == [3 / 4, 1.0]
    assert found["localise"]["chance"]["value"] == pytest.approx(1 / 4)
    assert "wrong_traces" not in found["localise"]
    assert found["localise_gain"]["value"] == pytest.approx(7 / 8 - 1 / 4)
    assert found["localise_over_sft_logprob"]["by_seed"] == pytest.approx([1 / 2, 3 / 4])
    low, high = (found["rerank_gain"][end] for end in ("low", "high"))
    assert low < found["rerank_gain"]["value"] < high
    assert found["rerank_gain"]["seeds"] == 2


def test_a_seed_without_a_wrong_trace_has_no_localisation() -> None:
    nothing = {key: value for key, value in SECOND.items() if not key.startswith("localise")}
    found = measures({0: FIRST, 1: nothing})
    assert found["localise"]["reward"]["by_seed"] == [3 / 4]
    assert found["rerank"]["reward"]["seeds"] == 2
    found = measures({1: nothing})
    assert (found["localise"], found["localise_gain"], found["wrong_traces"]) == ({}, None, 0)


@pytest.fixture
def planned(tmp_path: Path) -> tuple[MatrixTable, list[Pair], Path]:
    path = tmp_path / "matrix.toml"
    path.write_text(TEXT, encoding="utf-8")
    matrix = load_matrix(path)
    _, pairs = plan_matrix(matrix, lambda _recipe: {})
    return MatrixTable(matrix, pairs, tmp_path / "shared"), pairs, tmp_path / "shared"


def finish(room: Path, pair: Pair, found: dict[str, Any]) -> None:
    (room / pair.part.name / "parts").mkdir(parents=True)
    RunDirectory(room / pair.part.name).finish("transfer", found)


def test_a_table_of_what_has_finished(planned: tuple[MatrixTable, list[Pair], Path], tmp_path: Path) -> None:
    table, pairs, room = planned
    empty = table({})
    assert (empty["wanted"], empty["finished"], empty["learn"], empty["use"]) == (8, 0, ["a", "b"], ["a", "b"])
    assert [(c["learn"], c["use"], c["seeds"], c["rerank"]) for c in empty["cells"]][1] == ("a", "b", [], {})
    where = [at for at, pair in enumerate(pairs) if (pair.learn, pair.use) == ("b", "a")]
    finish(room, pairs[where[0]], FIRST)
    one = table({pairs[0].part.name: "it broke"})
    cell = next(c for c in one["cells"] if (c["learn"], c["use"]) == ("b", "a"))
    assert (cell["seeds"], cell["rerank"]["reward"]["by_seed"]) == ([0], pytest.approx([1 / 3]))
    assert one["failed"] == [{"part": pairs[0].part.name, "pair": "a → a, seed 0", "reason": "it broke"}]
    finish(room, pairs[where[1]], SECOND)
    both = table({})
    cell = next(c for c in both["cells"] if (c["learn"], c["use"]) == ("b", "a"))
    assert (both["finished"], cell["seeds"]) == (2, [0, 1])
    assert cell["rerank_gain"] == measures({0: FIRST, 1: SECOND})["rerank_gain"]
    (tmp_path / "transfer.json").write_text(json.dumps(both), encoding="utf-8")
    shown = transfer_tables(tmp_path / "transfer.json")
    assert len(shown) == 6
    assert list(shown[0].columns[1].cells) == ["–", f"+25.0 [{100 * cell['rerank_gain']['low']:+.0f}, "
                                                   f"{100 * cell['rerank_gain']['high']:+.0f}]"]  # fmt: skip
