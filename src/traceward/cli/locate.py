"""Verbs about single steps and probabilities: localise, calibrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Base, Long, Results, Reward, Rows, Seed, Sft, Traces, ready, work
from traceward.records import CalibrationMethod
from traceward.workflows import TooLong

PAGE_TRACES = 100  # as many traces are drawn on a page


def localise(
    traces: Traces,
    *,
    reward: Reward,
    base: Base = None,
    sft: Sft = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="The first step with a suspicion above it is wrong; left out: the reward's, or the largest."),
    ] = None,
    tune: Annotated[Path | None, typer.Option(help="Other labelled traces to choose the threshold on.")] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Read every token too: rows and pictures show them.")
    ] = False,
    show: Annotated[int, typer.Option(help="Draw the first traces on the terminal.", min=0)] = 0,
    html: Annotated[Path | None, typer.Option(help="Draw the first traces on one self-contained page.")] = None,
    too_long: Long = TooLong.ERROR,
    out: Rows = None,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Name the first wrong step of each trace. With labels, show how often that is right."""
    ready(out, results, html)
    if html is not None:
        from traceward.report.page import place_of

        place_of(html, html.parent)
    with work() as progress:
        from traceward import heatmap, step_tables, tables
        from traceward.workflows.localise import localise_file

        found = localise_file(
            traces,
            reward=reward,
            base=base,
            sft=sft,
            threshold=threshold,
            tune=tune,
            tokens=tokens,
            examples=max(show, PAGE_TRACES if html else 0),
            too_long=too_long,
            seed=seed,
            progress=progress,
        )
    if html is not None:
        from traceward.report.traces import build_traces_page

        build_traces_page(traces.name, found.examples[:PAGE_TRACES], html, of=len(found.rows), numbers=found.as_json())
    tables.finish(
        found.rows,
        out,
        step_tables.localise_tables(found),
        results=results,
        found=found.as_json(),
        pictures=heatmap.pictures(found.examples[:show]),
    )


def calibrate(
    traces: Annotated[Path, typer.Argument(help="Validation traces with labels, .jsonl.", show_default=False)],
    *,
    reward: Reward,
    method: Annotated[
        CalibrationMethod | None, typer.Option(help="Kind of map; left out: the better one by cross-validation.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Other labelled traces to measure on.")] = None,
    too_long: Long = TooLong.ERROR,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Fit probabilities of being right to labelled traces. They are saved with the reward; scores stay as they are."""
    ready(results)
    with work() as progress:
        from traceward import step_tables, tables
        from traceward.workflows.calibrate import calibrate_file

        found = calibrate_file(
            traces, reward=reward, method=method, test=test, too_long=too_long, seed=seed, progress=progress
        )
    tables.finish(None, None, step_tables.calibrate_tables(found), results=results, found=found.as_json())
