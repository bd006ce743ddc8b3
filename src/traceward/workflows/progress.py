"""Progress bars of a run's stages, read from the metrics files that the worker processes write."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from traceward.config import Recipe
from traceward.training.run_directory import RunDirectory

TITLES = {
    "pretrain": "a small model from nothing",
    "rollouts": "sampling the start policy",
    "reward": "learning the reward",
    "sft": "supervised fine-tuning",
    "samples": "sampling the test problems",
    "judge": "judging the reward",
    "pairs": "matched pairs",
    "majority_consensus": "policy: majority consensus",
    "sft_logprob_consensus": "policy: SFT log-prob consensus",
    "reward_frozen": "policy: frozen reward",
    "adversarial": "policy: adversarial",
    "outcome": "policy: outcome RL (the bound)",
}


class StageProgress:
    """A bar per running stage on a terminal; one line per finished stage elsewhere."""

    def __init__(self, run: RunDirectory, stages: Sequence[str], recipe: Recipe) -> None:
        self.run = run
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.totals = {
            "pretrain": recipe.policy.scratch.steps,
            "sft": recipe.sft.steps,
            "reward": recipe.critic.warmup_updates,
            **{str(arm): recipe.adversarial.steps for arm in recipe.run.arms if str(arm) != "sft"},
        }
        self.files = {"reward": "warm-up"}
        self.ids: dict[str, TaskID] = {}
        self.started: dict[str, float] = {}
        self.left = len(stages)

    def __enter__(self) -> StageProgress:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    @staticmethod
    def title(stage: str) -> str:
        """What a person calls a stage."""
        if stage.startswith("variant:"):
            return "variant: " + stage.removeprefix("variant:").replace(":", " · ")
        if stage.startswith("measure:"):
            return "measuring: " + stage.removeprefix("measure:")
        return TITLES.get(stage, stage)

    def start(self, stage: str) -> None:
        """A stage has begun."""
        self.started[stage] = time.monotonic()
        self.ids[stage] = self.bars.add_task(self.title(stage), total=self.totals.get(stage), note="")

    def update(self) -> None:
        """Move each bar to the last step in its stage's metrics file."""
        if not self.live:
            return
        for stage, bar in self.ids.items():
            total = self.totals.get(stage)
            path = self.run.path / "metrics" / f"{self.files.get(stage, stage)}.jsonl"
            if total and path.exists():
                rows = path.read_text(encoding="utf-8").count("\n")
                self.bars.update(bar, completed=min(rows, total), note=f"{min(rows, total)}/{total}")

    def finish(self, stage: str) -> None:
        """A stage is done: its bar becomes a line with its seconds."""
        seconds = time.monotonic() - self.started[stage]
        self.left -= 1
        self.bars.remove_task(self.ids.pop(stage))
        line = f"  {self.title(stage):<36} {seconds:6.0f} s"
        if self.live:
            self.bars.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)
