"""The adversarial loop on TRL's GRPOTrainer. The only file that knows TRL's internals, with resume.py, which keeps
some, and step_times.py, which times some.

One round (method, "One round"): sample, update the discriminator, score with the updated reward, turn scores into
advantages, one clipped policy-gradient step with a KL penalty to the start policy. TRL samples, optimises, logs and
saves; four of its methods are wrapped, none is copied, and tests/training/test_trl_contract.py names them:

  _generate                            its token ids are kept (rewards are computed from ids, never from text)
  _get_per_token_logps_and_entropies   spared for TRL's reference where the reward's own is the same model
  _calculate_rewards                   discriminator update, scores; returns one gathered scalar per rollout
  _generate_and_score_completions      its advantages are replaced by ours, (B, T)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer

from traceward.adapters import learn_in_float32
from traceward.data.formats import as_sampled, encode_prompt
from traceward.data.segmentation import Segmenter, unit_index
from traceward.objectives.advantages import consensus, on_tokens, trace_mean, whitened
from traceward.records import Credit, Demonstration, Problem, Rollout, StopReason
from traceward.rewards.batches import TraceBatch
from traceward.rewards.heads import logprobs_under, no_logprobs
from traceward.rewards.model import TraceScorer
from traceward.training.adapter import Engine
from traceward.training.baselines import right_answers, silence
from traceward.training.checkpoints import Stateful
from traceward.training.credit import advantages_of, answer_ids, by_id, padded_units
from traceward.training.critic import Critic
from traceward.training.distribution import everyone, place, shared_samples, shared_scores
from traceward.training.grpo import grpo_arguments, question_rows
from traceward.training.guards import correlation_inside
from traceward.training.reference import SharedReference, check_shared_weights, drop_idle_reference, keep_start_policy
from traceward.training.resume import BufferedRollouts
from traceward.training.schedule import KLController, UpdateSchedule
from traceward.training.settings import AdversarialConfig
from traceward.training.step_times import StepTimes
from traceward.training.tokens import Crossing, check_crossing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class KLControl(TrainerCallback):  # type: ignore[misc]
    """Moves the KL weight that TRL reads at every step, `trainer.beta`, by the KL that it logs. Stateful."""

    def __init__(self, trainer: GRPOTrainer, config: AdversarialConfig) -> None:
        self.trainer = trainer
        self.controller = KLController(config)
        self.moves = config.kl_target is not None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Log the weight of the step that begins, where it is no constant."""
        if self.moves:
            self.trainer._log_metric("kl_weight", self.trainer.beta)

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """Set the next step's weight."""
        if self.moves and "kl" in (logs or {}):
            self.trainer.beta = self.controller.look(logs["kl"])  # type: ignore[index]

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return self.controller.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.controller.load_state_dict(state)
        self.trainer.beta = self.controller.weight


def _check(config: AdversarialConfig, reward: TraceScorer, critic: Critic | None, crossing: Crossing | None) -> None:
    if config.critic_updates and critic is None:
        raise ValueError("critic must be given when critic_updates > 0: got none; pass one or set critic_updates=0")
    if crossing is not None:
        check_crossing(reward.head, None, config)


def exported_reward(**_: object) -> list[float]:
    """Names the reward in TRL's metrics. The scores come from `_calculate_rewards`, which replaces the call."""
    raise AssertionError("rewards are computed from token ids in AdversarialTrainer._calculate_rewards")


class AdversarialTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains `policy` against `reward`, and `reward` against `policy`.

    demonstrations: the only supervision.   questions: further problems without worked solutions; the reward scores
    them, supervised fine-tuning cannot use them. Their answers are read with `config.outcome_weight` above 0 only.
    critic: a warmed-up discriminator around `reward`; with `config.critic_updates` = 0 the reward stays frozen.
    crossing: for a reward that reads other tokens than the policy writes.
    """

    def __init__(
        self,
        *,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward: TraceScorer,
        demonstrations: Sequence[Demonstration],
        config: AdversarialConfig,
        directory: str | Path,
        critic: Critic | None = None,
        crossing: Crossing | None = None,
        questions: Sequence[Problem] = (),
        seed: int = 0,
        callbacks: Sequence[Any] = (),
        bf16: bool | None = None,
        gradient_checkpointing: bool = False,
        report_to: Sequence[str] = (),
    ) -> None:
        _check(config, reward, critic, crossing)
        self.reward = reward
        self.critic = critic
        self.crossing = crossing
        self.config = config
        self.schedule = UpdateSchedule(config)
        # Held-out demonstrations stay out: their rollouts would be negatives of questions without positives.
        shown = demonstrations if critic is None else critic.expert
        self.demonstration_prompts = {d.problem.id: encode_prompt(d.problem, reward.style, tokenizer) for d in shown}
        # What a checkpoint holds beside transformers' own, and beside callbacks that are Stateful.
        self.parts: dict[str, Stateful] = {"rollouts": BufferedRollouts(self), "schedule": self.schedule}
        if critic is not None:
            self.parts["critic"] = critic
            critic.discriminator.policy_logprobs = self._policy_logprobs
        self._ids: tuple[list[list[int]], list[list[int]]] = ([], [])
        self._units = (torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool))
        self._advantages = torch.zeros(0, 0)
        self._unit_of_token = torch.zeros(0, 0, dtype=torch.long)
        self._segmenter = Segmenter(tokenizer)
        keep_start_policy(policy, tokenizer, Path(directory))
        engine = Engine(bf16=bf16, gradient_checkpointing=gradient_checkpointing, report_to=report_to)
        args = grpo_arguments(config, Path(directory), seed=seed, style=reward.style, **engine)
        crossed = crossing is not None
        self._reference = SharedReference(reward, policy, config, precision=args.mixed_precision, crossed=crossed)
        every = questions or [d.problem for d in demonstrations]
        self._problems = by_id(every, answers=config.outcome_weight > 0)
        super().__init__(
            model=policy,
            processing_class=tokenizer,
            reward_funcs=exported_reward,
            train_dataset=question_rows(every, config, reward.style, tokenizer),
            args=args,
            callbacks=list(callbacks),
        )
        check_shared_weights(self, policy, reward)
        drop_idle_reference(policy)
        learn_in_float32(policy)
        silence(self)
        self.add_callback(KLControl(self, config))
        self.add_callback(StepTimes(self))
        if critic is not None and config.critic_updates:
            critic.learner.prepare(self.accelerator)

    # ---- TRL's seams ---------------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> Any:
        out = super()._generate(prompts)
        self._ids = (out[0], out[1])
        return out

    def _get_per_token_logps_and_entropies(self, model: Any, input_ids: Tensor, *rest: Any, **options: Any) -> Any:
        if model is self.ref_model and self._reference.serves_kl:
            return torch.zeros(len(input_ids), rest[1], device=input_ids.device), None, None  # (B, completion)
        return super()._get_per_token_logps_and_entropies(model, input_ids, *rest, **options)

    def _calculate_rewards(self, inputs: list[dict[str, Any]], *_texts: list[Any]) -> Tensor:
        rollouts = everyone(self._rollouts(inputs))  # of all processes, on each of them
        read = self._reference.read(self._crossed(rollouts))
        if self.critic is not None and self.config.critic_updates and self.model.training:
            self._update_critic(read)
        rewards = self._score(read).to(self.accelerator.device)
        tied = correlation_inside(rewards.tolist(), [len(r.completion_ids) for r in rollouts], self.config.group)
        self._log_metric("reward_length_correlation", tied)
        own = self._own = slice(place()[0] * len(inputs), (place()[0] + 1) * len(inputs))
        self._advantages, self._unit_of_token = (part[own] for part in self._credit(rollouts, rewards))
        return rewards[:, None]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = out["completion_mask"]
        unit = self._unit_of_token[:, : mask.shape[1]].to(mask.device)  # another process may hold longer completions
        out["advantages"] = on_tokens(self._advantages, unit.masked_fill(mask == 0, -1))
        self._reference.fill(out, self._own)
        return out

    def _policy_logprobs(self, batch: TraceBatch) -> Tensor:
        policy = self.accelerator.unwrap_model(self.model)
        return logprobs_under(policy, temperature=self.config.temperature)(batch)

    # ---- the round -----------------------------------------------------------------------------------------------

    def _rollouts(self, inputs: list[dict[str, Any]]) -> list[Rollout]:
        ends = set(self.eos_token_ids)
        texts = self.processing_class.batch_decode(self._ids[1], skip_special_tokens=True)
        return [
            Rollout(
                row["problem_id"],
                tuple(prompt),
                tuple(completion),
                text,
                StopReason.END if completion[-1] in ends else StopReason.LENGTH,
            )
            for row, prompt, completion, text in zip(inputs, *self._ids, texts, strict=True)
        ]

    def _crossed(self, rollouts: list[Rollout]) -> list[Rollout]:
        return rollouts if self.crossing is None else self.crossing.rollouts(rollouts)

    def _update_critic(self, rollouts: list[Rollout]) -> None:
        """As many updates as the schedule says; with none, a look, so that the accuracy stays known."""
        assert self.critic is not None
        own = [r for r in rollouts if r.problem_id in self.demonstration_prompts]
        made: list[Rollout] = []
        rows = []
        updates = self.schedule.updates
        for _ in range(max(1, updates)):
            experts = self.critic.experts()
            more = self._sampled(experts, self.critic.fresh_per_update - len(self.critic.usable(own, experts)))
            learn = self.critic.update if updates else self.critic.look
            rows.append(learn(own + more, experts))
            made += more
        self.critic.remember(own + made)
        row = rows[-1] | {"accuracy": rows[0]["accuracy"], "updates": updates}
        self.schedule.look(row["accuracy"])
        for name, value in row.items():
            self._log_metric(f"critic/{name}", value)

    def _sampled(self, experts: Sequence[Demonstration], count: int) -> list[Rollout]:
        """`count` or a few more rollouts of the questions of an update's experts: positives and negatives then share
        their questions, and the question cannot tell them apart."""
        assert self.critic is not None
        if count <= 0:
            return []
        asked = self.critic.rng.sample(experts, min(len(experts), -(-count // 4)))
        groups = shared_samples(
            self.accelerator.unwrap_model(self.model),
            self.processing_class,
            [(d.problem.id, self.demonstration_prompts[d.problem.id]) for d in asked],
            n=-(-count // len(asked)),
            max_new_tokens=self.config.max_new_tokens,
            seed=self.critic.rng.getrandbits(32),
            temperature=self.config.temperature,
            top_p=self.config.top_p,
        )
        return self._crossed([rollout for group in groups for rollout in group])

    def _credit(self, rollouts: list[Rollout], rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages (B, U), and (B, T) the unit of each completion token; U is 1 where a trace has one advantage."""
        right = torch.tensor(self._outcome(rollouts), device=rewards.device) if self.config.outcome_weight else None
        advantages = advantages_of(self.config, rewards, self._units, right)
        units = [[0] * len(r.completion_ids) for r in rollouts]
        if self.config.credit.by_units:
            units = [unit_index(self._segmenter.unit_ends(r.completion_ids, self.reward.spec)) for r in rollouts]
        padded = [torch.tensor(unit) for unit in units]
        return advantages, torch.nn.utils.rnn.pad_sequence(padded, batch_first=True, padding_value=-1)

    def _outcome(self, rollouts: list[Rollout]) -> list[float]:
        problems = [self._problems[r.problem_id] for r in rollouts]
        right = right_answers([r.text for r in rollouts], problems, self.reward.style)
        self._log_metric("outcome", sum(right) / len(right))
        return right

    def _score(self, rollouts: list[Rollout]) -> Tensor:
        """(B,) the reward that each rollout trains with, by `config.credit`."""
        traces = [as_sampled(r) for r in rollouts]
        by_units = self.config.credit is not Credit.CONSENSUS
        against = (self._policy_logprobs if self.crossing is None else no_logprobs) if by_units else None
        scored = shared_scores(self.reward, traces, spec=None, policy_logprobs=against)
        exported = torch.tensor([s.exported for s in scored])
        self._log_metric("exported", exported.mean().item())
        if by_units:
            units, there = padded_units(scored)
            self._units = (whitened(units, there) if self.config.whiten else units, there)
            return trace_mean(*self._units, clip=self.config.clip)
        answers = torch.tensor(answer_ids(rollouts, self._problems, self.reward.style, self.config.group))
        agrees, _ = consensus(
            answers.view(-1, self.config.group),
            exported.view(-1, self.config.group),
            temperature=self.config.vote_temperature,
            own_reward=self.config.own_reward,
        )
        self._log_metric("agreement", agrees.mean().item())
        return agrees.flatten()
