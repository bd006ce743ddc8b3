"""The tables of `traceward transfer`: what a reward gains at each place, and what it gains over SFT's log-prob."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from traceward.tables import facts_table, name_of, new_table, share

_MATRICES = {
    "rerank_gain": ("Best of N: reward - random pick, points", ""),
    "localise_gain": ("First wrong step: reward - chance, points", ""),
    "rerank_over_sft_logprob": ("Best of N: reward - SFT log-prob, points", "SFT on the same demonstrations"),
    "localise_over_sft_logprob": ("First wrong step: reward - SFT log-prob, points", ""),
}
_RIVALS = {
    "rerank": ("reward", "sft_logprob", "sft_log_ratio", "base_logprob", "majority", "expected_random", "oracle"),
    "localise": ("reward", "sft_logprob", "sft_logprob_token", "sft_log_ratio", "base_logprob", "chance"),
}
_TITLES = {"rerank": "Best of N, %", "localise": "First wrong step, Hit@1, %"}


def transfer_tables(path: Path) -> list[Table]:
    """Four matrices of differences, each method in every pair, and what failed."""
    found = json.loads(path.read_text(encoding="utf-8"))
    cells = {(cell["learn"], cell["use"]): cell for cell in found["cells"]}
    tables = [_matrix(found, cells, key) for key in _MATRICES]
    tables += [_rivals(found, cells, measure) for measure in _RIVALS]
    if found["failed"]:
        tables.append(facts_table("Failed", {one["pair"] or one["part"]: one["reason"] for one in found["failed"]}))
    return tables


def _matrix(found: Mapping[str, Any], cells: Mapping[tuple[str, str], Mapping[str, Any]], key: str) -> Table:
    title, caption = _MATRICES[key]
    table = new_table(title, ("learned on | used on", *found["use"]), caption)
    for learn in found["learn"]:
        table.add_row(learn, *(share(cells[learn, use][key], sign="+") for use in found["use"]))
    return table


def _rivals(found: Mapping[str, Any], cells: Mapping[tuple[str, str], Mapping[str, Any]], measure: str) -> Table:
    caption = (
        f"{found['finished']} of {found['wanted']} pairs with a seed; mean over seeds, 95 % interval over problems and "
        "seeds"
    )
    table = new_table(_TITLES[measure], ("learned → used", "seeds", *map(name_of, _RIVALS[measure])), caption)
    for (learn, use), cell in cells.items():
        values = (share(cell[measure].get(method)) for method in _RIVALS[measure])
        table.add_row(f"{learn} → {use}", str(len(cell["seeds"])), *values)
    return table
