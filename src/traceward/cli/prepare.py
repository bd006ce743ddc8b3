"""The verb that makes data: data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Results, ready
from traceward.data.formats import Format
from traceward.workflows import DataSet


def data(
    name: Annotated[DataSet, typer.Argument(help="A public set, or jsonl: a file of your own.", show_default=False)],
    source: Annotated[
        str, typer.Argument(help="File, directory with splits, or hub:NAME[@REVISION].", show_default=False)
    ],
    *,
    out: Annotated[Path, typer.Option(help="New directory for the JSONL.", show_default=False)],
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens with it: model directory, hub name, or builtin:stories.")
    ] = None,
    max_prompt: Annotated[int | None, typer.Option(help="Longest prompt in tokens.", min=1)] = None,
    max_completion: Annotated[int | None, typer.Option(help="Longest completion in tokens.", min=1)] = None,
    style: Annotated[Format, typer.Option("--format", help="Words around the reasoning.")] = Format.PLAIN,
    results: Results = None,
) -> None:
    """Turn a public set or your own file into checked JSONL. Rows that break a rule are left out and named."""
    ready(out, results)
    from traceward import data_tables, tables
    from traceward.workflows.data import prepare_set

    found = prepare_set(
        name,
        source,
        out=out,
        tokenizer=tokenizer,
        max_prompt=max_prompt,
        max_completion=max_completion,
        style=style,
    )
    tables.finish(None, None, data_tables.data_tables(found), results=results, found=found.as_json())
