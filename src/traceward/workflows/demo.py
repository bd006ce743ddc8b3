"""`traceward demo`: the recipe that ships with the package, on the built-in world."""

from __future__ import annotations

from pathlib import Path

from traceward.builtin import ASSETS
from traceward.workflows.train import run_recipe

RECIPE = ASSETS / "demo.toml"
# Enough to see that everything works; the figures mean nothing.
QUICK = (
    "data.questions=60",
    "data.validation=10",
    "data.test=30",
    "sft.steps=10",
    "critic.warmup_updates=10",
    "adversarial.steps=3",
    "adversarial.questions_per_step=4",
    "evaluation.samples=4",
    "evaluation.policy_samples=2",
    "evaluation.curve_every=2",
)


def run_demo(out: Path, seed: int, quick: bool) -> Path:
    """Run the demo to its end; returns the run directory."""
    return run_recipe(RECIPE, out=out, seed=seed, overrides=QUICK if quick else ())
