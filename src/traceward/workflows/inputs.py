"""What the stages of a run start from: its task, its start policy, its seeds, and rollouts on disk."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from traceward.builtin import STORIES_BASE, TOKENIZER
from traceward.config import BUILTIN_BASE, Recipe
from traceward.data.formats import encode_prompt
from traceward.data.jsonl import read_jsonl, write_jsonl
from traceward.data.tasks.registry import Task, jsonl_task, world_task
from traceward.data.tasks.stories import world as stories_world
from traceward.data.tasks.story_words import Style
from traceward.data.tasks.worlds import WORLDS
from traceward.records import Demonstration, Rollout, Start, StopReason
from traceward.training.adapter import Engine
from traceward.training.distribution import on_main, save_whole
from traceward.training.run_directory import RunDirectory
from traceward.workflows.boundary import Reader, TextCrossing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_task(recipe: Recipe) -> Task:
    """The recipe's task; the same call gives the same problems in every stage."""
    data = recipe.data
    if data.path is None:
        stories = data.task == "stories"
        return world_task(
            stories_world(shift=data.shift) if stories else WORLDS[data.task],
            demonstrations=data.demonstrations or 100,
            questions=data.questions,
            validation=data.validation,
            test=data.test,
            seed=recipe.run.seed,
            experts=stories_world(Style(data.style), shift=data.shift) if stories else None,
        )
    return jsonl_task(
        data.path,
        demonstrations=data.demonstrations,
        questions=data.questions,
        validation=data.validation,
        test=data.test,
        name=data.task,
    )


def judged_demonstrations(task: Task, recipe: Recipe) -> tuple[Demonstration, ...]:
    """The demonstrations that the discriminator learns from; its rollouts answer their questions."""
    return task.demonstrations[: recipe.critic.demonstrations]


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
    path = run.recipe().policy.path
    return places_of(str(run.path / "policies" / "base") if path == "scratch" else path)


def places_of(path: str) -> tuple[str, str]:
    """Where a model and its tokenizer are: a directory, a hub name or `builtin:stories`."""
    return (str(STORIES_BASE), str(TOKENIZER)) if path == BUILTIN_BASE else (path, path)


def base_policy(run: RunDirectory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained model, freshly loaded; one that is an adapter is merged."""
    from traceward.adapters import merged

    policy, tokenizer = _opened(run, *policy_places(run))
    return merged(policy), tokenizer


def reward_base(run: RunDirectory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What the reward is made of, freshly loaded: the model of its own, or the policy's."""
    import torch

    from traceward.adapters import merged
    from traceward.loading import load_policy

    recipe = run.recipe()
    if recipe.reward.path is None:
        return base_policy(run)
    dtype = getattr(torch, recipe.reward.dtype or recipe.policy.dtype)
    model, tokenizer = load_policy(*places_of(recipe.reward.path), dtype)
    return merged(model), tokenizer


def crossing_of(run: RunDirectory, task: Task, reader: PreTrainedTokenizerBase) -> TextCrossing | None:
    """How the policy's traces come to a reward that reads with `reader`; None where it reads their ids."""
    from traceward.loading import load_context, load_tokenizer

    recipe = run.recipe()
    style = recipe.data.format
    policy, reward = Reader(load_tokenizer(policy_places(run)[1]), style), Reader(reader, style)
    if policy.alike(reward):
        return None
    assert recipe.reward.path is not None  # without it the reward has the policy's tokenizer
    judged = (item.problem for item in (*task.demonstrations, *task.validation, *task.test))
    problems = {problem.id: problem for problem in (*task.questions, *judged)}
    return TextCrossing(problems, policy, reward, load_context(places_of(recipe.reward.path)[0]))


def sft_policy(run: RunDirectory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What supervised fine-tuning left, freshly loaded."""
    return _opened(run, run.path / "policies" / "sft", run.path / "policies" / "sft")


def _opened(
    run: RunDirectory, model: str | Path, tokenizer: str | Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch

    from traceward.loading import load_policy

    held = run.recipe().policy
    return load_policy(model, tokenizer, getattr(torch, held.dtype), load_in_4bit=held.load_in_4bit)


def learning_policy(run: RunDirectory, start: Start) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A policy that is about to learn, freshly loaded: its adapter, where the recipe gives it one, or all of it."""
    if run.recipe().policy.adapter.chosen:
        return adapter_on(*base_policy(run), run, start)
    return sft_policy(run) if start is Start.SFT else base_policy(run)


def adapter_on(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, run: RunDirectory, start: Start
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The recipe's policy as an adapter in the layers of `base`, where it is about to learn."""
    from traceward.adapters import adapted_policy
    from traceward.loading import load_adapted_policy

    recipe = run.recipe()
    if start is Start.SFT:
        return load_adapted_policy(run.path / "policies" / "sft", base=base), tokenizer
    return adapted_policy(base, recipe.policy.adapter, seed=recipe.run.seed), tokenizer


def engine_of(recipe: Recipe) -> Engine:
    """How the trainers of policies compute, and whom they tell."""
    policy = recipe.policy
    return {
        "bf16": policy.bf16,
        "gradient_checkpointing": policy.gradient_checkpointing,
        "report_to": recipe.run.report_to,
    }


def save_policy(run: RunDirectory, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save a policy with its tokenizer, so that the directory loads on its own; it is there whole or not at all."""
    save_whole(model, partial(_write_policy, run.path / "policies" / name, model, tokenizer))


def _write_policy(
    place: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weights: dict[str, Tensor] | None
) -> None:
    from traceward.adapters import NAME, is_adapted

    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent) as room:
        whole = Path(room) / place.name
        # A PeftModel holds a second adapter where TRL keeps the start policy in one; and it would ask the hub whether
        # the embeddings have grown.
        alone = {"selected_adapters": [NAME], "save_embedding_layers": False} if is_adapted(model) else {}
        model.save_pretrained(whole, state_dict=weights, **alone)
        tokenizer.save_pretrained(whole)
        if place.exists():  # an arm's trainer keeps its start policy there
            shutil.copytree(whole, place, dirs_exist_ok=True)
        else:
            whole.replace(place)


@on_main
def write_rollouts(path: Path, rollouts: list[Rollout]) -> None:
    """Rollouts with their token ids."""
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
    """What `write_rollouts` wrote."""
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


def prompts_of(
    items: tuple[Demonstration, ...], recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, tuple[int, ...]]]:
    """(id, prompt ids) of each demonstration's question."""
    return [(d.problem.id, encode_prompt(d.problem, recipe.data.format, tokenizer)) for d in items]
