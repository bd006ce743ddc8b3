"""Verbs about single steps: localise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Base, Long, Results, Reward, Rows, Seed, Sft, Traces, ready, work
from traceward.workflows import TooLong


def localise(
    traces: Traces,
    *,
    reward: Reward,
    base: Base = None,
    sft: Sft = None,
    threshold: Annotated[
        float | None, typer.Option(help="The first step with a suspicion above it is wrong; left out: the largest.")
    ] = None,
    tune: Annotated[Path | None, typer.Option(help="Other labelled traces to choose the threshold on.")] = None,
    too_long: Long = TooLong.ERROR,
    out: Rows = None,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Name the first wrong step of each trace. With labels, show how often that is right."""
    ready(out, results)
    with work() as progress:
        from traceward import tables
        from traceward.workflows.localise import localise_file

        found = localise_file(
            traces,
            reward=reward,
            base=base,
            sft=sft,
            threshold=threshold,
            tune=tune,
            too_long=too_long,
            seed=seed,
            progress=progress,
        )
    tables.finish(found.rows, out, tables.localise_tables(found), results=results, found=found.as_json())
