"""RewardModel: readouts against slow loops, and what they must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, Format, completion_text, encode
from traceward.data.segmentation import Segmenter
from traceward.errors import DataError
from traceward.records import Demonstration, Granularity, Head, Problem, Rollout, ScoredTrace, Trace, UnitSpec
from traceward.rewards.model import RewardModel, new_reward

SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)
SPECS = [SPARSE, STEPS, UnitSpec(every=7), DENSE]
BOTH = [Head.LOG_RATIO, Head.SCALAR]
MakeReward = Callable[..., RewardModel]
MakePolicy = Callable[..., PreTrainedModel]


def assert_same(left: list[ScoredTrace], right: list[ScoredTrace], tolerance: float = 1e-5) -> None:
    """Equal within `tolerance`, relative where a sum of log-probabilities is large."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.exported == pytest.approx(other.exported, abs=tolerance, rel=1e-6)
        assert one.unit_logits == pytest.approx(other.unit_logits, abs=tolerance, rel=1e-6)


def slow_logprobs(model: PreTrainedModel, trace: EncodedTrace) -> list[float]:
    """log p of each completion token, a forward pass per token, without padding or mask."""
    ids, found = [*trace.prompt_ids, *trace.completion_ids], []
    for place in range(len(trace.prompt_ids), len(ids)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].double()
        found.append(logits.log_softmax(-1)[ids[place]].item())
    return found


def slow_units(values: list[float], ends: list[int]) -> list[float]:
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [sum(values[start : end + 1]) for start, end in zip(starts, ends, strict=True)]


# ---- what a score must not depend on ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "spec"), list(product(BOTH, SPECS)))
def test_scores_do_not_depend_on_the_batch(
    make_reward: MakeReward, traces: list[EncodedTrace], head: Head, spec: UnitSpec
) -> None:
    reward = make_reward(head, spec)
    alone = [reward.score_encoded([trace], spec=spec)[0] for trace in traces]
    assert len({round(item.exported, 6) for item in alone}) == len(alone)
    assert_same(reward.score_encoded(traces, spec=spec), alone)
    assert_same(reward.score_encoded(traces[::-1], spec=spec)[::-1], alone)
    assert_same(reward.score_encoded([*traces, *traces], spec=spec)[: len(traces)], alone)


def test_scores_do_not_depend_on_a_neighbours_prompt(make_reward: MakeReward, traces: list[EncodedTrace]) -> None:
    # Fault 1: a long prompt beside it, or padding, moves nothing.
    reward, trace = make_reward(Head.SCALAR), traces[0]
    neighbours = [EncodedTrace((5,) * length, (6, 7)) for length in (1, 40, 200)]
    alone = reward.score_encoded([trace])
    for neighbour in neighbours:
        assert_same(reward.score_encoded([neighbour, trace])[1:], alone)


def test_scores_do_not_depend_on_how_the_batches_are_cut(
    make_reward: MakeReward, traces: list[EncodedTrace], monkeypatch: pytest.MonkeyPatch
) -> None:
    from traceward.rewards import scoring

    reward = make_reward(Head.LOG_RATIO)
    together = reward.score_encoded(traces)
    monkeypatch.setattr(scoring, "by_length", lambda rows: ([row] for row in reversed(range(len(rows)))))
    assert_same(reward.score_encoded(traces), together)


@pytest.mark.parametrize("head", BOTH)
def test_the_exported_reward_does_not_depend_on_the_units_read(
    make_reward: MakeReward, traces: list[EncodedTrace], head: Head
) -> None:
    reward = make_reward(head, STEPS)
    readings = [reward.score_encoded(traces, spec=spec) for spec in SPECS]
    for reading in readings[1:]:
        assert [s.exported for s in reading] == pytest.approx([s.exported for s in readings[0]], rel=1e-6, abs=1e-6)
    assert [len(reading[0].unit_logits) for reading in (readings[0], readings[3])] == [
        1,
        len(traces[0].completion_ids),
    ]


@pytest.mark.parametrize("head", BOTH)
def test_every_granularity_comes_from_one_pass(make_reward: MakeReward, traces: list[EncodedTrace], head: Head) -> None:
    reward = make_reward(head, STEPS)
    apart = [reward.score_encoded(traces, spec=spec) for spec in SPECS]
    passes = []
    reward.backbone.register_forward_pre_hook(lambda _m, _a, o: passes.append(o["input_ids"].shape), with_kwargs=True)
    assert list(zip(*reward.score_units(traces, SPECS), strict=True)) == [tuple(one) for one in apart]
    assert len(passes) == 1
    assert passes[0][1] < sum(len(t.prompt_ids) + len(t.completion_ids) for t in traces)  # two prompts are shared


@pytest.mark.parametrize("head", BOTH)
def test_the_exported_reward_alone_needs_no_reference(
    make_reward: MakeReward, traces: list[EncodedTrace], head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = make_reward(head)
    full = reward.score_encoded(traces)
    if reward.reference is not None:
        monkeypatch.setattr(reward.reference, "forward", None)
    assert reward.score_encoded(traces, spec=None) == [ScoredTrace(s.exported) for s in full]


@pytest.mark.parametrize("head", BOTH)
def test_text_and_ids_of_a_trace_score_alike(
    make_reward: MakeReward, demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase, head: Head
) -> None:
    # Fault 3: an expert's text, and a rollout whose ids are that text and one end-of-sequence.
    reward, item = make_reward(head), demonstrations[0]
    prompt = tokenizer(f"{item.problem.question}\n")["input_ids"]
    completion = [*tokenizer(completion_text(item.trace, Format.PLAIN))["input_ids"], tokenizer.eos_token_id]
    rollout = Rollout(item.problem.id, tuple(prompt), tuple(completion), "")
    as_rollout = EncodedTrace(rollout.prompt_ids, rollout.completion_ids, rollout.problem_id)
    assert encode(item.problem, item.trace, Format.PLAIN, tokenizer) == as_rollout
    assert reward.score([(item.problem, item.trace)]) == reward.score_encoded([as_rollout])


def test_text_scores_have_a_logit_per_step_and_one_for_the_answer(
    make_reward: MakeReward, demonstrations: list[Demonstration]
) -> None:
    found = make_reward().score([(d.problem, d.trace) for d in demonstrations])
    assert [len(s.unit_logits) for s in found] == [len(d.trace.steps) + 1 for d in demonstrations]


# ---- log-ratio head --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_a_new_log_ratio_is_exactly_zero(make_reward: MakeReward, traces: list[EncodedTrace], spec: UnitSpec) -> None:
    for scored in make_reward(Head.LOG_RATIO, moved=False).score_encoded(traces, spec=spec):
        assert set(scored.unit_logits) == {0.0}
        assert scored.exported < 0


@pytest.mark.parametrize(
    ("family", "spec_and_share"),
    [("Llama", (STEPS, 0.0)), ("Qwen2", (UnitSpec(every=7), 0.75)), ("Qwen3", (DENSE, 0.5))],
)
def test_log_ratio_is_a_difference_of_log_probabilities(
    make_reward: MakeReward,
    traces: list[EncodedTrace],
    tokenizer: PreTrainedTokenizerBase,
    family: str,
    spec_and_share: tuple[UnitSpec, float],
) -> None:
    spec, share = spec_and_share
    reward = make_reward(Head.LOG_RATIO, family=family, beta=0.5)
    reward.reference_share = share
    assert reward.reference is not None
    some = [traces[0], *traces[-2:]]
    for trace, scored in zip(some, reward.score_encoded(some, spec=spec), strict=True):
        own, ref = slow_logprobs(reward.backbone, trace), slow_logprobs(reward.reference, trace)
        ends = Segmenter(tokenizer).unit_ends(trace.completion_ids, spec)
        ratio = [0.5 * (p - q) for p, q in zip(own, ref, strict=True)]
        assert scored.unit_logits == pytest.approx(slow_units(ratio, ends), abs=2e-5)
        starts = [0, *(end + 1 for end in ends[:-1])]
        exported = [p - share * q for p, q in zip(own, ref, strict=True)]
        for values, found in ((ratio, scored.unit_lows), (exported, scored.exported_lows)):
            lows = [min(values[start : end + 1]) for start, end in zip(starts, ends, strict=True)]
            assert found == pytest.approx(lows, abs=2e-5)
        assert scored.exported == pytest.approx(sum(exported), rel=1e-6)


def test_unit_logits_of_every_granularity_sum_to_the_traces(
    make_reward: MakeReward, traces: list[EncodedTrace]
) -> None:
    reward = make_reward(Head.LOG_RATIO)
    whole = [s.unit_logits[0] for s in reward.score_encoded(traces, spec=SPARSE)]
    assert max(map(abs, whole)) > 0.1
    for spec in SPECS[1:]:
        assert [sum(s.unit_logits) for s in reward.score_encoded(traces, spec=spec)] == pytest.approx(whole, abs=2e-5)


def test_the_exported_log_ratio_holds_the_stated_share_of_the_reference(
    make_reward: MakeReward, traces: list[EncodedTrace], tokenizer: PreTrainedTokenizerBase
) -> None:
    reward = make_reward(Head.LOG_RATIO, beta=0.5)
    for share in (0.75, 1.0):
        shared = RewardModel(
            backbone=reward.backbone,
            reference=reward.reference,
            tokenizer=tokenizer,
            head=reward.head,
            spec=reward.spec,
            beta=0.5,
            reference_share=share,
        )
        for trace, scored, alone in zip(
            traces, shared.score_encoded(traces), shared.score_encoded(traces, spec=None), strict=True
        ):
            assert reward.reference is not None
            own, ref = slow_logprobs(reward.backbone, trace), slow_logprobs(reward.reference, trace)
            assert scored.exported == pytest.approx(sum(own) - share * sum(ref), rel=1e-4)
            assert alone == ScoredTrace(scored.exported)


def test_with_no_share_the_exported_log_ratio_holds_no_reference(
    make_reward: MakeReward, make_policy: MakePolicy, traces: list[EncodedTrace], tokenizer: PreTrainedTokenizerBase
) -> None:
    reward = make_reward(Head.LOG_RATIO)
    other = RewardModel(
        backbone=reward.backbone, reference=make_policy(seed=9), tokenizer=tokenizer, head=reward.head, spec=reward.spec
    )
    left, right = reward.score_encoded(traces), other.score_encoded(traces)
    assert [s.exported for s in left] == [s.exported for s in right]
    assert all(a.unit_logits != b.unit_logits for a, b in zip(left, right, strict=True))


def test_unit_logits_of_training_and_of_scoring_are_the_same(
    make_reward: MakeReward, traces: list[EncodedTrace]
) -> None:
    # The loss and every use of the reward read the same positions.
    for head, spec in product(BOTH, SPECS):
        reward = make_reward(head, spec)
        batch = reward.batch(traces)
        with torch.no_grad():
            trained = reward.unit_logits(batch)
        assert trained[~batch.unit_mask].abs().sum() == 0
        counts = batch.unit_mask.sum(1).tolist()
        for row, scored in enumerate(reward.score_encoded(traces, spec=spec)):
            assert scored.unit_logits == pytest.approx(trained[row, : counts[row]].tolist(), abs=1e-5)


# ---- scalar head -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "spec"), [("Llama", STEPS), ("Qwen2", SPARSE), ("Qwen3", UnitSpec(every=7))])
def test_scalar_logits_are_the_values_at_unit_ends(
    make_reward: MakeReward,
    traces: list[EncodedTrace],
    tokenizer: PreTrainedTokenizerBase,
    family: str,
    spec: UnitSpec,
) -> None:
    reward = make_reward(Head.SCALAR, spec, family=family)
    for trace, scored in zip(traces, reward.score_encoded(traces, spec=STEPS), strict=True):
        ids, start = [*trace.prompt_ids, *trace.completion_ids], len(trace.prompt_ids)

        def value(end: int, ids: list[int] = ids, start: int = start) -> float:
            with torch.no_grad():  # the token is the last one: nothing behind it can leak in
                return reward.backbone(input_ids=torch.tensor([ids[: start + end + 1]])).logits[0, -1, 0].item()

        segmenter = Segmenter(tokenizer)
        read = [value(end) for end in segmenter.unit_ends(trace.completion_ids, STEPS)]
        trained = [value(end) for end in segmenter.unit_ends(trace.completion_ids, spec)]
        assert scored.unit_logits == pytest.approx(read, abs=1e-5)
        assert scored.exported == pytest.approx(sum(trained) / len(trained), abs=1e-5)


def test_a_new_scalar_head_keeps_the_policys_body_and_its_seed(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase
) -> None:
    policy = make_policy()
    before = torch.get_rng_state()
    one, same, other = (
        new_reward(policy, tokenizer, head=Head.SCALAR, spec=STEPS, style=Format.PLAIN, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in policy.base_model.state_dict().items():
        assert torch.equal(one.backbone.base_model.state_dict()[name], weight)
    heads = [r.backbone.score.weight for r in (one, same, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_new_reward_is_a_copy_of_the_policy(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace]
) -> None:
    for head in BOTH:
        policy = make_policy()
        reward = new_reward(policy, tokenizer, head=head, spec=STEPS, style=Format.PLAIN)
        before = reward.score_encoded(traces)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.zero_()
        assert reward.score_encoded(traces) == before


# ---- modes and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", BOTH)
def test_dropout_is_off_while_scoring(make_reward: MakeReward, traces: list[EncodedTrace], head: Head) -> None:
    # Fault 11. The control shows that the dropout of this model would be seen.
    reward = make_reward(head, dropout=0.5)
    reward.train()
    batch = reward.batch(traces)
    with torch.no_grad():
        assert not torch.equal(reward.unit_logits(batch), reward.unit_logits(batch))
    assert reward.score_encoded(traces) == reward.score_encoded(traces)
    assert reward.training
    assert reward.backbone.training
    assert reward.reference is None or not reward.reference.training
    reward.eval()
    reward.score_encoded(traces)
    assert not reward.training


def test_scoring_takes_no_gradient_and_the_reference_has_none(
    make_reward: MakeReward, traces: list[EncodedTrace]
) -> None:
    reward = make_reward(Head.LOG_RATIO)
    assert reward.reference is not None
    assert not any(p.requires_grad for p in reward.reference.parameters())
    reward.unit_logits(reward.batch(traces)).sum().backward()
    assert all(p.grad is not None for p in reward.backbone.parameters())
    assert all(p.grad is None for p in reward.reference.parameters())


def test_no_traces_give_no_scores(make_reward: MakeReward) -> None:
    assert make_reward().score_encoded([]) == []


def test_a_trace_longer_than_the_context_is_named(make_reward: MakeReward) -> None:
    reward = make_reward()
    with pytest.raises(DataError, match=r"context of 256 tokens: got 257 for 'q9'"):
        reward.score_encoded([EncodedTrace((5,) * 250, (6,) * 7, "q9")])
    long = Trace((" ".join(["word"] * 300),), "1")
    with pytest.raises(DataError, match="'long'"):
        reward.score([(Problem("long", "How many?"), long)])


@pytest.mark.parametrize("head", BOTH)
def test_a_reference_belongs_to_log_ratio_and_only_to_it(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, head: Head
) -> None:
    reference = None if head is Head.LOG_RATIO else make_policy()
    with pytest.raises(ValueError, match="reference"):
        RewardModel(backbone=make_policy(), reference=reference, tokenizer=tokenizer, head=head, spec=STEPS)
