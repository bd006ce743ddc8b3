"""`traceward train`: a recipe's stages in order, side by side where they do not wait for each other.

Worker processes run the stages; this one only orders them and shows how far they are. A stage that has finished is
never run again, so a run that was stopped goes on with the same command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from traceward.config import Arm, Recipe, load_recipe
from traceward.errors import RunError
from traceward.records import Start
from traceward.training.run_directory import RunDirectory, command_line
from traceward.workflows.inputs import load_task
from traceward.workflows.progress import StageProgress
from traceward.workflows.results import write_results
from traceward.workflows.stages import gpu_present, run_stage


def run_recipe(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Run a recipe to its end and return the run directory; results.json lies in it.

    Raises ConfigError, DataError or RunError before anything is trained where the input breaks a rule.
    """
    extra = list(overrides)
    if data is not None:
        extra.append(f"data.path={str(Path(data))!r}")
    if seed is not None:
        extra.append(f"run.seed={seed}")
    resolved = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, extra)
    task = load_task(resolved)
    if {*resolved.run.arms} - {Arm.SFT}:  # before anything is trained
        resolved.adversarial.check_questions(len(task.questions) + len(task.demonstrations))
    run = RunDirectory.create(out or Path("runs") / f"{resolved.run.name}-{resolved.run.seed}", resolved)
    run.write_manifest(command=command_line(), data=task.record, seed=resolved.run.seed)
    started = time.monotonic()
    _work(run, plan(resolved))
    write_results(run, task, seconds=time.monotonic() - started)
    return run.path


def plan(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Stage -> the stages it waits for, in the order they are started."""
    first = ("pretrain",) if recipe.policy.path == "scratch" else ()
    stages: dict[str, tuple[str, ...]] = {"pretrain": ()} if first else {}
    needs_start = Start.SFT in (recipe.run.start, recipe.reward.start)
    needs_sft = bool({Arm.SFT, Arm.SFT_LOGPROB_CONSENSUS} & set(recipe.run.arms)) or needs_start
    if needs_sft:
        stages["sft"] = first
    start = ("sft",) if recipe.run.start is Start.SFT else first
    stages["rollouts"] = start
    stages["reward"] = ("rollouts", *(("sft",) if recipe.reward.start is Start.SFT else ()))
    waits = {
        Arm.ADVERSARIAL: ("reward",),
        Arm.REWARD_FROZEN: ("reward",),
        Arm.SFT_LOGPROB_CONSENSUS: ("sft",),
    }
    # The longest stages first: with few workers that ends soonest.
    for arm in sorted(recipe.run.arms, key=lambda a: (a not in waits, str(a))):
        if arm is not Arm.SFT:
            stages[str(arm)] = waits.get(arm, start)
    stages["samples"] = first
    if recipe.run.arms:
        stages["measure:base"] = first
    if Arm.SFT in recipe.run.arms:
        stages["measure:sft"] = ("sft",)
    stages["judge"] = ("samples", "reward", *(("sft",) if needs_sft else ()))
    for variant in recipe.run.variants:
        stages[f"variant:{variant}"] = ("samples", "rollouts")
    if recipe.evaluation.pairs:
        stages["pairs"] = ("reward",)
    return stages


def part_name(stage: str) -> str:
    """The part that a stage leaves when it is done."""
    return stage.replace(":", "-")


def most_workers(recipe: Recipe, stages: int) -> int:
    """Processes at once where there is no GPU: as asked, else one per core up to two."""
    return min(recipe.run.workers or min(2, os.cpu_count() or 1), stages)


def _work(run: RunDirectory, stages: dict[str, tuple[str, ...]]) -> None:
    """Run every stage that has no part yet, each as soon as those it waits for are done."""
    recipe = run.recipe()
    done = {stage for stage in stages if run.part(part_name(stage)) is not None}
    waiting = [stage for stage in stages if stage not in done]
    if not waiting:
        return
    workers = most_workers(recipe, len(waiting))
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // workers))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited: OpenMP reads it when a worker starts
    running: dict[Future[None], str] = {}
    progress = StageProgress(run, waiting, recipe)
    # No fork: the libraries below hold threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, progress:
        try:
            if not recipe.run.workers and pool.submit(gpu_present).result():
                workers = 1  # a GPU is not shared
            while waiting or running:
                for stage in [s for s in waiting if done.issuperset(stages[s])]:
                    if len(running) >= workers:
                        break
                    waiting.remove(stage)
                    running[pool.submit(run_stage, str(run.path), stage, threads, os.getpid())] = stage
                    progress.start(stage)
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    stage = running.pop(future)
                    future.result()
                    done.add(stage)
                    progress.finish(stage)
                progress.update()
        except BrokenProcessPool as error:
            names = ", ".join(sorted(running.values()))
            raise RunError(
                f"worker process must live: got one killed during {names}, often for memory; run the same command again"
                f" to go on, with run.workers=1 if memory is short ({run.path})"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
