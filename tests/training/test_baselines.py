"""Supervised fine-tuning and outcome RL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from traceward.data.formats import EncodedTrace, Format, encode, encode_completion
from traceward.records import Demonstration, Problem
from traceward.training.baselines import outcome_rl, supervised_fine_tune
from traceward.training.settings import AdversarialConfig, SFTSettings

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
MakePolicy = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def traces(demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase) -> list[EncodedTrace]:
    return [encode(d.problem, d.trace, Format.PLAIN, tokenizer) for d in demonstrations[:4]]


class Batches(TrainerCallback):  # type: ignore[misc]
    """Keeps the batches that the trainer would see."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def on_train_begin(self, *_: Any, train_dataloader: Any = None, **__: Any) -> None:
        self.batches = list(train_dataloader)


def loss_by_hand(model: PreTrainedModel, traces: list[EncodedTrace]) -> float:
    """Mean negative log-probability of completion tokens, one trace at a time without padding."""
    total, count = 0.0, 0
    for trace in traces:
        ids, start = [*trace.prompt_ids, *trace.completion_ids], len(trace.prompt_ids)
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(logprobs[place - 1, ids[place]].item() for place in range(start, len(ids)))
        count += len(ids) - start
    return total / count


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traces: list[EncodedTrace],
    directory: Path,
    *,
    callbacks: tuple[TrainerCallback, ...] = (),
    seed: int = 0,
    **settings: float,
) -> list[dict[str, float]]:
    chosen = SFTSettings.model_validate({"steps": 1, "batch": 4, "warmup": 0.0, "learning_rate": 5e-3, **settings})
    return supervised_fine_tune(model, tokenizer, traces, chosen, directory, seed=seed, callbacks=callbacks)


def test_the_loss_is_of_completion_tokens_only(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    model = make_policy(spread=0.2)
    by_hand = loss_by_hand(model, traces)
    whole = loss_by_hand(
        model, [EncodedTrace(t.prompt_ids[:1], (*t.prompt_ids[1:], *t.completion_ids)) for t in traces]
    )
    assert abs(by_hand - whole) > 0.02  # the control: with the prompt it would be another number
    (row,) = tune(model, tokenizer, traces, tmp_path)
    assert row["loss"] == pytest.approx(by_hand, abs=1e-3)


def test_parts_of_a_batch_give_the_step_of_the_whole(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    start, whole, parts = make_policy(spread=0.2), make_policy(spread=0.2), make_policy(spread=0.2)
    (at_once,) = tune(whole, tokenizer, traces, tmp_path / "whole")
    (in_parts,) = tune(parts, tokenizer, traces, tmp_path / "parts", traces_per_backward=1)
    assert in_parts["loss"] == pytest.approx(at_once["loss"], abs=1e-5)
    assert in_parts["grad_norm"] == pytest.approx(at_once["grad_norm"], rel=1e-4)
    moved = [(before - after).abs().max() for before, after in zip(start.parameters(), parts.parameters(), strict=True)]
    assert min(moved) > 1e-4
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_labels_are_the_completion_ids_with_their_end(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    seen = Batches()
    tune(make_policy(), tokenizer, traces, tmp_path, callbacks=(seen,))
    (batch,) = seen.batches
    found = {tuple(labels[labels != -100].tolist()) for labels in batch["labels"]}
    assert found == {trace.completion_ids for trace in traces}
    whole = {
        tuple(ids[mask.bool()].tolist()) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    }
    assert whole == {trace.prompt_ids + trace.completion_ids for trace in traces}


def test_fine_tuning_learns_and_leaves_evaluation_mode(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    model = make_policy()
    before = loss_by_hand(model, traces)
    rows = tune(model, tokenizer, traces, tmp_path, steps=15, learning_rate=2e-2)
    assert [row["step"] for row in rows] == list(range(1, 16))
    assert rows[-1]["loss"] < before / 2
    assert loss_by_hand(model, traces) < before / 2
    assert not model.training


def test_fine_tuning_is_seeded(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    losses = [
        [r["loss"] for r in tune(make_policy(), tokenizer, traces, tmp_path / str(i), steps=3, batch=2, seed=seed)]
        for i, seed in enumerate((1, 1, 2))
    ]
    assert losses[0] == losses[1] != losses[2]


class FakeGRPO:
    """Takes what outcome_rl hands to TRL."""

    made: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        FakeGRPO.made = options

    def remove_callback(self, _: object) -> None: ...

    def add_callback(self, _: object) -> None: ...

    def log(self, _: object) -> None: ...

    def train(self) -> None: ...


def test_only_right_answers_are_rewarded(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import traceward.training.adversarial  # noqa: F401 - whose trainer is made from the real one

    monkeypatch.setattr("trl.GRPOTrainer", FakeGRPO)
    questions = [Problem("a", "What is 5 + 7?", "12"), Problem("b", "What is 1 + 1?", "2"), Problem("c", "Why?")]
    questions.append(Problem("d", "What is high?\nA) pulse\nB) fever", "B"))
    config = AdversarialConfig(steps=1, questions_per_step=2, group=2, max_new_tokens=5)
    outcome_rl(make_policy(), tokenizer, questions, config, tmp_path, style=Format.PLAIN, seed=0)
    assert set(FakeGRPO.made["train_dataset"].column_names) == {"prompt", "problem_id"}
    texts = {
        "5 + 7 = 12.\nAnswer: 12": ("a", 1.0),
        "Answer: 12.0": ("a", 1.0),
        "5 + 7 = 12.\nAnswer: 2": ("a", 0.0),
        "5 + 7 = 12.": ("a", 0.0),
        "Answer: 12\nOr not.": ("a", 1.0),  # stated in a line of its own, as evaluation reads it too
        "The answer is 12.": ("a", 1.0),
        "Answer: 2": ("b", 1.0),
        "Answer: ": ("c", 0.0),
        "Answer: because": ("c", 0.0),
        "Answer: B) fever": ("d", 1.0),
        "Answer: fever": ("d", 1.0),
        "Answer: pulse": ("d", 0.0),
    }
    ids = [list(encode_completion(text, tokenizer)) for text in texts]
    rewards = FakeGRPO.made["reward_funcs"](
        completion_ids=ids, problem_id=[key for key, _ in texts.values()], completions=["ignored"] * len(ids)
    )
    assert rewards == [reward for _, reward in texts.values()]


def test_outcome_rl_runs(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    policy = make_policy()
    config = AdversarialConfig(steps=1, questions_per_step=2, group=2, max_new_tokens=5)
    outcome_rl(policy, tokenizer, [d.problem for d in demonstrations], config, tmp_path, style=Format.PLAIN, seed=0)
    assert not policy.training
