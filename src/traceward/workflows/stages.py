"""The stages of a run. Each reads what earlier ones left in the run directory and ends by writing its part, so it can
run in a process of its own and is skipped when the run is started again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from traceward.config import Arm, Recipe
from traceward.data.demonstrations import fingerprint
from traceward.data.formats import encode
from traceward.data.jsonl import is_unwritable
from traceward.errors import RunError
from traceward.records import Granularity, Head, Objective, Start, UnitSpec
from traceward.training.distribution import save_whole, shared_samples
from traceward.training.run_directory import RunDirectory
from traceward.workflows.arms import arm, measure
from traceward.workflows.inputs import (
    base_policy,
    crossing_of,
    engine_of,
    judged_demonstrations,
    learning_policy,
    load_task,
    prompts_of,
    quiet,
    read_rollouts,
    reward_base,
    save_policy,
    seeded,
    sft_policy,
    write_rollouts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from traceward.rewards.model import RewardModel
    from traceward.training.callbacks import Watched


def pretrain(run: RunDirectory) -> None:
    """`policy.path = "scratch"`: a tokenizer and a small model of the demonstrations' text, questions included."""
    from traceward.builtin.small import train_scratch
    from traceward.training.callbacks import MetricsCallback

    recipe = run.recipe()
    task = load_task(recipe)
    with run.metrics("pretrain") as metrics:
        found = train_scratch(
            task.demonstrations,
            recipe.policy.scratch,
            recipe.data.format,
            run.path / "policies" / "base",
            seed=seeded(recipe, "pretrain"),
            callbacks=[MetricsCallback(metrics)],
            checkpoints=run.checkpoints("pretrain"),
        )
    run.finish("pretrain", found)


def sft(run: RunDirectory) -> None:
    """Supervised fine-tuning on the demonstrations."""
    from traceward.training.baselines import supervised_fine_tune
    from traceward.training.callbacks import MetricsCallback

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = learning_policy(run, Start.BASE)
    traces = [encode(d.problem, d.trace, recipe.data.format, tokenizer) for d in task.demonstrations]
    with run.metrics("sft") as metrics:
        rows = supervised_fine_tune(
            model,
            tokenizer,
            traces,
            recipe.sft,
            run.path / "checkpoints" / "sft",
            seed=seeded(recipe, "sft"),
            callbacks=[MetricsCallback(metrics)],
            checkpoints=run.checkpoints("sft"),
            **engine_of(recipe),
        )
    save_policy(run, "sft", model, tokenizer)
    run.finish("sft", {"loss_first": rows[0]["loss"], "loss_last": rows[-1]["loss"], "updates": len(rows)})


def rollouts(run: RunDirectory) -> None:
    """Samples of the base on the demonstrations' questions: the discriminator's first negatives, wherever the arms
    start. Those of a fine-tuned policy are mostly right and teach less as negatives (docs/LOG.md)."""
    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = base_policy(run)
    groups = shared_samples(
        model,
        tokenizer,
        prompts_of(judged_demonstrations(task, recipe), recipe, tokenizer),
        n=recipe.critic.rollouts_per_question,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "rollouts"),
        temperature=recipe.adversarial.temperature,
        top_p=recipe.adversarial.top_p,
    )
    found = [rollout for group in groups for rollout in group]
    write_rollouts(run.path / "data" / "rollouts.jsonl", found)
    run.finish("rollouts", {"rollouts": len(found)})


def _at_its_start(
    run: RunDirectory,
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Head,
    spec: UnitSpec,
    seed: int,
) -> RewardModel:
    """The recipe's reward before warm-up, made of `model`."""
    from traceward.adapters import checkpoint_gradients
    from traceward.rewards.model import new_reward

    reward = new_reward(
        model,
        tokenizer,
        head=head,
        spec=spec,
        style=recipe.data.format,
        beta=recipe.reward.beta,
        reference_share=recipe.reward.reference_share,
        adapter=recipe.reward.adapter,
        seed=seed,
    )
    if recipe.reward.gradient_checkpointing:
        checkpoint_gradients(reward.backbone)
    if recipe.reward.start is Start.SFT:
        reward.start_from(sft_policy(run)[0])
    return reward


def learn_reward(
    run: RunDirectory, recipe: Recipe, *, part: str, head: Head, spec: UnitSpec
) -> tuple[RewardModel, Watched, dict[str, Any]]:
    """Warm-up of a new reward on the rollouts of the start policy; its metrics are the part's own."""
    from traceward.rewards.heads import logprobs_under
    from traceward.training.callbacks import Watched
    from traceward.training.critic import Critic
    from traceward.training.warmup import warm_up

    task = load_task(recipe)
    model, tokenizer = reward_base(run)
    crossing = crossing_of(run, task, tokenizer)
    policy = model
    if recipe.reward.path is not None and recipe.critic.objective is Objective.AIRL:
        policy, _ = base_policy(run)
    stage = "warm-up" if part == "reward" else part
    seed = seeded(recipe, stage)
    reward = _at_its_start(run, recipe, model, tokenizer, head=head, spec=spec, seed=seed)
    critic = Critic(
        reward,
        judged_demonstrations(task, recipe),
        recipe.critic,
        seed=recipe.run.seed,
        policy_logprobs=logprobs_under(policy, temperature=recipe.adversarial.temperature),
        max_new_tokens=recipe.adversarial.max_new_tokens,
        crossing=crossing,
    )
    first = read_rollouts(run.path / "data" / "rollouts.jsonl")
    critic.learner.prepare()
    with run.metrics(stage) as metrics:
        watched = Watched(metrics, recipe.guards)
        done = warm_up(
            critic,
            first if crossing is None else crossing.rollouts(first),
            log=watched.log,
            checkpoints=run.checkpoints(part),
            parts={"metrics": watched},
        )
    aurocs = [row["held_out_auroc"] for row in done.rows if row["step"] == done.kept and "held_out_auroc" in row]
    found = {
        "head": str(head),
        "granularity": str(spec.granularity),
        "interval": spec.every if spec.every else "step" if spec.granularity is Granularity.INTERVAL else None,
        "objective": str(recipe.critic.objective),
        "updates": done.kept,
        "stopped": done.stopped,
        "held_out_auroc": aurocs[0] if aurocs else None,
        "form_auroc": done.rows[-1].get("form_auroc"),
    }
    return reward, watched, found


def reward(run: RunDirectory) -> None:
    """The run's reward, saved with its card and its calibration."""
    from traceward.workflows.judge import calibrated

    recipe = run.recipe()
    task = load_task(recipe)
    learned, watched, found = learn_reward(run, recipe, part="reward", head=recipe.reward.head, spec=recipe.reward.spec)
    learned.calibration = calibrated(run, learned)
    learned.card = {
        "task": task.name,
        "label_source": str(recipe.critic.label_source),
        "demonstrations": len(judged_demonstrations(task, recipe)),
        "data": {"demonstrations": fingerprint(judged_demonstrations(task, recipe))},
        "training": {**recipe.critic.model_dump(mode="json"), "seed": recipe.run.seed, **found},
        "metrics": {"held_out_auroc": found["held_out_auroc"]},
    }
    save_whole(learned.backbone, partial(learned.save, run.path / "reward"))
    run.finish("reward", found)
    if watched.pauses:  # the reward is whole; what would be trained with it waits
        raise watched.paused()


def variant(run: RunDirectory, text: str) -> None:
    """Another reward for the comparison table, judged like the run's own."""
    from traceward.workflows.judge import judge_reward

    recipe = run.recipe()
    head, granularity, *options = text.split(":")
    changes: dict[str, Any] = {}
    if "no-corruptions" in options:
        changes["corruptions"] = 0.0
    if "no-operator-flip" in options:
        changes["exclude_corruptions"] = ("operator-flip",)
    changed = recipe.model_copy(update={"critic": recipe.critic.model_copy(update=changes)})
    spec = UnitSpec(Granularity(granularity))
    part = f"variant-{text.replace(':', '-')}"
    learned, _, found = learn_reward(run, changed, part=part, head=Head(head), spec=spec)
    named = {"name": text, "corruptions": options[0].replace("no-", "without ") if options else "all"}
    run.finish(part, {**found, **named, **judge_reward(run, learned)})


def judge(run: RunDirectory) -> None:
    """What the reward is good for: reranking, localisation, calibration, examples."""
    from traceward.workflows.judge import judge_run

    run.finish("judge", judge_run(run))


def transfer(run: RunDirectory) -> None:
    """What a reward is good for on samples of another place."""
    from traceward.workflows.transfer import transferred

    run.finish("transfer", transferred(run))


def pairs(run: RunDirectory) -> None:
    """The discriminator on length- and end-matched pairs."""
    from traceward.workflows.pairs import matched_pairs

    matched_pairs(run)


def gpu_present() -> bool:
    """Asked in a worker: the process that orders the stages stays small, without torch."""
    import torch

    return torch.cuda.is_available()


def die_with(parent: int) -> None:
    """End this worker when the process that started it is gone, however it went: nothing else would."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_stage(path: str, stage: str, threads: int, parent: int) -> None:
    """Run one stage by name; the entry of a worker process."""
    import torch

    die_with(parent)
    torch.set_num_threads(threads)
    do_stage(RunDirectory(path), stage)


def do_stage(run: RunDirectory, stage: str) -> None:
    """Run one stage by name, here and in every process that was launched beside this one."""
    quiet()
    plain: dict[str, Callable[[RunDirectory], None]] = {
        "pretrain": pretrain,
        "sft": sft,
        "rollouts": rollouts,
        "samples": samples,
        "reward": reward,
        "judge": judge,
        "pairs": pairs,
        "transfer": transfer,
    }
    try:
        if stage in plain:
            plain[stage](run)
        elif stage.startswith("variant:"):
            variant(run, stage.removeprefix("variant:"))
        elif stage.startswith("measure:"):
            measure(run, stage.removeprefix("measure:"))
        else:
            arm(run, Arm(stage))
    except Exception as error:
        if is_unwritable(error):
            raise RunError(
                f"run must be writable: got '{error}' in stage {stage}; free space and run the same command again"
            ) from error
        raise


def samples(run: RunDirectory) -> None:
    """Base-policy samples of the test problems, shared by every reward that is judged."""
    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = base_policy(run)
    groups = shared_samples(
        model,
        tokenizer,
        prompts_of(task.test, recipe, tokenizer),
        n=recipe.evaluation.samples,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "samples"),
        temperature=recipe.evaluation.temperature,
        top_p=recipe.evaluation.top_p,
    )
    write_rollouts(run.path / "data" / "samples.jsonl", [rollout for group in groups for rollout in group])
    run.finish("samples", {"traces": len(groups) * recipe.evaluation.samples})
