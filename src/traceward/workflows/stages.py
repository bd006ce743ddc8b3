"""The stages of a run. Each reads what earlier ones left in the run directory and ends by writing its part, so it can
run in a process of its own and is skipped when the run is started again."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.config import Arm, Recipe
from traceward.data.demonstrations import fingerprint
from traceward.data.formats import encode, encode_prompt
from traceward.data.jsonl import read_jsonl, write_jsonl
from traceward.data.tasks.registry import Task, jsonl_task, stories_task
from traceward.records import Credit, Demonstration, Granularity, Head, Rollout, StopReason, UnitSpec
from traceward.training.run_directory import MetricsCallback, RunDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from traceward.rewards.model import RewardModel
    from traceward.training.critic import Critic


def load_task(recipe: Recipe) -> Task:
    """The recipe's task; the same call gives the same problems in every stage."""
    data = recipe.data
    if data.path is None:
        return stories_task(
            demonstrations=data.demonstrations or 100,
            questions=data.questions,
            validation=data.validation,
            test=data.test,
            seed=recipe.run.seed,
            style=data.style,
        )
    return jsonl_task(
        data.path,
        demonstrations=data.demonstrations,
        questions=data.questions,
        validation=data.validation,
        test=data.test,
        name=data.task,
    )


def quiet() -> None:
    """Silence the progress bars and chatter of the libraries below; ours is shown by the caller."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import warnings

    import datasets
    import transformers

    # TRL's own settings still use names that transformers renames; nothing a user of ours can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)


def seeded(recipe: Recipe, stage: str) -> int:
    """A seed of its own for every stage, from the run's."""
    import torch

    seed = random.Random(f"{recipe.run.seed}-{stage}").getrandbits(31)
    torch.manual_seed(seed)
    return seed


def policy_places(run: RunDirectory) -> tuple[str, str]:
    """Where the start model and its tokenizer are."""
    recipe = run.recipe()
    if recipe.policy.path == "builtin:stories":
        return str(STORIES_BASE), str(TOKENIZER)
    if recipe.policy.path == "scratch":
        made = str(run.path / "policies" / "base")
        return made, made
    return recipe.policy.path, recipe.policy.path


def start_policy(run: RunDirectory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model all policies start from, freshly loaded."""
    from traceward.loading import load_causal_lm, load_tokenizer

    model, tokenizer = policy_places(run)
    return load_causal_lm(model), load_tokenizer(tokenizer)


def save_policy(
    run: RunDirectory, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    model.save_pretrained(run.path / "policies" / name)
    tokenizer.save_pretrained(run.path / "policies" / name)


def pretrain(run: RunDirectory) -> None:
    """`policy.path = "scratch"`: a tokenizer and a small model of the demonstrations' text, questions included."""
    from traceward.builtin.small import train_scratch

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
        )
    run.finish("pretrain", found)


def sft(run: RunDirectory) -> None:
    """Supervised fine-tuning on the demonstrations."""
    from traceward.training.baselines import supervised_fine_tune

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = start_policy(run)
    traces = [encode(d.problem, d.trace, recipe.data.format, tokenizer) for d in task.demonstrations]
    with run.metrics("sft") as metrics:
        rows = supervised_fine_tune(
            model,
            tokenizer,
            traces,
            recipe.sft,
            run.path / "policies" / "sft-trainer",
            seed=seeded(recipe, "sft"),
            callbacks=[MetricsCallback(metrics)],
        )
    save_policy(run, "sft", model, tokenizer)
    run.finish("sft", {"loss_first": rows[0]["loss"], "loss_last": rows[-1]["loss"], "updates": len(rows)})


def write_rollouts(path: Path, rollouts: list[Rollout]) -> None:
    write_jsonl(
        path,
        (
            {
                "problem_id": r.problem_id,
                "text": r.text,
                "prompt_ids": list(r.prompt_ids),
                "completion_ids": list(r.completion_ids),
                "stop": str(r.stop),
            }
            for r in rollouts
        ),
    )


def read_rollouts(path: Path) -> list[Rollout]:
    return [
        Rollout(
            row["problem_id"],
            tuple(row["prompt_ids"]),
            tuple(row["completion_ids"]),
            row["text"],
            StopReason(row["stop"]),
        )
        for _, row in read_jsonl(path)
    ]


def rollouts(run: RunDirectory) -> None:
    """Samples of the start policy on the demonstrations' questions: the discriminator's first negatives."""
    from traceward.sampling import sample

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = start_policy(run)
    groups = sample(
        model,
        tokenizer,
        prompts_of(task.demonstrations, recipe, tokenizer),
        n=recipe.critic.rollouts_per_question,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "rollouts"),
        temperature=recipe.adversarial.temperature,
    )
    found = [rollout for group in groups for rollout in group]
    write_rollouts(run.path / "data" / "rollouts.jsonl", found)
    run.finish("rollouts", {"rollouts": len(found)})


def prompts_of(
    items: tuple[Demonstration, ...], recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, tuple[int, ...]]]:
    return [(d.problem.id, encode_prompt(d.problem, recipe.data.format, tokenizer)) for d in items]


def learn_reward(
    run: RunDirectory, recipe: Recipe, *, stage: str, head: Head, spec: UnitSpec
) -> tuple[RewardModel, Critic, dict[str, Any]]:
    """Warm-up of a new reward on the rollouts of the start policy."""
    from traceward.rewards.model import new_reward
    from traceward.training.critic import Critic
    from traceward.training.warmup import warm_up

    task = load_task(recipe)
    model, tokenizer = start_policy(run)
    seed = seeded(recipe, stage)
    reward = new_reward(
        model, tokenizer, head=head, spec=spec, style=recipe.data.format, beta=recipe.reward.beta, seed=seed
    )
    critic = Critic(reward, task.demonstrations, recipe.critic, seed=seed)
    with run.metrics(stage) as metrics:
        done = warm_up(critic, read_rollouts(run.path / "data" / "rollouts.jsonl"), log=metrics.log)
    aurocs = [row["held_out_auroc"] for row in done.rows if row["step"] == done.kept and "held_out_auroc" in row]
    found = {
        "head": str(head),
        "granularity": str(spec.granularity),
        "interval": spec.every if spec.every else "step" if spec.granularity is Granularity.INTERVAL else None,
        "objective": recipe.critic.objective,
        "updates": done.kept,
        "stopped": done.stopped,
        "held_out_auroc": aurocs[0] if aurocs else None,
    }
    return reward, critic, found


def reward(run: RunDirectory) -> None:
    """The run's reward, saved with its card."""
    recipe = run.recipe()
    task = load_task(recipe)
    learned, _, found = learn_reward(run, recipe, stage="warm-up", head=recipe.reward.head, spec=recipe.reward.spec)
    learned.card = {
        "task": task.name,
        "label_source": str(recipe.critic.label_source),
        "demonstrations": len(task.demonstrations),
        "data": {"demonstrations": fingerprint(task.demonstrations)},
        "training": {**recipe.critic.model_dump(mode="json"), "seed": recipe.run.seed, **found},
        "metrics": {"held_out_auroc": found["held_out_auroc"]},
    }
    learned.save(run.path / "reward")
    run.finish("reward", found)


def arm(run: RunDirectory, name: Arm) -> None:
    """Train one policy on the questions, from the start policy, and measure it."""
    from traceward.training.adversarial import AdversarialTrainer
    from traceward.training.baselines import outcome_rl
    from traceward.workflows.measure import CurveCallback, measure_policy

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = start_policy(run)
    stage = str(name)
    seed = seeded(recipe, stage)
    directory = run.path / "policies" / stage
    questions = (*task.questions, *(d.problem for d in task.demonstrations))
    with run.metrics(stage) as metrics:
        curve = CurveCallback(model, tokenizer, task, recipe)
        callbacks = [MetricsCallback(metrics), curve]
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
            )
        else:
            scorer, critic, config = _scorer(run, recipe, task, name, seed)
            AdversarialTrainer(
                policy=model,
                tokenizer=tokenizer,
                reward=scorer,
                critic=critic,
                demonstrations=task.demonstrations,
                questions=questions,
                config=config,
                directory=directory,
                seed=seed,
                callbacks=callbacks,
            ).train()
            if critic is not None:
                critic.reward.save(run.path / "reward-after")
    save_policy(run, stage, model, tokenizer)
    run.finish(stage, {**measure_policy(model, tokenizer, task, recipe), "curve": curve.rows})


def _scorer(run: RunDirectory, recipe: Recipe, task: Task, name: Arm, seed: int) -> tuple[Any, Critic | None, Any]:
    from traceward.loading import load_causal_lm, load_tokenizer
    from traceward.rewards.model import RewardModel
    from traceward.rewards.rivals import LogProbScorer, UniformScorer
    from traceward.training.critic import Critic

    frozen = recipe.adversarial.model_copy(update={"critic_updates": 0})
    vote = frozen.model_copy(update={"credit": Credit.CONSENSUS})
    if name is Arm.MAJORITY_CONSENSUS:
        return UniformScorer(recipe.data.format), None, vote
    if name is Arm.SFT_LOGPROB_CONSENSUS:
        tuned = run.path / "policies" / "sft"
        return LogProbScorer(load_causal_lm(tuned), load_tokenizer(tuned), recipe.data.format), None, vote
    learned = RewardModel.load(run.path / "reward")
    if name is Arm.REWARD_FROZEN:
        return learned, None, frozen
    critic = Critic(learned, task.demonstrations, recipe.critic, seed=seed)
    critic.remember(read_rollouts(run.path / "data" / "rollouts.jsonl"))
    return learned, critic, recipe.adversarial


def measure(run: RunDirectory, name: str) -> None:
    """Measure a policy that needs no further training: `base` or `sft`."""
    from traceward.loading import load_causal_lm, load_tokenizer
    from traceward.workflows.measure import measure_policy

    recipe = run.recipe()
    if name == "base":
        model, tokenizer = start_policy(run)
    else:
        place = run.path / "policies" / name
        model, tokenizer = load_causal_lm(place), load_tokenizer(place)
    run.finish(f"measure-{name}", measure_policy(model, tokenizer, load_task(recipe), recipe))


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
    learned, _, found = learn_reward(run, changed, stage=f"variant-{text.replace(':', '-')}", head=Head(head), spec=spec)
    named = {"name": text, "corruptions": options[0].replace("no-", "without ") if options else "all"}
    run.finish(f"variant-{text.replace(':', '-')}", {**found, **named, **judge_reward(run, learned)})


def judge(run: RunDirectory) -> None:
    """What the reward is good for: reranking, localisation, calibration, examples."""
    from traceward.workflows.judge import judge_run

    run.finish("judge", judge_run(run))


def pairs(run: RunDirectory) -> None:
    """The discriminator on length- and end-matched pairs."""
    from traceward.workflows.pairs import matched_pairs

    matched_pairs(run)


def run_stage(path: str, stage: str, threads: int) -> None:
    """Run one stage by name; the entry of a worker process."""
    import torch

    torch.set_num_threads(threads)
    quiet()
    run = RunDirectory(path)
    plain: dict[str, Callable[[RunDirectory], None]] = {
        "pretrain": pretrain,
        "sft": sft,
        "rollouts": rollouts,
        "samples": samples,
        "reward": reward,
        "judge": judge,
        "pairs": pairs,
    }
    if stage in plain:
        plain[stage](run)
    elif stage.startswith("variant:"):
        variant(run, stage.removeprefix("variant:"))
    elif stage.startswith("measure:"):
        measure(run, stage.removeprefix("measure:"))
    else:
        arm(run, Arm(stage))


def samples(run: RunDirectory) -> None:
    """Base-policy samples of the test problems, shared by every reward that is judged."""
    from traceward.sampling import sample

    recipe = run.recipe()
    task = load_task(recipe)
    model, tokenizer = start_policy(run)
    groups = sample(
        model,
        tokenizer,
        prompts_of(task.test, recipe, tokenizer),
        n=recipe.evaluation.samples,
        max_new_tokens=recipe.adversarial.max_new_tokens,
        seed=seeded(recipe, "samples"),
    )
    write_rollouts(run.path / "data" / "samples.jsonl", [rollout for group in groups for rollout in group])
    run.finish("samples", {"traces": len(groups) * recipe.evaluation.samples})
