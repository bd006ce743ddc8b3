"""`traceward train`: a recipe's stages in order, side by side where they do not wait for each other.

A stage that has finished is never run again, so a run that was stopped goes on with the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from traceward.config import Arm, Recipe, load_recipe
from traceward.data.formats import same_tokens
from traceward.data.tasks.registry import Task
from traceward.errors import ConfigError, PausedError
from traceward.records import Head, Objective, Start
from traceward.training.distribution import join, launched, on_main, place, under_deepspeed, under_fsdp, under_zero3
from traceward.training.run_directory import RunDirectory, command_line
from traceward.training.settings import per_process
from traceward.workflows.inputs import load_task, places_of
from traceward.workflows.pool import Job, work, work_together
from traceward.workflows.progress import StageProgress
from traceward.workflows.results import write_results


def run_recipe(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Run a recipe to its end and return the run directory; results.json lies in it.

    Raises ConfigError, DataError or RunError before anything is trained where the input breaks a rule, and PausedError
    when all is done that does not wait for a stage that its guards paused; results.json is written then too.
    """
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, changes(data, seed, overrides))
    task = load_task(resolved)
    join()
    check(resolved, task)
    path = Path(out or Path("runs") / f"{resolved.run.name}-{resolved.run.seed}")
    started = time.monotonic()
    jobs = {stage: Job(path, stage, waits) for stage, waits in plan(resolved).items()}
    on_main(_begin)(path, resolved, task)
    paused: list[str] = []

    def hold(_stage: str, error: Exception) -> None:
        if not isinstance(error, PausedError):
            raise error
        paused.append(str(error))

    with StageProgress() as progress:
        if launched():
            work_together(jobs, progress, failed=hold)
        else:
            work(jobs, progress, workers=resolved.run.workers, failed=hold)
    on_main(write_results)(RunDirectory(path), task, seconds=time.monotonic() - started)
    if paused:
        told = "; ".join(paused)
        raise PausedError(
            f"run must stay within its guards: got {told}; everything is saved: read the report, then the same command "
            "goes on, with --set guards.on_alarm=warn without further pauses",
            run=path,
        )
    return path


def _begin(path: Path, recipe: Recipe, task: Task) -> None:
    run = RunDirectory.create(path, recipe)
    run.write_manifest(command=command_line(), data=task.record, seed=recipe.run.seed)


def changes(data: str | Path | None, seed: int | None, overrides: Sequence[str]) -> list[str]:
    """Everything that the command line changes in a recipe, as overrides."""
    extra = [] if data is None else [f"data.path={str(Path(data))!r}"]
    return [*overrides, *extra, *([] if seed is None else [f"run.seed={seed}"])]


def check(recipe: Recipe, task: Task) -> None:
    """What a recipe says together with its data and with the processes, before anything is trained. Raises
    ConfigError."""
    stages, (_, processes) = plan(recipe), place()
    if "pretrain" in stages:
        per_process(recipe.policy.scratch.batch, processes, key="policy.scratch.batch")
    if "sft" in stages:
        per_process(recipe.sft.batch, processes, key="sft.batch")
    if recipe.run.checkpoint_every and under_deepspeed():
        raise ConfigError("run.checkpoint_every must be 0 under DeepSpeed: got more; it cannot be resumed from there")
    _check_installed(recipe)
    if recipe.reward.path is not None:
        _check_crossing(recipe)
    if recipe.reward.shares_backbone and (under_fsdp() or under_deepspeed()):
        raise ConfigError(
            "reward.shares_backbone must be false under FSDP and DeepSpeed, which take the weights apart: got true; "
            "launch with recipes/accelerate/ddp.yaml"
        )
    whole = recipe.critic.objective is Objective.WGAN_GP or (
        recipe.critic.objective is Objective.AIRL and recipe.reward.head is Head.SCALAR
    )
    if whole and (under_fsdp() or under_zero3()):
        raise ConfigError(
            "critic.objective must not be 'wgan-gp', nor 'airl' with a scalar head, under FSDP2 and ZeRO 3, which take "
            f"the weights apart: got {str(recipe.critic.objective)!r}; launch with recipes/accelerate/ddp.yaml"
        )
    if recipe.reward.adapter.chosen and (under_fsdp() or under_deepspeed()):
        raise ConfigError(
            "reward.adapter must be left out under FSDP and DeepSpeed: got one; launch with recipes/accelerate/ddp.yaml"
        )
    if {*recipe.run.arms} - {Arm.SFT}:
        recipe.adversarial.parts(processes)
        recipe.adversarial.check_questions(len(task.questions) + len(task.demonstrations))


def _check_installed(recipe: Recipe) -> None:
    """Packages that only some settings need. Raises ConfigError naming the first that is missing."""
    wanted = {f"run.report_to '{name}'": str(name) for name in recipe.run.report_to}
    if recipe.adversarial.vllm.mode is not None:
        wanted["adversarial.vllm.mode"] = "vllm"
    for key, package in wanted.items():
        if find_spec(package) is None:
            raise ConfigError(f"{package} must be installed with {key}: got none; pip install {package}, or remove it")


def _check_crossing(recipe: Recipe) -> None:
    """What a reward on a model of its own can do, by the tokenizers. Raises ConfigError."""
    from traceward.loading import load_tokenizer
    from traceward.training.tokens import check_crossing

    assert recipe.reward.path is not None
    own = load_tokenizer(places_of(recipe.reward.path)[1])
    path = recipe.policy.path
    if path != "scratch" and same_tokens(own, load_tokenizer(places_of(path)[1]), recipe.data.format):
        return
    beside = {Arm.ADVERSARIAL, Arm.REWARD_FROZEN} & {*recipe.run.arms}
    check_crossing(recipe.reward.head, recipe.critic.objective, recipe.adversarial if beside else None)


def plan(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage -> the stages it waits for, in the order they are started."""
    first = ("pretrain",) if recipe.policy.path == "scratch" else ()
    stages: dict[str, tuple[str, ...]] = {"pretrain": ()} if first else {}
    needs_start = Start.SFT in (recipe.run.start, recipe.reward.start)
    needs_sft = bool({Arm.SFT, Arm.SFT_LOGPROB_CONSENSUS} & set(recipe.run.arms)) or needs_start
    if needs_sft:
        stages["sft"] = first
    tuned = {start: ("sft",) if start is Start.SFT else () for start in Start}
    start, learned = tuned[recipe.run.start], tuned[recipe.reward.start]
    stages["rollouts"] = first
    stages["reward"] = ("rollouts", *learned)
    waits = {
        Arm.ADVERSARIAL: ("reward", *start),
        Arm.REWARD_FROZEN: ("reward", *start),
        Arm.SFT_LOGPROB_CONSENSUS: ("sft",),
    }
    # The longest stages first: with few workers that ends soonest.
    for arm in sorted(recipe.run.arms, key=lambda a: (a not in waits, str(a))):
        if arm is not Arm.SFT:
            stages[str(arm)] = waits.get(arm, start or first)
    stages["samples"] = first
    if recipe.run.arms:
        stages["measure:base"] = first
    if Arm.SFT in recipe.run.arms:
        stages["measure:sft"] = ("sft",)
    stages["judge"] = ("samples", "reward", *(("sft",) if needs_sft else ()))
    for variant in recipe.run.variants:
        stages[f"variant:{variant}"] = ("samples", "rollouts", *learned)
    if recipe.evaluation.pairs:
        stages["pairs"] = ("reward",)
    return stages
