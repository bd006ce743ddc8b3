"""The standing control: what can be told from a trace's form alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, encode_completion
from traceward.records import Demonstration, Rollout, StopReason
from traceward.training.critic import Critic
from traceward.training.form import FormControl, form_of, held_out_scores

MakeCritic = Callable[..., Critic]


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("So it is 4.\nAnswer: 4", True, (1, 1, 0)),
        ("So it is 4.\n", True, (1, 0, 1)),
        ("So it is 4.", False, (0, 0, 0)),
        ("<think>So.</think>\n<answer>4</answer>", True, (1, 4, 0)),
        ("<think>So.\n", False, (0, 1, 1)),
    ],
)
def test_form_is_length_ending_tags_and_a_last_line_break(
    tokenizer: PreTrainedTokenizerBase, text: str, *, finished: bool, expected: tuple[int, int, int]
) -> None:
    ids = encode_completion(text, tokenizer, finished=finished)
    assert form_of(EncodedTrace((5,), ids), tokenizer) == (len(ids), *expected)


def test_scores_are_those_of_fits_that_saw_no_trace_of_the_question() -> None:
    # The label of a question is in its feature, and in nothing else: only a fit on the question itself could know it.
    draw = random.Random(0)
    values = [[draw.gauss(0, 1)] for _ in range(40)]
    labels = [draw.random() < 0.5 for _ in range(40)]
    features = [value for value in values for _ in range(6)]
    many = [label for label in labels for _ in range(6)]
    scores = held_out_scores(features, many, [str(at // 6) for at in range(240)])
    assert scores is not None
    assert roc_auc_score(many, scores) < 0.6


def test_a_feature_that_tells_is_found_whatever_its_scale() -> None:
    draw = random.Random(1)
    labels = [at % 2 == 0 for at in range(100)]
    features = np.array([[1e6 * (label + draw.gauss(0, 0.1)), 3.0] for label in labels])
    scores = held_out_scores(features, labels, [str(at // 4) for at in range(100)])
    assert scores is not None
    assert roc_auc_score(labels, scores) > 0.99


@pytest.mark.parametrize("questions", [["a"] * 4, ["a", "a", "b", "c"]])
def test_too_few_questions_of_a_class_say_nothing(questions: list[str]) -> None:
    assert held_out_scores([[1.0], [2.0], [3.0], [4.0]], [True, True, False, False], questions) is None


def test_the_control_knows_the_last_traces_only(tokenizer: PreTrainedTokenizerBase) -> None:
    control = FormControl()
    assert control.auroc() is None
    short, long = EncodedTrace((5,), (6,) * 3), EncodedTrace((5,), (6,) * 30)
    for count in range(300):  # experts are the long ones, then, in the last 512 traces, the short ones
        pair = [replace(long, key=f"q{count}"), replace(short, key=f"q{count}")]
        control.see(pair, [1, 0] if count < 44 else [0, 1], tokenizer)
        if count == 43:
            assert control.auroc() == 1.0
    assert control.auroc() == 1.0
    again = FormControl()
    again.load_state_dict(control.state_dict())
    assert again.auroc() == control.auroc()
    assert again.state_dict() == control.state_dict()
    mixed = FormControl()
    for count in range(100):
        pair = [replace(long, key=f"q{count}"), replace(short, key=f"q{count}")]
        mixed.see(pair, [count % 2, 1 - count % 2], tokenizer)
    assert mixed.auroc() == pytest.approx(0.5, abs=0.1)


def unfinished(rollouts: list[Rollout]) -> list[Rollout]:
    return [replace(r, completion_ids=r.completion_ids[:-1], stop=StopReason.LENGTH) for r in rollouts]


@pytest.mark.parametrize("cut", [True, False])
def test_a_critics_batches_are_controlled(
    make_critic: MakeCritic, demonstrations: list[Demonstration], as_rollout: Callable[..., Rollout], *, cut: bool
) -> None:
    # Rollouts with the experts' own texts differ in nothing; without their end-of-sequence, in that alone.
    same = [as_rollout(d, d.trace) for d in demonstrations]
    critic = make_critic(corruptions=0.0, positives=16, rollouts=16, held_out=0.0)
    rows = [critic.update(unfinished(same) if cut else same) for _ in range(4)]
    assert (rows[-1]["form_auroc"] > 0.99) if cut else (rows[-1]["form_auroc"] < 0.6)
