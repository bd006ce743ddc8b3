"""The arms of a run: one policy each, trained from the same start on the same questions, and measured alike."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from traceward.config import Arm, Recipe
from traceward.data.tasks.registry import Task
from traceward.records import Credit
from traceward.training.distribution import save_whole
from traceward.training.run_directory import RunDirectory
from traceward.training.settings import AdversarialConfig
from traceward.workflows.inputs import (
    adapter_on,
    base_policy,
    crossing_of,
    engine_of,
    judged_demonstrations,
    learning_policy,
    load_task,
    read_rollouts,
    save_policy,
    seeded,
    sft_policy,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from traceward.rewards.model import TraceScorer
    from traceward.training.critic import Critic


def arm(run: RunDirectory, name: Arm) -> None:
    """Train one policy on the questions, from the start policy, and measure it."""
    from traceward.rewards.model import RewardModel
    from traceward.training.adversarial import AdversarialTrainer
    from traceward.training.baselines import outcome_rl
    from traceward.training.callbacks import MetricsCallback, PauseCallback, Watched
    from traceward.training.resume import train
    from traceward.workflows.measure import CurveCallback, measure_policy

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer, base = _start(run, recipe, name)
    stage = str(name)
    seed = seeded(recipe, stage)
    directory = run.path / "policies" / stage
    questions = (*task.questions, *(d.problem for d in task.demonstrations))
    with run.metrics(stage) as metrics:
        curve = CurveCallback(model, tokenizer, task, recipe)
        watched = Watched(metrics, recipe.guards)
        pause = PauseCallback(watched)
        callbacks = [MetricsCallback(watched), pause, curve]
        critic = None
        if name is Arm.OUTCOME:
            outcome_rl(
                model,
                tokenizer,
                questions,
                recipe.adversarial,
                directory,
                style=recipe.data.format,
                seed=seed,
                callbacks=callbacks,
                checkpoints=run.checkpoints(stage),
                **engine_of(recipe),
            )
        else:
            scorer, critic, config = _scorer(run, recipe, task, name, base)
            trainer = AdversarialTrainer(
                policy=model,
                tokenizer=tokenizer,
                reward=scorer,
                critic=critic,
                crossing=crossing_of(run, task, scorer.tokenizer) if isinstance(scorer, RewardModel) else None,
                demonstrations=judged_demonstrations(task, recipe),
                questions=questions,
                config=config,
                directory=directory,
                seed=seed,
                callbacks=callbacks,
                **engine_of(recipe),
            )
            train(trainer, run.checkpoints(stage), trainer.parts)
        pause.raise_if_paused()
        if critic is not None:
            save_whole(critic.reward.backbone, partial(critic.reward.save, run.path / "reward-after"))
    save_policy(run, stage, model, tokenizer)
    run.finish(stage, {**measure_policy(model, tokenizer, task, recipe), "curve": curve.rows})


def _start(
    run: RunDirectory, recipe: Recipe, name: Arm
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedModel | None]:
    """The policy that learns, its tokenizer, and the base on whose weights it stands, where a reward shall too."""
    from traceward.adapters import on_the_weights_of

    if name not in (Arm.ADVERSARIAL, Arm.REWARD_FROZEN) or not recipe.reward.shares_backbone:
        return *learning_policy(run, recipe.run.start), None
    base, tokenizer = base_policy(run)
    return *adapter_on(on_the_weights_of(base), tokenizer, run, recipe.run.start), base


def _scorer(
    run: RunDirectory, recipe: Recipe, task: Task, name: Arm, base: PreTrainedModel | None
) -> tuple[TraceScorer, Critic | None, AdversarialConfig]:
    from traceward.adapters import checkpoint_gradients
    from traceward.rewards.model import RewardModel
    from traceward.rewards.rivals import LogProbScorer, UniformScorer
    from traceward.training.critic import Critic

    frozen = recipe.adversarial.model_copy(update={"critic_updates": 0})
    # A rival that needs no reward has no right answers either.
    vote = frozen.model_copy(update={"credit": Credit.CONSENSUS, "outcome_weight": 0.0, "whiten": False})
    if name is Arm.MAJORITY_CONSENSUS:
        return UniformScorer(recipe.data.format), None, vote
    if name is Arm.SFT_LOGPROB_CONSENSUS:
        return LogProbScorer(*sft_policy(run), recipe.data.format), None, vote
    learned = RewardModel.load(run.path / "reward", base=base)
    if recipe.reward.gradient_checkpointing:
        checkpoint_gradients(learned.backbone)
    if name is Arm.REWARD_FROZEN:
        return learned, None, frozen
    crossing = crossing_of(run, task, learned.tokenizer)
    # The seed of the warm-up: the same demonstrations stay held out.
    critic = Critic(
        learned,
        judged_demonstrations(task, recipe),
        recipe.critic,
        seed=recipe.run.seed,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        crossing=crossing,
    )
    learned_from = {d.problem.id for d in critic.expert}
    first = read_rollouts(run.path / "data" / "rollouts.jsonl")
    known = [rollout for rollout in first if rollout.problem_id in learned_from]
    critic.remember(known if crossing is None else crossing.rollouts(known))
    return learned, critic, recipe.adversarial


def measure(run: RunDirectory, name: str) -> None:
    """Measure a policy that needs no further training: `base` or `sft`."""
    from traceward.workflows.measure import measure_policy

    recipe = run.recipe()
    model, tokenizer = {"base": base_policy, "sft": sft_policy}[name](run)
    run.finish(f"measure-{name}", measure_policy(model, tokenizer, load_task(recipe), recipe))
