"""Verbs before a run: data, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traceward.cli.frame import Results, ready
from traceward.data.formats import Format
from traceward.environment import threads
from traceward.errors import ConfigError
from traceward.workflows import DataSet

if TYPE_CHECKING:
    from traceward.ablation.plan import GridPlan
    from traceward.workflows.plan import RunPlan


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


def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe or grid, .toml.", show_default=False)],
    *,
    gpu_memory: Annotated[float | None, typer.Option(help="GiB of each GPU; refuse what does not fit.", min=0)] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the run.", min=1)] = 1,
    sharded: Annotated[bool, typer.Option("--sharded", help="FSDP2 shards what learns over the GPUs.")] = False,
    prompt_tokens: Annotated[int, typer.Option(help="Longest prompt in tokens.", min=1)] = 300,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Throughput of all GPUs together, for the hours.", min=0.001)
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    results: Results = None,
) -> None:
    """Show what a recipe will take: memory, tokens, hours. Or a grid. Needs no weights and no GPU."""
    ready(results)
    threads()
    from traceward import plan_tables, tables
    from traceward.ablation.grid import is_grid
    from traceward.ablation.plan import make_grid_plan
    from traceward.transfer.matrix import is_matrix
    from traceward.workflows.inputs import quiet
    from traceward.workflows.plan import make_plan

    quiet()
    if is_matrix(recipe):
        raise ConfigError(
            f"recipe must be one recipe or a grid: got the matrix '{recipe}'; plan the recipe that it begins with"
        )
    options: dict[str, Any] = {
        "gpus": gpus,
        "gpu_memory": gpu_memory,
        "sharded": sharded,
        "prompt_tokens": prompt_tokens,
        "tokens_per_second": tokens_per_second,
    }
    found: RunPlan | GridPlan
    if is_grid(recipe):
        found = make_grid_plan(recipe, overrides=overrides or (), **options)
        shown = plan_tables.grid_plan_tables(found, gpu_memory=gpu_memory)
    else:
        found = make_plan(recipe, overrides=tuple(overrides or ()), **options)
        shown = plan_tables.plan_tables(found, gpu_memory=gpu_memory)
    tables.finish(None, None, shown, results=results, found=found.as_json())
