"""The command line: a verb parses its options, imports late, calls one function, and shows a table.

Rows go to --out, or to stdout; where rows take stdout, tables go to stderr. Errors that a user can mend are one line
on stderr and exit code 2; anything else is a bug of ours and shows its traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from traceward import __version__
from traceward.data.formats import Format
from traceward.environment import pin_threads, quieten, threads
from traceward.errors import ConfigError, PausedError, RunError, TracewardError
from traceward.records import Granularity, Head, LabelSource
from traceward.training.distribution import is_main, launched
from traceward.workflows import TooLong

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED, MISUSED, PAUSED = 130, 2, 3
SHARED = ("train", "demo")  # the verbs whose work several launched processes divide
# Typer brings its own click or an installed one: this is the UsageError of either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="traceward",
    help="Learn a reward for reasoning from worked solutions alone; train, rerank, find the first wrong step.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Reward = Annotated[Path, typer.Option(help="Directory of a saved reward.")]
Base = Annotated[str | None, typer.Option(help="Model whose log-prob is shown beside the reward.")]
Sft = Annotated[str | None, typer.Option(help="Fine-tuned model whose log-prob is shown beside the reward.")]
Rows = Annotated[Path | None, typer.Option(help="Where the rows go, .jsonl or .jsonl.gz; left out: stdout.")]
Results = Annotated[Path | None, typer.Option("--json", help="Write the table's numbers as JSON.")]
Traces = Annotated[Path, typer.Argument(help="Traces, .jsonl or .jsonl.gz.", show_default=False)]
Long = Annotated[TooLong, typer.Option(help="What to do with a trace that is longer than the model's context.")]
Policy = Annotated[str, typer.Option(help="Model directory, hub name, or builtin:stories.", show_default=False)]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"traceward {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the verb."""
    verb = context.invoked_subcommand
    if launched() and verb not in SHARED:
        raise ConfigError(f"traceward {verb} must run in one process: got several; launch {' or '.join(SHARED)} only")


@app.command()
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
        _say(report=_report([found]), results=found / "results.json")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, .toml.", show_default=False)],
    *,
    data: Annotated[Path | None, typer.Option(help="Demonstrations, in place of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; an unfinished one goes on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, in place of the recipe's.", min=0)] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
) -> None:
    """Run a recipe: learn a reward, train policies, measure both. Or a grid of recipes."""
    threads()
    from traceward.ablation.grid import is_grid

    if is_grid(recipe):
        from traceward import tables
        from traceward.ablation.run import run_grid

        found = run_grid(recipe, data=data, out=out, seed=seed, overrides=overrides or [])
        tables.show(tables.grid_tables(found / "grid.json"))
        _say(grid=found, report=_report([found]), results=found / "grid.json")
        return
    from traceward.workflows.train import run_recipe

    found = run_recipe(recipe, data=data, out=out, seed=seed, overrides=overrides or [])
    if is_main():
        _say(run=found, report=_report([found]), results=found / "results.json")


@app.command()
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
    updates: Annotated[int | None, typer.Option(help="Most updates; early stop may end sooner.", min=0)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the discriminator.")] = None,
    rollouts_per_question: Annotated[int | None, typer.Option(help="How many are sampled.", min=1)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest sampled rollout.", min=1)] = 256,
    style: Annotated[Format, typer.Option("--format", help="Words around the reasoning.")] = Format.PLAIN,
    seed: Seed = 0,
) -> None:
    """Learn a reward from demonstrations and a frozen policy."""
    _ready(out)
    with _work() as progress:
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


@app.command()
def score(traces: Traces, *, reward: Reward, too_long: Long = TooLong.ERROR, out: Rows = None) -> None:
    """Score traces and their steps. A step's score is what it adds to the reward; high = good."""
    _ready(out)
    with _work() as progress:
        from traceward import tables
        from traceward.workflows.score import score_file

        rows = score_file(traces, reward=reward, too_long=too_long, progress=progress)
    tables.finish(rows, out, [tables.score_table(rows)])


@app.command()
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
    _ready(out, results)
    with _work() as progress:
        from traceward import tables
        from traceward.workflows.rerank import rerank_file

        found = rerank_file(
            traces, reward=reward, base=base, sft=sft, n=n, curve=curve, too_long=too_long, seed=seed, progress=progress
        )
    tables.finish(found.rows, out, tables.rerank_tables(found), results=results, found=found.as_json())


@app.command()
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
    _ready(out, results)
    with _work() as progress:
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


@app.command()
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
    _ready(out, results)
    with _work() as progress:
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


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The page; left out: report.html in the first run.")] = None,
) -> None:
    """Write one self-contained HTML page of finished runs. Its numbers go beside it as JSON."""
    _say(report=_report(runs, out))


# ---- around the verbs ------------------------------------------------------------------------------------------------


@contextmanager
def _work() -> Iterator[Callable[[str, int, int], None]]:
    """The heavy part of a verb, with the progress that it may report to."""
    pin_threads()
    from traceward.tables import bars

    with bars() as progress:
        yield progress


def _ready(*outputs: Path | None) -> None:
    """Tell before the work, not after it, that a result cannot be written."""
    for path in outputs:
        if path is not None and not path.absolute().parent.is_dir():
            raise RunError(f"output must go to an existing directory: got '{path}'; make its directory first")


def _report(runs: Sequence[Path], out: Path | None = None) -> Path:
    from traceward.report.build import build_report

    return build_report(runs, out)


def _say(**paths: Path) -> None:
    for name, path in paths.items():
        typer.echo(f"{name}: {path}")


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = app(list(arguments) or ["--help"], prog_name="traceward", standalone_mode=False)
    except PausedError as error:
        if is_main():
            if error.run is not None:
                _say(run=error.run, report=_report([error.run]), results=error.run / "results.json")
            typer.echo(f"traceward: paused: {error}", err=True)
        return PAUSED
    except TracewardError as error:
        from traceward.tables import error_text

        message = error_text(error)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        help_of = context.command_path if context else "traceward"
        message = f"{error.format_message().rstrip('.')}; see {help_of} --help"  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    else:
        return code if isinstance(code, int) else 0
    typer.echo(f"traceward: error: {message}", err=True)
    return MISUSED


def main() -> None:
    """The entry of the program."""
    quieten()
    sys.exit(run(sys.argv[1:]))
