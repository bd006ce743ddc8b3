"""`traceward fit`: learn a reward from demonstrations and the rollouts of a frozen policy; no policy is trained."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from traceward import __version__
from traceward.adapters import checkpoint_gradients
from traceward.data.demonstrations import DemonstrationSet, question_key, read_demonstrations
from traceward.data.formats import Format, completion_text, encode, encode_prompt
from traceward.data.jsonl import Faults, fingerprint_file
from traceward.data.traces import read_traces
from traceward.errors import ConfigError, DataError, RunError
from traceward.records import Rollout, StopReason
from traceward.rewards.files import CARD
from traceward.rewards.heads import logprobs_under
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.critic import Critic
from traceward.training.guards import Alarm, Guards
from traceward.training.section import Section, rule_of
from traceward.training.settings import CriticSettings, GuardSettings, RewardSettings, check_objective
from traceward.training.warmup import WarmUp, warm_up
from traceward.workflows.evaluate import refuse_long_prompt, sample_all
from traceward.workflows.score import Progress, context_of, encode_record, open_policy, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class FitResult:
    """Where the reward lies, its card, what warm-up did, and what its guards said."""

    out: Path
    card: dict[str, Any]
    done: WarmUp
    alarms: tuple[Alarm, ...]


def settings(section: type[S], **values: Any) -> S:
    """A section with those of `values` that are not None. Raises ConfigError naming every wrong one."""
    try:
        return section(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        # A rule about several settings has no place of its own, and names them.
        faults = [" ".join([".".join(map(str, fault["loc"])), rule_of(fault)]).strip() for fault in error.errors()]
        raise ConfigError("\n  ".join(faults)) from error


def fit_reward(
    demonstrations: Path,
    *,
    policy: str,
    out: Path,
    rollouts: Path | None = None,
    reward: RewardSettings,
    critic: CriticSettings,
    style: Format = Format.PLAIN,
    max_new_tokens: int = 256,
    seed: int = 0,
    progress: Progress = silent,
) -> FitResult:
    """Warm up a discriminator and save it at `out` with its card.

    rollouts: traces made elsewhere, on the demonstrations' questions; left out, `policy` is sampled.
    """
    import torch

    check_objective(critic.objective, reward.head, reward.beta)
    _refuse_settings_of_runs(reward)
    _refuse_other_directory(out)
    found = read_demonstrations(demonstrations)
    made_elsewhere = rollouts is not None
    model, tokenizer = open_policy(policy)
    _check(found, model, tokenizer, style, 0 if made_elsewhere else max_new_tokens)
    if rollouts is not None:
        negatives = read_rollouts(rollouts, found, model, tokenizer, style)
    else:
        prompts = [(d.problem.id, encode_prompt(d.problem, style, tokenizer)) for d in found.demonstrations]
        groups = sample_all(
            model, tokenizer, prompts, n=critic.rollouts_per_question, max_new_tokens=max_new_tokens, temperature=1.0,
            seed=seed, progress=progress,
        )  # fmt: skip
        negatives = [rollout for group in groups for rollout in group]
    torch.manual_seed(seed)  # dropout
    learned = _untaught(model, tokenizer, reward, style, seed)
    teacher = Critic(
        learned, found.demonstrations, critic, seed=seed, policy_logprobs=logprobs_under(model, temperature=1.0),
        max_new_tokens=None if made_elsewhere else max_new_tokens,
    )  # fmt: skip
    guards, alarms = Guards(GuardSettings()), list[Alarm]()

    def log(row: dict[str, float]) -> None:
        progress("learning the reward", int(row["step"]), critic.warmup_updates)
        alarms.extend(guards.watch(int(row["step"]), row))

    done = warm_up(teacher, negatives, log=log)
    learned.card = _card(found, negatives, done, critic, policy=policy, rollouts=rollouts, seed=seed)
    learned.save(out)
    return FitResult(out, learned.card, done, tuple(alarms))


def _untaught(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: RewardSettings, style: Format, seed: int
) -> RewardModel:
    learned = new_reward(
        model,
        tokenizer,
        head=settings.head,
        spec=settings.spec,
        style=style,
        beta=settings.beta,
        reference_share=settings.reference_share,
        adapter=settings.adapter,
        seed=seed,
    )
    if settings.gradient_checkpointing:
        checkpoint_gradients(learned.backbone)
    return learned


def _refuse_settings_of_runs(reward: RewardSettings) -> None:
    plain = RewardSettings()
    for name in ("start", "path", "dtype", "shares_backbone"):
        if (value := getattr(reward, name)) != getattr(plain, name):
            raise ConfigError(
                f"reward.{name} must be left out in fit, which knows `policy` alone: got {value}; remove it"
            )


def _refuse_other_directory(out: Path) -> None:
    """Told before the work, not after it."""
    if out.exists() and not out.is_dir():
        raise RunError(f"out must be a directory: got the file {out}; choose another")
    if out.is_dir() and any(out.iterdir()) and not (out / CARD).exists():
        raise RunError(f"out must be a new, empty or reward directory: got {out} with other files; choose another")


def _check(
    found: DemonstrationSet,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    style: Format,
    max_new_tokens: int,
) -> None:
    """Every demonstration fits the context, and so does a rollout of its question."""
    faults = Faults(found.path)
    context = context_of(model)
    for line, item in zip(found.lines, found.demonstrations, strict=True):
        try:
            trace = encode(item.problem, item.trace, style, tokenizer)
        except DataError as error:
            faults.add(line, "steps", str(error))
            continue
        length = len(trace.prompt_ids) + len(trace.completion_ids)
        if context is not None and length > context:
            rule = f"must fit the model's context of {context} tokens: got {length} with the question"
            faults.add(line, "steps", f"{rule}; shorten it or use a model with a longer context")
        else:
            refuse_long_prompt(faults, line, trace.prompt_ids, context, max_new_tokens)
    faults.raise_if_any()


def read_rollouts(
    path: Path,
    found: DemonstrationSet,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    style: Format,
) -> list[Rollout]:
    """Traces made elsewhere as rollouts: worded and tokenised once, here, as the demonstrations are.

    Raises DataError naming the line of each that belongs to no demonstration's question or is too long. A row is
    matched by its question's text, or by its id where it has no question.
    """
    problems = {question_key(d.problem.question): d.problem for d in found.demonstrations}
    records = read_traces(path, problems.values())
    faults = Faults(path)
    rollouts = []
    context = context_of(model)
    for record in records:
        problem = problems.get(question_key(record.problem.question))
        if problem is None:
            shown = record.problem.question if len(record.problem.question) < 60 else record.problem.question[:57] + "…"
            rule = f"must be a question of {found.path}: got {shown!r}; remove the row or add its demonstration"
            faults.add(record.line, "question", rule)
            continue
        try:
            ids = encode_record(record, style, tokenizer).completion_ids
        except DataError as error:
            faults.add(record.line, "steps", str(error))
            continue
        prompt = encode_prompt(problem, style, tokenizer)
        if context is not None and len(prompt) + len(ids) > context:
            rule = f"must fit the model's context of {context} tokens: got {len(prompt) + len(ids)} with the question"
            faults.add(record.line, "steps", f"{rule}; shorten it or use a model with a longer context")
            continue
        stop = StopReason.LENGTH if record.raw.get("stop") == StopReason.LENGTH else StopReason.END
        rollouts.append(Rollout(problem.id, prompt, ids, completion_text(record.trace, style), stop))
    faults.raise_if_any()
    return rollouts


def _card(
    found: DemonstrationSet,
    negatives: Sequence[Rollout],
    done: WarmUp,
    critic: CriticSettings,
    *,
    policy: str,
    rollouts: Path | None,
    seed: int,
) -> dict[str, Any]:
    kept = next((row for row in done.rows if row["step"] == done.kept), {})
    data = {"demonstrations": found.fingerprint}
    if rollouts is not None:
        data["rollouts"] = fingerprint_file(rollouts)
    return {
        "label_source": str(critic.label_source),
        "uses_final_answers": critic.label_source.uses_final_answers,
        "demonstrations": len(found.demonstrations),
        "rollouts": len(negatives),
        "policy": policy,
        "data": data,
        "training": {**critic.model_dump(mode="json"), "seed": seed, "updates": done.kept, "stopped": done.stopped},
        "metrics": {key: kept.get(key) for key in ("held_out_auroc", "held_out_loss")},
        "versions": _versions(),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"traceward": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
