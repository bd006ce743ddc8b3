"""A run that kills itself, for benchmarks/resume.py and the tests.

A short recipe runs with all of its stages in one process, which sends itself SIGKILL in a stage just before a function
(`module:name`) is called for the n-th time; of several functions each is counted from the one before it. So a kill
falls at the same instruction every time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from traceward.config import load_recipe
from traceward.workflows import train
from traceward.workflows.demo import RECIPE
from traceward.workflows.pool import Job
from traceward.workflows.stages import run_stage

SHORT = (
    "run.arms=['sft', 'adversarial', 'outcome']",
    "run.checkpoint_every=1",
    "data.questions=0",
    "data.validation=4",
    "data.test=4",
    "sft.steps=5",
    "sft.batch=8",  # 3 batches an epoch: the order of the data is drawn more than once
    "critic.warmup_updates=6",
    "critic.warmup_at_least=2",
    "critic.check_every=2",
    "critic.positives=4",
    "critic.rollouts=8",
    "critic.rollouts_per_question=2",
    "critic.replay=50",
    "adversarial.steps=7",
    "adversarial.iterations=2",  # checkpoints between two batches of rollouts
    "adversarial.questions_per_step=6",
    "adversarial.group=4",
    "adversarial.rollouts_per_backward=12",
    "adversarial.max_new_tokens=40",
    "evaluation.samples=2",
    "evaluation.policy_samples=1",
    "evaluation.curve_every=2",
    "evaluation.examples=2",
)
TIMES = ("seconds", "started")  # how the names of such fields begin


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run is killed: in a stage, before the last of these calls is made."""

    name: str
    stage: str
    calls: tuple[tuple[str, int], ...]


def in_this_process(jobs: Mapping[str, Job], point: Point | None) -> None:
    """What `work` does with worker processes, one stage after the other; how many updates each made goes to
    updates.json."""
    made, found = counted_updates(), {}
    for stage, job in jobs.items():
        if not job.done:
            if point is not None and stage == point.stage:
                kill_at(point.calls)
            before = made[0]
            run_stage(str(job.directory), stage, 1, os.getppid())
            found[stage] = made[0] - before
    Path("updates.json").write_text(json.dumps(found), encoding="utf-8")


def counted_updates() -> list[int]:
    """The number of steps of any optimiser in this process so far, kept current."""
    owner, made = importlib.import_module("torch.optim.adam"), [0]
    step = owner.adam

    def counted(*arguments: Any, **options: Any) -> Any:
        made[0] += 1
        return step(*arguments, **options)

    owner.adam = counted
    return made


def kill_at(calls: Sequence[tuple[str, int]]) -> None:
    """Put a counter in front of the first target; it puts one in front of the next, and the last one kills."""
    (target, left), *rest = calls
    module, _, name = target.partition(":")
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and rest:
            kill_at(rest)
        elif left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    setattr(owner, last, counted)


def attempt(place: Path, point: Point | None, overrides: Sequence[str]) -> None:
    """Start PLACE/run, or go on with it; what it says goes to PLACE/said.txt."""
    os.chdir(place)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["killed"]  # the manifest names the command: a killed run must be the same as a whole one
    train.work = lambda jobs, *_, **__: in_this_process(jobs, point)
    train.run_recipe(load_recipe(RECIPE, [*SHORT, *overrides]), out="run", seed=0)


def start(context: BaseContext, place: Path, point: Point | None = None, overrides: Sequence[str] = ()) -> int:
    """An attempt in a process of its own; its exit status, minus the signal where one ended it."""
    place.mkdir(exist_ok=True)
    process = context.Process(target=attempt, args=(place, point, overrides))  # type: ignore[attr-defined]
    process.start()
    process.join()
    return int(process.exitcode)


def differences(left: Path, right: Path) -> list[str]:
    """Files that are not the same in both runs, bit for bit; JSON without the fields that are times."""
    names = {str(path.relative_to(run)) for run in (left, right) for path in run.rglob("*") if path.is_file()}
    return sorted(name for name in names if _content(left / name) != _content(right / name))


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if not key.startswith(TIMES)}
