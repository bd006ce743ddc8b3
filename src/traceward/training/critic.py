"""The discriminator's side: batches of positives and negatives, replay, warm-up with early stop, updates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from traceward.adapters import is_adapted
from traceward.data.corruptions import Corrupted, corrupt
from traceward.data.formats import (
    EncodedTrace,
    as_sampled,
    completion_text,
    encode,
    encode_completion,
    stated_answer,
)
from traceward.data.grading import Grade
from traceward.data.options import grade_answer
from traceward.records import Demonstration, LabelSource, Objective, Problem, Rollout, StopReason, Trace
from traceward.rewards.heads import PolicyLogprobs
from traceward.rewards.model import STEPS, RewardModel
from traceward.training.discriminator import Discriminator, taken, trace_logits
from traceward.training.form import FormControl
from traceward.training.learner import Learner, Tables
from traceward.training.settings import CriticSettings
from traceward.training.tokens import Crossing, check_crossing


@dataclass(frozen=True, slots=True)
class Example:
    """A row of a discriminator batch. `wrong_step`: the only step a corruption's label speaks of (None = all)."""

    trace: EncodedTrace
    label: int
    wrong_step: int | None = None


class Critic:
    """Trains a RewardModel in place. All randomness comes from `seed`.

    policy_logprobs: log pi of the policy whose traces are the negatives. Objective airl needs it; an
    AdversarialTrainer sets that of the policy it trains.
    max_new_tokens: at which rollouts are cut; experts and their corruptions are cut there too.
    crossing: for a policy that writes other tokens than the reward reads. The rollouts given here have crossed.
    """

    def __init__(
        self,
        reward: RewardModel,
        demonstrations: Sequence[Demonstration],
        settings: CriticSettings,
        *,
        seed: int,
        policy_logprobs: PolicyLogprobs | None = None,
        max_new_tokens: int | None = None,
        crossing: Crossing | None = None,
    ) -> None:
        if crossing is not None:
            check_crossing(reward.head, settings.objective, None)
        self.reward = reward
        self.crossing = crossing
        self.max_new_tokens = max_new_tokens
        self.settings = settings
        self.discriminator = Discriminator(reward, settings, policy_logprobs)
        self.rng = random.Random(f"critic-{seed}")
        self._dropout = random.Random(f"dropout-{seed}")  # of its own, so that batches are the same with and without
        shuffled = sorted(demonstrations, key=lambda d: d.problem.id)
        self.rng.shuffle(shuffled)
        held = max(2, round(settings.held_out * len(shuffled))) if settings.held_out and len(shuffled) > 3 else 0
        self.held_out, self.expert = shuffled[:held], shuffled[held:]
        self.problems = {d.problem.id: replace(d.problem, answer=d.trace.answer) for d in demonstrations}
        self.replay: list[Rollout] = []
        self.form = FormControl()
        self.updates = 0
        self.learner = Learner(
            reward.backbone if reward.potential is None else reward.learned,
            torch.optim.AdamW(self._groups(), weight_decay=settings.weight_decay, betas=(0.9, settings.beta2)),
            grad_norm=settings.grad_norm,
            rows_per_pass=settings.traces_per_pass,
            shardable=reward.potential is None and settings.objective is not Objective.WGAN_GP,
            adapted=is_adapted(reward.backbone),
        )

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """What moves the discriminator's weights."""
        return self.learner.optimiser

    def _groups(self) -> list[dict[str, object]]:
        new = ("backbone.score.", "backbone.classifier.", "potential.")
        head = {n: p for n, p in self.reward.learned.named_parameters() if n.startswith(new)}
        for name, parameter in head.items():
            if name.endswith(".bias"):
                # Where only differences count, its gradient is rounding noise, which Adam would scale to full steps.
                parameter.requires_grad_(not self.settings.objective.within_questions)
        new_layer = {id(p) for p in head.values()}
        trained = [p for p in self.reward.learned.parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for p in trained if id(p) not in new_layer],
                "lr": self.settings.learning_rate_of(self.reward.head),
            },
            {"params": [p for p in trained if id(p) in new_layer], "lr": self.settings.head_learning_rate},
        ]
        return [group for group in groups if group["params"]]

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Trained weights, optimiser, random states and memory; what is frozen comes with the reward."""
        return {
            "learner": self.learner.state_dict(),
            "rng": self.rng.getstate(),
            "dropout": self._dropout.getstate(),
            "updates": self.updates,
            "form": self.form.state_dict(),
            "replay": [
                (r.problem_id, r.prompt_ids, r.completion_ids, r.text, str(r.stop), r.ref_logprobs) for r in self.replay
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.learner.load_state_dict(state["learner"])
        self.rng.setstate(state["rng"])
        self._dropout.setstate(state["dropout"])
        self.updates = state["updates"]
        self.form.load_state_dict(state["form"])
        self.replay = [
            Rollout(key, asked, ids, text, StopReason(stop), ref_logprobs)
            for key, asked, ids, text, stop, ref_logprobs in state["replay"]
        ]

    # ---- batches -------------------------------------------------------------------------------------------------

    def positives(self, demonstrations: Sequence[Demonstration]) -> list[Example]:
        """Expert traces, label 1."""
        return [Example(self._encode(d.problem, d.trace), 1) for d in demonstrations]

    def _encode(self, problem: Problem, trace: Trace) -> EncodedTrace:
        if self.crossing is not None:
            return self.crossing.expert(problem, trace, self.max_new_tokens)
        return encode(problem, trace, self.reward.style, self.reward.tokenizer, limit=self.max_new_tokens)

    def corruptions(self, demonstrations: Sequence[Demonstration], rng: random.Random) -> list[Example]:
        """Seeded wrong edits of expert traces, through the same encoding; those whose wrong step is cut off are left
        out."""
        found = []
        share = self.settings.corruptions
        wanted = int(share) + (rng.random() < share - int(share))
        for item in demonstrations:
            for _ in range(wanted):
                edit = corrupt(item.problem, item.trace, rng, kinds=self.settings.corruption_kinds)
                if edit is not None:
                    trace = self._encode(item.problem, edit.trace)
                    if self._reaches(trace, edit):
                        found.append(Example(trace, 0, edit.first_error))
        return found

    def _reaches(self, cut: EncodedTrace, edit: Corrupted) -> bool:
        """Whether the whole wrong step is inside the cut."""
        uncut = self.max_new_tokens is None or len(cut.completion_ids) < self.max_new_tokens
        if uncut and self.crossing is None:
            return True
        text = completion_text(edit.trace, self.reward.style)
        if self.crossing is not None:  # which leaves out what spells the reward's end
            text = text.replace(self.reward.tokenizer.eos_token, "")
        whole = encode_completion(text, self.reward.tokenizer)
        ends = self.reward.segmenter.unit_ends(whole, STEPS)
        return ends[min(edit.first_error, len(ends) - 1)] < len(cut.completion_ids)

    def rollouts(self, rollouts: Sequence[Rollout]) -> list[Example]:
        """Policy traces with the label that `label_source` gives them; their token ids are used as sampled."""
        found = []
        for rollout in rollouts:
            trace = as_sampled(rollout)
            source, agrees = self.settings.label_source, False
            if source.uses_final_answers:
                given = stated_answer(rollout.text, self.reward.style)
                asked = self.problems.get(rollout.problem_id)
                agrees = asked is not None and grade_answer(given, asked) is Grade.CORRECT
            if not agrees:
                found.append(Example(trace, 0))
            elif source is LabelSource.AGREEMENT_PROMOTE:
                found.append(Example(trace, 1))
        return found

    def usable(self, rollouts: Sequence[Rollout], experts: Sequence[Demonstration]) -> list[Rollout]:
        """Those that an update on these experts can use: within questions, a rollout of another one is in no pair."""
        if not self.settings.objective.within_questions:
            return list(rollouts)
        asked = {d.problem.id for d in experts}
        return [r for r in rollouts if r.problem_id in asked]

    def _draw(self, fresh: Sequence[Rollout], experts: Sequence[Demonstration]) -> list[Rollout]:
        """New ones as many as their share, the others from the memory; only where both are too few, again."""
        count, fresh, replay = self.settings.rollouts, self.usable(fresh, experts), self.usable(self.replay, experts)
        self.rng.shuffle(fresh)
        new = min(len(fresh), self.fresh_per_update)
        drawn = self.rng.sample(replay, min(len(replay), count - new))
        drawn += fresh[: count - len(drawn)]
        return drawn + (self.rng.choices(drawn, k=count - len(drawn)) if drawn else [])

    @property
    def fresh_per_update(self) -> int:
        """How many of an update's rollouts are fresh, once there is a memory to draw the others from."""
        return self.settings.rollouts - round(self.settings.replay_share * self.settings.rollouts)

    def remember(self, rollouts: Sequence[Rollout]) -> None:
        """Add rollouts to the memory; past its size random old ones leave."""
        self.replay.extend(rollouts)
        while len(self.replay) > self.settings.replay:
            self.replay[self.rng.randrange(len(self.replay))] = self.replay[-1]
            self.replay.pop()

    # ---- learning ------------------------------------------------------------------------------------------------

    def _tables(self, examples: Sequence[Example]) -> Tables:
        """Of every unit, (B, U) each: its logit, 1 where its label is known, 1 where it is there."""
        batch = self.reward.batch([e.trace for e in examples])
        there = batch.unit_mask.float()
        known = there
        if any(e.wrong_step is not None for e in examples):
            known = there * self._wrong_units(examples, batch.unit)
        return self.discriminator.logits(batch), known, there

    def _loss(self, examples: Sequence[Example], tables: Tables, smoothing: float) -> Tensor:
        device = tables[0].device
        labels, questions = _labels(examples).to(device), _questions(examples).to(device)
        return self.discriminator.loss(tables, labels, questions, smoothing=smoothing)

    def _wrong_units(self, examples: Sequence[Example], unit_BT: Tensor) -> Tensor:  # noqa: N803
        """(B, U) 1 where a unit's label is known: for a corruption, the units that its wrong step touches."""
        units = int(unit_BT.max()) + 1
        known = torch.ones(len(examples), units)
        for row, example in enumerate(examples):
            if example.wrong_step is None:
                continue
            ids = example.trace.completion_ids
            ends = self.reward.segmenter.unit_ends(ids, STEPS)
            step = min(example.wrong_step, len(ends) - 1)
            start = ends[step - 1] + 1 if step else 0
            offset = len(example.trace.prompt_ids)
            touched = unit_BT[row, offset + start : offset + ends[step] + 1]
            known[row] = 0
            known[row, touched.cpu()] = 1
        return known.to(unit_BT.device)

    def experts(self) -> list[Demonstration]:
        """Those of the next update."""
        return self.rng.choices(self.expert, k=self.settings.positives)

    def batch(self, fresh: Sequence[Rollout], experts: Sequence[Demonstration] | None = None) -> list[Example]:
        """Experts, corruptions of them, and rollouts, fresh and replayed."""
        experts = self.experts() if experts is None else experts
        examples = (
            self.positives(experts) + self.corruptions(experts, self.rng) + self.rollouts(self._draw(fresh, experts))
        )
        self.form.see([e.trace for e in examples], [e.label for e in examples], self.reward.tokenizer)
        return examples

    @torch.no_grad()
    def look(self, fresh: Sequence[Rollout], experts: Sequence[Demonstration] | None = None) -> dict[str, float]:
        """What `update` says of a batch, without the update."""
        examples = self.batch(fresh, experts)
        self.reward.eval()
        tables = self._look(examples)
        return self._figures(examples, tables, self._loss(examples, tables, self.settings.smoothing).item())

    def update(self, fresh: Sequence[Rollout], experts: Sequence[Demonstration] | None = None) -> dict[str, float]:
        """One optimiser step on a batch of `experts` (left out: drawn); its figures are those before the step."""
        examples = self.batch(fresh, experts)
        lines = self.discriminator.lines([e.trace for e in examples], [e.label for e in examples], self.rng)
        self.reward.train()
        seed, device = self._dropout.getrandbits(32), self.reward.device

        def forward(rows: list[int]) -> Tables:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed + rows[0])  # a part that goes forward twice drops the same units twice
                logits, *known = self._tables([examples[row] for row in rows])
                slopes = [self.discriminator.slopes([lines.get(row) for row in rows])] if lines else []
                return logits, *slopes, *known

        smoothing = self.settings.smoothing
        done = self.learner.step(
            _lengths(examples), forward, lambda tables: self._loss(examples, tables, smoothing), learned=1 + bool(lines)
        )
        self.reward.eval()
        self.updates += 1
        slope = {"slope": taken(done.tables[1]).mean().item()} if lines else {}
        return self._figures(examples, done.tables, done.loss) | {"grad_norm": done.grad_norm, **slope}

    def _look(self, examples: Sequence[Example]) -> Tables:
        return self.learner.look(_lengths(examples), lambda rows: self._tables([examples[row] for row in rows]))

    def _figures(self, examples: Sequence[Example], tables: Tables, loss: float) -> dict[str, float]:
        device = tables[0].device
        logits, labels, questions = trace_logits(tables), _labels(examples).to(device), _questions(examples).to(device)
        form = self.form.auroc()
        return {
            "loss": loss,
            "accuracy": self.discriminator.accuracy(tables, labels, questions),
            "logit_expert": logits[labels == 1].mean().item(),
            "logit_rollout": logits[labels == 0].mean().item(),
            **({} if form is None else {"form_auroc": form}),
        }

    @torch.no_grad()
    def discrimination(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Loss (no smoothing, no penalty) and AUROC of trace logits on `examples`, in evaluation mode; where a logit
        only compares traces of one question, AUROC within questions: the share of pairs in order."""
        self.reward.eval()
        tables = self._look(examples)
        loss = self._loss(examples, tables, 0.0)
        labels, questions = _labels(examples).to(tables[0].device), _questions(examples).to(tables[0].device)
        if self.settings.objective.within_questions:
            return loss.item(), self.discriminator.accuracy(tables, labels, questions)
        return loss.item(), float(roc_auc_score(labels.cpu(), trace_logits(tables).cpu()))


def _labels(examples: Sequence[Example]) -> Tensor:
    """(B,) 1 for experts."""
    return torch.tensor([e.label for e in examples])


def _lengths(examples: Sequence[Example]) -> list[int]:
    """(B,) tokens of each row."""
    return [len(e.trace.prompt_ids) + len(e.trace.completion_ids) for e in examples]


def _questions(examples: Sequence[Example]) -> Tensor:
    """(B,) an integer per example, equal where the question is."""
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(e.trace.key, len(seen)) for e in examples])
