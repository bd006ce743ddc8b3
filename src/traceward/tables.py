"""What the command line puts out: one function per kind of table, the progress bars, and the rows.

Shares are percent with one decimal and the 95 % interval over questions. On a terminal tables have lines and colours;
elsewhere they are plain text, and no bar is drawn.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from traceward.data.jsonl import SHOWN, write_json, write_jsonl
from traceward.errors import DataError, RunError, TracewardError

if TYPE_CHECKING:
    from collections.abc import Callable

    from traceward.evaluation.statistics import Estimate
    from traceward.workflows.evaluate import EvaluateResult
    from traceward.workflows.export import ExportResult
    from traceward.workflows.fit import FitResult
    from traceward.workflows.rerank import RerankResult
    from traceward.workflows.search import SearchResult
    from traceward.workflows.stream import ScoreSummary

NOT_GIVEN = "not given"
_WIDTH = 160  # columns of plain text, so that nothing is cut in a file
_NAMES = {
    "reward": "reward",
    "weighted_vote": "reward-weighted vote",
    "majority": "majority vote",
    "base_logprob": "base log-prob",
    "sft_logprob": "SFT log-prob",
    "sft_log_ratio": "SFT log-ratio",
    "reward_exported": "reward, as exported",
    "sft_log_ratio_exported": "SFT log-ratio, as exported",
    "base_logprob_token": "base least likely token",
    "sft_logprob_token": "SFT least likely token",
    "shortest": "shortest",
    "expected_random": "random (exact mean)",
    "oracle": "oracle",
    "constant": "best constant index",
    "chance": "chance",
    "entropy": "entropy spike",
    "greedy": "greedy",
    "pass_at_1": "pass@1",
    "validation_pass_at_1": "pass@1, validation",
    "validation_greedy": "greedy, validation",
    "localise": "first wrong step",
    "held_out_auroc": "held-out AUROC",
}


def show(tables: Sequence[Table], *, stderr: bool = False, pictures: Sequence[RenderableType] = ()) -> None:
    """Print pictures, then tables, one after the other."""
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=_WIDTH, color_system=None)
    for picture in pictures:
        console.print(picture)
    for table in tables:
        if not console.is_terminal:
            table.box, table.pad_edge = None, False
        # Beside the table, not in it: Rich breaks a title that is wider than its table.
        title, caption, table.title, table.caption = table.title, table.caption, None, None
        console.print(title, style="bold")
        console.print(table)
        if caption:
            console.print(caption, style="dim", highlight=False, soft_wrap=True)
        console.print()


def error_text(error: TracewardError) -> str:
    """What broke, on one line; below it the places that an error names, some of them."""
    text = str(error)
    places = error.problems if isinstance(error, DataError) else ()
    if "\n" in text or places in {(), (text,)}:
        return text  # it lists them itself
    more = [f"… and {len(places) - SHOWN} more"] if len(places) > SHOWN else []
    return "\n  ".join([text, *places[:SHOWN], *more])


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr, a bar for each thing that is done; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    off = not console.is_terminal
    # Rows may go to stdout meanwhile, which Rich would take for its own.
    with Progress(*columns, console=console, disable=off, transient=True, redirect_stdout=False) as drawn:
        tasks: dict[str, Any] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = drawn.add_task(what, total=total)
            drawn.update(tasks[what], completed=done, total=total)

        yield update


def percent(found: Estimate | None) -> str:
    """62.5 % [58.0, 66.9]."""
    if found is None:
        return NOT_GIVEN
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def name_of(row: str) -> str:
    """What a row is called in tables."""
    return _NAMES.get(row, row)


def new_table(title: str, columns: Sequence[str], caption: str = "") -> Table:
    """An empty table; the first column is text, the others are numbers."""
    table = Table(title=title, caption=caption or None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def facts_table(title: str, facts: Mapping[str, object]) -> Table:
    """Names and what they are."""
    table = new_table(title, ("", ""))
    table.show_header = False
    for name, value in facts.items():
        table.add_row(name, "–" if value is None else str(value))
    return table


def score_table(found: ScoreSummary) -> Table:
    """How many traces were scored, and where their scores lie."""
    facts: dict[str, object] = {"traces": found.rows - found.skipped}
    if found.skipped:
        facts["skipped (too long)"] = found.skipped
    if found.before:
        facts["scored before"] = found.before
    if found.rows > found.skipped:
        facts |= {"lowest": f"{found.lowest:.3f}", "highest": f"{found.highest:.3f}"}
    return facts_table("Scores (high = expert)", facts)


def fit_table(result: FitResult) -> Table:
    """What the reward was learned from, and how well it tells held-out experts from rollouts."""
    card, metrics = result.card, result.card["metrics"]
    auroc = metrics["held_out_auroc"]
    return facts_table(
        "Reward",
        {
            "saved in": result.out,
            "demonstrations": card["demonstrations"],
            "rollouts": card["rollouts"],
            "label source": card["label_source"],
            "uses final answers": "yes" if card["uses_final_answers"] else "no",
            "updates kept": f"{result.done.kept} ({result.done.stopped})",
            "held-out AUROC": None if auroc is None else f"{auroc:.3f}",
            "alarms": "; ".join(f"{alarm.kind}: {alarm.message}" for alarm in result.alarms) or "none",
        },
    )


def export_table(result: ExportResult) -> Table:
    """What was written, and what it needs to be opened."""
    held = result.contents
    megabytes = sum(result.files.values()) / 1e6
    return facts_table(
        f"Exported {result.kind}",
        {
            "written to": result.out,
            "files": f"{len(result.files)}, {megabytes:.1f} MB",
            "form": held.form,
            "adapter of": held.adapter_base,
            "reference": held.reference,
            "reward less logit": f"{held.offset:+.6g}" if held.offset else None,
            "tokenizer opens with": held.tokenizer_class,
        },
    )


def rerank_tables(result: RerankResult) -> list[Table]:
    """Accuracy of every rule at N, and against N where a curve was asked for."""
    if result.table is None:
        return []
    left = len(result.rows) - result.labelled
    caption = f"{result.labelled} questions" + (
        f"; {left} left out: a trace without verdict, or too long" if left else ""
    )
    table = new_table(f"Rerank, N = {result.table.n}", ("picked by", "correct"), caption)
    for name, row in result.table.rows.items():
        table.add_row(name_of(name), percent(row))
    passed = new_table("Some of k traces is right", ("k", "pass@k"), "unbiased, from all traces of a question")
    for k, found in result.passed.items():
        passed.add_row(str(k), percent(found))
    if result.curve is None:
        return [table, passed]
    curve = new_table("Correct (%) against N", ("picked by", *(f"N = {size}" for size in result.sizes)))
    for name, points in result.curve.items():
        curve.add_row(name_of(name), *(f"{100 * p.value:.1f} [{100 * p.low:.0f}, {100 * p.high:.0f}]" for p in points))
    return [table, passed, curve]


def search_table(result: SearchResult) -> Table:
    """How often the best trace, the vote and any of the traces is right, and what the search took."""
    options = result.options
    shape = f"{options.beams} beams" + (f" in {options.groups} groups" if options.groups > 1 else "")
    drawn, left = result.sampled_tokens, len(result.rows) - result.labelled
    caption = f"{result.labelled} questions" + (f"; {left} without a reference answer" if left else "")
    table = new_table(f"Search, N = {options.n}, {shape}, by {options.guide}", ("answer by", "correct"), caption)
    for name, found in result.measures.items():
        table.add_row(name_of(name), percent(found))
    table.add_row("tokens sampled, a question", f"{drawn.value:.1f} [{drawn.low:.1f}, {drawn.high:.1f}]")
    return table


def evaluate_table(result: EvaluateResult) -> Table:
    """pass@k, greedy, and what picks one of the samples."""
    caption = f"{result.questions} questions, {result.n} samples each"
    if result.cut:
        caption += f"; {100 * result.cut:.1f} % of the samples met the length cap"
    table = new_table(f"Policy, T = {result.temperature:g}", ("measure", "correct"), caption)
    for name, found in result.measures.items():
        picks = name in {"reward", "weighted_vote", "majority", "shortest"}
        table.add_row(f"{name_of(name)}, {result.n} samples" if picks else name_of(name), percent(found))
    return table


def grid_tables(path: Path) -> list[Table]:
    """Rows of a grid with their measures, differences of rows, and the combinations that could not run."""
    found = json.loads(path.read_text(encoding="utf-8"))
    axes = [axis for axis in (*found["axes"], "arm") if len({row["labels"].get(axis) for row in found["rows"]}) > 1]
    caption = (
        f"{found['finished']} of {found['cells']} cells; mean over seeds, 95 % interval over problems and seeds; "
        f"ordered by {name_of(found['sort'])}"
    )
    heads = (*(axis.rpartition(".")[2] for axis in axes), "seeds")
    main = new_table(f"Grid {found['grid']}", (*heads, *map(name_of, found["measures"])), caption)
    for column in main.columns[: len(axes)]:
        column.no_wrap, column.justify = False, "left"
    for row in found["rows"]:
        labels = [row["labels"].get(axis, "–") for axis in axes]
        main.add_row(*labels, str(len(row["seeds"])), *(share(row["values"].get(m)) for m in found["measures"]))
    tables = [main]
    if found["differences"]:
        pairs = new_table(
            "Differences, points", ("", "", *map(name_of, found["measures"])), "same problems, same seeds"
        )
        for column in pairs.columns[:2]:
            column.no_wrap, column.justify = False, "left"
        for pair in found["differences"]:
            ours, theirs = pair["a"], pair["b"]
            where = [ours[axis] for axis in ours if ours[axis] == theirs.get(axis)]
            names = [" ".join(side[axis] for axis in side if side[axis] not in where) for side in (ours, theirs)]
            numbers = (share(pair["values"].get(m), sign="+") for m in found["measures"])
            pairs.add_row(" - ".join(names), " ".join(where), *numbers)
        tables.append(pairs)
    if found["removed"]:
        tables.append(
            facts_table("Cannot run", {" · ".join(r["labels"].values()): r["reason"] for r in found["removed"]})
        )
        for column in tables[-1].columns:
            column.no_wrap, column.justify = False, "left"
    return tables


def share(value: Mapping[str, float] | None, sign: str = "") -> str:
    """62.5 [58, 67], in percent or points; a dash where there is none."""
    if value is None:
        return "–"
    return f"{100 * value['value']:{sign}.1f} [{100 * value['low']:{sign}.0f}, {100 * value['high']:{sign}.0f}]"


def finish(
    rows: Sequence[Mapping[str, Any]] | None,
    out: Path | None,
    shown: Sequence[Table],
    *,
    results: Path | None = None,
    found: Mapping[str, Any] | None = None,
    pictures: Sequence[RenderableType] = (),
) -> None:
    """Write rows and results, then show pictures and tables: on stderr where the rows take stdout."""
    if rows is not None and out is not None:
        write_jsonl(out, rows)
    if results is not None:
        write_json(results, found)
    piped = rows is not None and out is None
    if rows is not None and out is None:
        to_stdout(rows)
    show(shown, stderr=piped, pictures=pictures)


def to_stdout(rows: Iterable[Mapping[str, Any]]) -> None:
    """JSONL in ASCII escapes: the same whatever the encoding of the terminal."""
    try:
        sys.stdout.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has left, as `head` does; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunError(f"rows must be writable to stdout: got '{error}'; free space or give --out") from error
