"""Verbs that learn: demo, train, fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Policy, Seed, page_of, ready, say, work
from traceward.data.formats import Format
from traceward.environment import threads
from traceward.errors import ConfigError
from traceward.records import Granularity, Head, LabelSource
from traceward.training.distribution import is_main, launched


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("traceward-demo"),
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller run, to see that everything works.")] = False,
) -> None:
    """Run the whole method on a built-in task, offline, on a CPU. Ends with a report."""
    threads()
    from traceward.workflows.demo import run_demo

    found = run_demo(out, seed, quick)
    if is_main():
        say(report=page_of([found]), results=found / "results.json")


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, .toml.", show_default=False)],
    *,
    data: Annotated[Path | None, typer.Option(help="Demonstrations, in place of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; an unfinished one goes on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the recipe's.", min=0)] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Every stage, on tiny random models.")] = False,
) -> None:
    """Run a recipe: learn a reward, train policies, measure both. Or a grid of recipes."""
    threads()
    from traceward.transfer.matrix import is_matrix

    if is_matrix(recipe):
        raise ConfigError(f"recipe must be one recipe or a grid: got the matrix '{recipe}'; run traceward transfer")
    if dry_run:
        _try(recipe, data=data, out=out, seed=seed, overrides=overrides or [])
    else:
        _train(recipe, data=data, out=out, seed=seed, overrides=overrides or [])


def _try(recipe: Path, *, data: Path | None, out: Path | None, seed: int | None, overrides: list[str]) -> None:
    """A dry run, which says so before and after."""
    import os
    import tempfile
    import time

    if launched():
        raise ConfigError("dry run must be of one process: got several; run it without a launcher")
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries below are imported, here and in workers
    from traceward.workflows.dry_run import dry_run, first_recipe

    started = time.monotonic()
    place = out or Path(tempfile.mkdtemp(prefix="traceward-dry-run-"))
    made = dry_run(first_recipe(recipe, data=data, seed=seed, overrides=overrides), place / "stand-ins")
    for note in ("dry run: every stage runs once, and no figure means anything", *made.notes):
        typer.echo(note)
    _train(recipe, data=None, out=place / "run", seed=seed, overrides=[*overrides, *made.overrides])
    typer.echo(f"dry run: all stages ran, in {time.monotonic() - started:.0f} s")


def _train(recipe: Path, *, data: Path | None, out: Path | None, seed: int | None, overrides: list[str]) -> None:
    from traceward.ablation.grid import is_grid

    if is_grid(recipe):
        from traceward import tables
        from traceward.ablation.run import run_grid

        found = run_grid(recipe, data=data, out=out, seed=seed, overrides=overrides)
        tables.show(tables.grid_tables(found / "grid.json"))
        say(grid=found, report=page_of([found]), results=found / "grid.json")
        return
    from traceward.workflows.train import run_recipe

    found = run_recipe(recipe, data=data, out=out, seed=seed, overrides=overrides)
    if is_main():
        say(run=found, report=page_of([found]), results=found / "results.json")


def fit(
    demonstrations: Annotated[Path, typer.Argument(help="Worked solutions, .jsonl or .jsonl.gz.", show_default=False)],
    *,
    policy: Policy,
    out: Annotated[Path, typer.Option(help="Directory for the reward.", show_default=False)],
    rollouts: Annotated[Path | None, typer.Option(help="Traces of the same questions; left out: sampled.")] = None,
    head: Annotated[Head, typer.Option(help="How the model becomes a reward.")] = Head.LOG_RATIO,
    granularity: Annotated[Granularity, typer.Option(help="Where the reward lives.")] = Granularity.INTERVAL,
    interval: Annotated[int | None, typer.Option(help="Tokens per unit; left out: a unit is a step.", min=1)] = None,
    label_source: Annotated[LabelSource, typer.Option(help="What makes a negative.")] = LabelSource.DEMONSTRATIONS,
    packs: Annotated[
        list[str] | None, typer.Option("--corruption-pack", help="Pack of wrong edits; may be repeated.")
    ] = None,
    updates: Annotated[int | None, typer.Option(help="Most updates; early stop may end sooner.", min=0)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the discriminator.")] = None,
    rollouts_per_question: Annotated[int | None, typer.Option(help="How many are sampled.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest sampled rollout.", min=1)] = 256,
    style: Annotated[Format, typer.Option("--format", help="Words around the reasoning.")] = Format.PLAIN,
    seed: Seed = 0,
) -> None:
    """Learn a reward from demonstrations and a frozen policy."""
    ready(out)
    with work() as progress:
        from traceward import tables
        from traceward.training.settings import CriticSettings, RewardSettings
        from traceward.workflows.fit import fit_reward, settings

        found = fit_reward(
            demonstrations,
            policy=policy,
            out=out,
            rollouts=rollouts,
            reward=settings(RewardSettings, head=head, granularity=granularity, interval=interval),
            critic=settings(
                CriticSettings,
                label_source=label_source,
                corruption_packs=packs,
                warmup_updates=updates,
                learning_rate=learning_rate,
                rollouts_per_question=rollouts_per_question,
            ),
            style=style,
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
        )
    tables.show([tables.fit_table(found)])
