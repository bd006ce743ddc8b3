"""Verbs that use a reward: score and rerank traces, search for new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Base, Long, Results, Reward, Rows, Seed, Sft, Traces, ready, work
from traceward.records import Guide
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


def search(
    questions: Annotated[Path, typer.Argument(help="Questions, .jsonl or .jsonl.gz.", show_default=False)],
    *,
    policy: Annotated[
        str,
        typer.Option(
            help="Model directory, hub name, builtin:stories, vllm:NAME, or the address of an OpenAI-compatible "
            "server, http://HOST:PORT/v1.",
            show_default=False,
        ),
    ],
    reward: Reward,
    model: Annotated[str | None, typer.Option(help="A server's model; left out: the first one it lists.")] = None,
    n: Annotated[int, typer.Option("--n", help="Steps sampled in each round.", min=1)] = 8,
    beams: Annotated[int, typer.Option(help="Traces that go on; as many as --n: best of N.", min=1)] = 4,
    groups: Annotated[
        int, typer.Option(help="Traces compete in their group only; 1: beam search, as many as beams: diverse.", min=1)
    ] = 1,
    guide: Annotated[Guide, typer.Option(help="What an unfinished trace is judged by.")] = Guide.SUM,
    temperature: Annotated[float, typer.Option(help="Of the steps.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest trace.", min=1)] = 256,
    out: Rows = None,
    results: Results = None,
    seed: Seed = 0,
) -> None:
    """Look for each answer step by step, guided by a reward. The same command goes on where one was killed."""
    ready(out, results)
    with work() as progress:
        from traceward import tables
        from traceward.workflows.search import SearchOptions, search_file

        found = search_file(
            questions,
            policy=policy,
            reward=reward,
            model=model,
            temperature=temperature,
            options=SearchOptions(n, beams, groups, guide, max_new_tokens, seed),
            out=out,
            progress=progress,
        )
    rows = None if out else found.rows
    tables.finish(rows, out, [tables.search_table(found)], results=results, found=found.as_json())
