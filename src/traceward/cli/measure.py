"""Verbs that measure: evaluate, transfer, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Policy, Results, Seed, page_of, ready, say, work
from traceward.data.formats import Format
from traceward.environment import threads


def evaluate(
    questions: Annotated[Path, typer.Argument(help="Questions with reference answers, .jsonl.", show_default=False)],
    *,
    policy: Policy,
    reward: Annotated[Path | None, typer.Option(help="Reward that picks one of the samples.")] = None,
    n: Annotated[int, typer.Option("--n", help="Samples per question.", min=1)] = 8,
    temperature: Annotated[float, typer.Option(help="Of the samples; greedy decoding is measured too.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest sample.", min=1)] = 256,
    style: Annotated[Format | None, typer.Option("--format", help="Words around the reasoning.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the sampled traces, .jsonl or .jsonl.gz.")] = None,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Sample a policy and grade its answers. Shows pass@k, greedy, majority vote and best of N by a reward."""
    ready(out, results)
    with work() as progress:
        from traceward import tables
        from traceward.workflows.evaluate import evaluate_policy

        found = evaluate_policy(
            questions,
            policy=policy,
            reward=reward,
            n=n,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            style=style,
            seed=seed,
            progress=progress,
        )
    tables.finish(
        found.rows if out else None, out, [tables.evaluate_table(found)], results=results, found=found.as_json()
    )


def transfer(
    matrix: Annotated[Path, typer.Argument(help="Matrix of places, .toml.", show_default=False)],
    *,
    out: Annotated[Path | None, typer.Option(help="Directory of the matrix; an unfinished one goes on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the matrix's.", min=0)] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
) -> None:
    """Learn rewards at some places and use them at others. Shows where they rerank and find the first wrong step."""
    threads()
    from traceward import tables, transfer_tables
    from traceward.transfer.run import TABLE, run_matrix

    found = run_matrix(matrix, out=out, seed=seed, overrides=overrides or [])
    tables.show(transfer_tables.transfer_tables(found / TABLE))
    say(matrix=found, report=page_of([found]), results=found / TABLE)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The page; left out: report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML page of finished runs. Its numbers go beside it as JSON."""
    say(report=page_of(runs, out))
