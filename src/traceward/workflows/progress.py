"""Progress bars of stages, read from the metrics files that the worker processes write."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from traceward.training.distribution import is_main
from traceward.training.run_directory import RunDirectory
from traceward.workflows.pool import Job

TITLES = {
    "pretrain": "a small model from nothing",
    "rollouts": "sampling the start policy",
    "reward": "learning the reward",
    "sft": "supervised fine-tuning",
    "samples": "sampling the test problems",
    "judge": "judging the reward",
    "pairs": "matched pairs",
    "transfer": "using the reward elsewhere",
    "majority_consensus": "policy: majority consensus",
    "sft_logprob_consensus": "policy: SFT log-prob consensus",
    "reward_frozen": "policy: frozen reward",
    "adversarial": "policy: adversarial",
    "outcome": "policy: outcome RL (the bound)",
}


FILES = {"reward": "warm-up"}  # metrics files that are not called like their stage


def title(stage: str) -> str:
    """What a person calls a stage."""
    if stage.startswith("variant:"):
        return "variant: " + stage.removeprefix("variant:").replace(":", " · ")
    if stage.startswith("measure:"):
        return "measuring: " + stage.removeprefix("measure:")
    return TITLES.get(stage, stage)


def updates_of(job: Job) -> int | None:
    """How many rows a stage's metrics will have, where that is known."""
    recipe = RunDirectory(job.directory).recipe()
    totals = {
        "pretrain": recipe.policy.scratch.steps,
        "sft": recipe.sft.steps,
        "reward": recipe.critic.warmup_updates,
        **{str(arm): recipe.adversarial.steps for arm in recipe.run.arms if str(arm) != "sft"},
    }
    return totals.get(job.stage)


class StageProgress:
    """A bar per running stage on a terminal; one line per finished stage elsewhere.

    total: of jobs, for a bar over all of them; `done` of them were finished before.
    """

    def __init__(self, total: int | None = None, done: int = 0) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and is_main()
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.total, self.done = total, done
        self.all = self.bars.add_task("all", total=total, completed=done, note="", visible=total is not None)
        self.running: dict[str, tuple[Job, TaskID, int | None, float]] = {}
        self.told: dict[Job, int] = {}  # alarms of each job that were shown

    def __enter__(self) -> StageProgress:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    def start(self, name: str, job: Job) -> None:
        """A job has begun."""
        total = updates_of(job)
        bar = self.bars.add_task(_line(job), total=total, note="")
        self.running[name] = (job, bar, total, time.monotonic())

    def update(self) -> None:
        """Move each bar to the last row of its stage's metrics file, and tell the alarms in it."""
        for job, bar, total, _ in self.running.values():
            path = job.directory / "metrics" / f"{FILES.get(job.stage, job.stage.replace(':', '-'))}.jsonl"
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
            alarms = [line for line in lines if '"alarm"' in line]
            self._tell(job, alarms)
            if total and lines:
                rows = min(len(lines) - len(alarms), total)
                self.bars.update(bar, completed=rows, note=f"{rows}/{total}")

    def _tell(self, job: Job, alarms: list[str]) -> None:
        for line in alarms[self.told.get(job, 0) :]:
            alarm = json.loads(line)
            self._print(f"  {_line(job)}: {alarm['alarm']} at step {alarm['step']}: {alarm['message']}")
        self.told[job] = len(alarms)

    def finish(self, name: str) -> None:
        """A job is done: its bar becomes a line with its seconds."""
        self.update()
        job, bar, _, started = self.running.pop(name)
        self.bars.remove_task(bar)
        self.done += 1
        self.bars.update(self.all, completed=self.done, note=f"{self.done}/{self.total}")
        count = "" if self.total is None else f"  {self.done}/{self.total}"
        self._print(f"  {_line(job):<36} {time.monotonic() - started:6.0f} s{count}")

    def _print(self, line: str) -> None:
        if self.live:
            self.bars.console.print(line)
        elif is_main():
            print(line, file=sys.stderr, flush=True)


def _line(job: Job) -> str:
    return f"{title(job.stage)} · {job.about}" if job.about else title(job.stage)
