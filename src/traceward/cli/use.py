"""Verbs that use a reward on traces: score, rerank."""

from __future__ import annotations

from typing import Annotated

import typer

from traceward.cli.frame import Base, Long, Results, Reward, Rows, Seed, Sft, Traces, ready, work
from traceward.workflows import Precision, TooLong


def score(
    traces: Traces,
    *,
    reward: Reward,
    too_long: Long = TooLong.ERROR,
    precision: Annotated[Precision, typer.Option(help="Numbers that the reward is run in.")] = Precision.FLOAT32,
    out: Rows = None,
) -> None:
    """Score traces and their steps. A step's score is what it adds to the reward; high = good."""
    ready(out)
    with work() as progress:
        from traceward.tables import score_table, show, to_stdout
        from traceward.workflows.stream import score_file

        found = score_file(
            traces, reward=reward, out=out or to_stdout, too_long=too_long, precision=precision, progress=progress
        )
    show([score_table(found)], stderr=out is None)


def rerank(
    traces: Traces,
    *,
    reward: Reward,
    base: Base = None,
    sft: Sft = None,
    n: Annotated[int | None, typer.Option("--n", help="Traces per question in the table.", min=1)] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Show the table against N too.")] = False,
    too_long: Long = TooLong.ERROR,
    out: Rows = None,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Pick the best trace of each question. With verdicts or reference answers, show how often it is right."""
    ready(out, results)
    with work() as progress:
        from traceward import tables
        from traceward.workflows.rerank import rerank_file

        found = rerank_file(
            traces, reward=reward, base=base, sft=sft, n=n, curve=curve, too_long=too_long, seed=seed, progress=progress
        )
    tables.finish(found.rows, out, tables.rerank_tables(found), results=results, found=found.as_json())
