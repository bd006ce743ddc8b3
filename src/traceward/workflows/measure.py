"""How good a policy is: pass@k sampled, and greedy, on test problems; and its curve on validation problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from traceward.config import Recipe
from traceward.data.formats import encode_prompt, parse_completion
from traceward.data.tasks.registry import Task
from traceward.evaluation.statistics import bootstrap_mean, pass_at_k
from traceward.records import Demonstration
from traceward.training.distribution import shared_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 4_242  # every policy of every run is measured with the same draws of the generator


def correct_shares(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Sequence[Demonstration],
    recipe: Recipe,
    *,
    n: int,
    temperature: float,
) -> list[float]:
    """For each problem the share of `n` samples that the task's judge finds correct (no verdict = not correct)."""
    prompts = [(d.problem.id, encode_prompt(d.problem, recipe.data.format, tokenizer)) for d in items]
    groups = shared_samples(
        model,
        tokenizer,
        prompts,
        n=n,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=SEED,
        temperature=temperature,
        top_p=recipe.evaluation.top_p,
    )
    return [
        float(
            np.mean([bool(task.judge(d.problem, parse_completion(r.text, recipe.data.format)).correct) for r in group])
        )
        for d, group in zip(items, groups, strict=True)
    ]


def measure_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, recipe: Recipe
) -> dict[str, Any]:
    """pass@1 and greedy with bootstrap intervals over test problems, pass@k, and the shares of each problem for
    paired tests; `validation` holds the same of the validation problems, to choose by."""
    found = _measure(model, tokenizer, task, task.test, recipe)
    if task.validation:
        found["validation"] = _measure(model, tokenizer, task, task.validation, recipe)
    return found


def _measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: Sequence[Demonstration],
    recipe: Recipe,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    asked = recipe.evaluation
    for name, n, temperature in (("pass_at_1", asked.policy_samples, asked.temperature), ("greedy", 1, 0.0)):
        shares = correct_shares(model, tokenizer, task, items, recipe, n=n, temperature=temperature)
        mean = bootstrap_mean(shares, seed=0)
        found |= {name: mean.value, f"{name}_interval": [mean.low, mean.high], f"{name}_by_problem": shares}
    right = [round(share * asked.policy_samples) for share in found["pass_at_1_by_problem"]]
    found["pass_at"] = {
        str(k): float(np.mean([pass_at_k(asked.policy_samples, c, k) for c in right])) for k in asked.pass_at
    }
    return found


class CurveCallback(TrainerCallback):  # type: ignore[misc]
    """Looks at the validation problems every few policy steps; it reads the policy and changes nothing."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, recipe: Recipe) -> None:
        self.model, self.tokenizer, self.task, self.recipe = model, tokenizer, task, recipe
        self.every = recipe.evaluation.curve_every if task.validation else 0
        self.problems = task.validation[: recipe.evaluation.curve_problems]
        self.rows: list[dict[str, float]] = []

    def _look(self, step: int) -> None:
        row: dict[str, float] = {"step": step}
        for name, n, temperature in (("pass_at_1", 2, self.recipe.evaluation.temperature), ("greedy", 1, 0.0)):
            shares = correct_shares(
                self.model, self.tokenizer, self.task, self.problems, self.recipe, n=n, temperature=temperature
            )
            row[name] = float(np.mean(shares))
        self.rows.append(row)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The start policy is the first point."""
        if self.every and not self.rows:
            self._look(0)

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        """A point every `every` steps, and at the end."""
        if self.every and (state.global_step % self.every == 0 or state.global_step == state.max_steps):
            self._look(state.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The points so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after these points."""
        self.rows = state["rows"]
