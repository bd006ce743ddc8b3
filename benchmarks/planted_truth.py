"""Does a discriminator find a reward that is known? python benchmarks/planted_truth.py [--quick]

Two worlds (`_planted.py`), objectives airl and gail, five seeds. `trained`: the policy moves to what is soft-optimal
for the reward so far. `expert`: the policy is the expert already, where the alternation should end. `model`: the tree
with the package's RewardModel on a tiny Llama (`_planted_model.py`).

Summary: WORLD.SETTING.OBJECTIVE.MEASURE, the mean over seeds, with `.low` and `.high`, its 95 % interval (Student's t
over seeds). `airl_rank_correlation` is the lower of the two worlds' Spearman correlations for airl, setting `trained`:
of states' rewards in the grid, of the returns of a prompt's texts in the tree; `details.airl_rank_correlation_of` says
which.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _planted import TEMPERATURE, World, compare, grid, learn, tree
from _planted_model import learn_model
from _record import record
from scipy.stats import t as student

from traceward.records import Objective

Run = Callable[[Objective, int], dict[str, float]]
UPDATES, MODEL_UPDATES = 1000, 1000
OBJECTIVES = (Objective.AIRL, Objective.GAIL)


def small_tree(seed: int) -> World:
    """For the model, which has to learn every prefix by heart: 80 texts."""
    return tree(seed, prompts=2, depth=3)


def runs(scale: float) -> dict[str, Run]:
    """Every setting by its name in the summary; `scale` shortens them."""
    updates, model_updates = int(UPDATES * scale), int(MODEL_UPDATES * scale)

    def tabular(world: Callable[[int], World], against_expert: bool) -> Run:
        return lambda objective, seed: compare(
            world(seed), learn(world(seed), objective, updates=updates, seed=seed, against_expert=against_expert)
        )

    return {
        "grid.trained": tabular(grid, False),
        "grid.expert": tabular(grid, True),
        "tree.trained": tabular(tree, False),
        "tree.expert": tabular(tree, True),
        "tree.model": lambda objective, seed: compare(
            small_tree(seed), learn_model(small_tree(seed), objective, updates=model_updates, seed=seed)
        ),
    }


def interval(values: list[float]) -> tuple[float, float]:
    """95 % for the mean, by Student's t."""
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds and few updates, to see that the script works")
    quick = parser.parse_args().quick
    seeds = [0, 1] if quick else [0, 1, 2, 3, 4]
    summary: dict[str, float | None] = {}
    by_seed: dict[str, list[dict[str, float]]] = {}
    for name, run in runs(0.02 if quick else 1.0).items():
        for objective in OBJECTIVES:
            key = f"{name}.{objective}"
            by_seed[key] = [run(objective, seed) for seed in seeds]
            print(key, by_seed[key], flush=True)
            for measure in by_seed[key][0]:
                values = [found[measure] for found in by_seed[key]]
                low, high = interval(values)
                summary |= {f"{key}.{measure}": float(np.mean(values))}
                summary |= {f"{key}.{measure}.low": low, f"{key}.{measure}.high": high}
    worlds = {name: summary[f"{name}.trained.airl.spearman"] for name in ("grid", "tree")}
    lower = min(worlds, key=lambda name: worlds[name] or 0.0)
    details = {
        "airl_rank_correlation_of": "states of the grid" if lower == "grid" else "texts of the tree",
        "temperature": TEMPERATURE,
        "updates": UPDATES,
        "model_updates": MODEL_UPDATES,
        "by_seed": by_seed,
    }
    print(
        record(
            "planted_truth",
            seeds=seeds,
            summary={"airl_rank_correlation": worlds[lower], **summary},
            details=details,
            quick=quick,
        )
    )


if __name__ == "__main__":
    main()
