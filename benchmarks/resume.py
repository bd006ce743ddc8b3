"""Exact resume: python benchmarks/resume.py [--quick] [--runs DIRECTORY]

Kills a short run at twenty points, each in a run of its own and in a process of its own, lets it go on with the same
command, and compares every file with those of a run that nobody touched, bit for bit. Fields that are times are left
out. A checkpoint is written after every update, and a stage that has one must make fewer updates than it makes alone:
one that began again would end alike too. A point that was done by the same commit is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _killed import SHORT, Point, differences, start
from _record import record

from traceward.data.jsonl import write_json
from traceward.training.run_directory import source_commit

TRAINER = "traceward.training.adversarial:AdversarialTrainer"
CRITIC = "traceward.training.critic:Critic"
CHECKPOINTS = "traceward.training.checkpoints:Checkpoints"
TRL = "trl.trainer.grpo_trainer:GRPOTrainer"
SAMPLE, BACKWARD, ADAM = "torch:multinomial", "torch:Tensor.backward", "torch.optim.adam:adam"
STEP = "accelerate.optimizer:AcceleratedOptimizer.step"

POINTS = (
    Point("sampling the start policy", "rollouts", ((SAMPLE, 3),)),
    Point("SFT: backward of update 2", "sft", ((BACKWARD, 2),)),
    Point("SFT: optimiser step of update 4", "sft", ((STEP, 4), (ADAM, 1))),
    Point("SFT: checkpoint 3 before its last name", "sft", ((f"{CHECKPOINTS}.seal", 3), ("os:replace", 2))),
    Point("warm-up: before the first update", "reward", ((f"{CRITIC}.update", 1),)),
    Point("warm-up: backward of update 4", "reward", ((f"{CRITIC}.update", 4), (BACKWARD, 1))),
    Point("warm-up: held-out look", "reward", ((f"{CRITIC}.discrimination", 3),)),
    Point("warm-up: checkpoint 4 half filled", "reward", ((f"{CHECKPOINTS}.save", 4), ("torch:save", 1))),
    Point("the reward half saved", "reward", (("traceward.rewards.files:_swap", 1),)),
    Point("generation 1, token 10", "adversarial", ((f"{TRAINER}._generate", 1), (SAMPLE, 10))),
    Point("generation 3, token 20", "adversarial", ((f"{TRAINER}._generate", 3), (SAMPLE, 20))),
    Point("scoring of batch 2", "adversarial", (("traceward.rewards.model:RewardModel.score_encoded", 2),)),
    Point("critic update 3", "adversarial", ((f"{CRITIC}.update", 3),)),
    Point("critic update 2: optimiser step", "adversarial", ((f"{CRITIC}.update", 2), (ADAM, 1))),
    Point("step 3: second backward", "adversarial", ((f"{TRAINER}.training_step", 6), (BACKWARD, 1))),
    Point("step 6: optimiser step", "adversarial", ((STEP, 6), (ADAM, 1))),
    Point("checkpoint 4 without optimisers", "adversarial", (("torch.optim:AdamW.state_dict", 7),)),
    Point(
        "an old checkpoint half removed",
        "adversarial",
        ((f"{CHECKPOINTS}._seal", 5), ("shutil:rmtree", 3), ("os:unlink", 4)),
    ),
    Point("outcome RL: generation 2, token 7", "outcome", ((f"{TRL}._generate", 2), (SAMPLE, 7))),
    Point("outcome RL: before the policy is saved", "outcome", (("traceward.workflows.arms:save_policy", 1),)),
)


def kept(run: Path) -> list[str]:
    """The checkpoints that a killed run has left."""
    return sorted(str(path.relative_to(run)) for path in (run / "checkpoints").glob("*/checkpoint-*"))


def one(point: Point, place: Path, whole: Path) -> dict[str, Any]:
    """Kill, go on, compare."""
    shutil.rmtree(place, ignore_errors=True)
    context = get_context("spawn")
    code = start(context, place, point)
    if code != -signal.SIGKILL:
        sys.exit(f"a run must be killed at '{point.name}': got exit code {code}; see {place / 'said.txt'}")
    left = kept(place / "run")
    code = start(context, place)
    differing = ["no end"] if code else differences(whole / "run", place / "run")
    made, alone = (0, 0) if code else (updates(where)[point.stage] for where in (place, whole))
    went_on = made < alone if any(name.split("/")[1] == point.stage for name in left) else made == alone
    return {
        **asdict(point),
        "commit": source_commit(),
        "checkpoints": left,
        "updates_of_the_stage": {"after_the_kill": made, "alone": alone},
        "went_on_from_the_checkpoint": went_on,
        "differing": differing,
        "identical": went_on and not differing,
    }


def updates(place: Path) -> dict[str, int]:
    """Of every stage that its last attempt ran."""
    found: dict[str, int] = json.loads((place / "updates.json").read_text(encoding="utf-8"))
    return found


def finished(done: Path) -> dict[str, Any] | None:
    """What this commit found at a point before."""
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}
    return found if found.get("commit") == source_commit() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three kills, to see that the script works")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-resume"), help="where the runs are kept")
    chosen = parser.parse_args()
    chosen.runs.mkdir(parents=True, exist_ok=True)
    whole = chosen.runs / f"whole-{source_commit()}"
    if not (whole / "run" / "results.json").exists() and start(get_context("spawn"), whole):
        sys.exit(f"a run must end that nobody kills: got an error; see {whole / 'said.txt'}")
    found = []
    for number, point in enumerate(POINTS[7:15:3] if chosen.quick else POINTS):
        place = chosen.runs / f"{'quick-' if chosen.quick else ''}{number:02}"
        done = place / "found.json"
        if (before := finished(done)) is None:
            write_json(done, before := one(point, place, whole))
        found.append(before)
        print(f"{point.name}: {'identical' if found[-1]['identical'] else found[-1]['differing']}", flush=True)
    summary: dict[str, float | None] = {"kills": len(found), "identical": sum(row["identical"] for row in found)}
    details = {"recipe": ["demo.toml", *SHORT], "points": found}
    print(record("resume", seeds=[0], summary=summary, details=details, quick=chosen.quick))


if __name__ == "__main__":
    main()
