"""The discriminator's batches and updates."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from traceward.data.formats import EncodedTrace, Format, completion_text, parse_completion
from traceward.data.segmentation import Segmenter
from traceward.records import Demonstration, Granularity, Head, LabelSource, Problem, Rollout, Trace, UnitSpec
from traceward.rewards.model import RewardModel
from traceward.training.critic import Critic, Example

MakeReward = Callable[..., RewardModel]
MakeCritic = Callable[..., Critic]
MakeRollout = Callable[[Demonstration, Trace], Rollout]
SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)


def batches(critic: Critic, monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """Keeps every batch that the critic learns from."""
    seen: list[list[Example]] = []
    loss = critic._loss

    def keep(examples: list[Example], *others: object) -> object:
        seen.append(list(examples))
        return loss(examples, *others)

    monkeypatch.setattr(critic, "_loss", keep)
    return seen


def weights(reward: RewardModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in reward.backbone.state_dict().items()}


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (LabelSource.DEMONSTRATIONS, {"right": 0, "wrong": 0, "none": 0, "stranger": 0}),
        (LabelSource.AGREEMENT_EXCLUDE, {"wrong": 0, "none": 0, "stranger": 0}),
        (LabelSource.AGREEMENT_PROMOTE, {"right": 1, "wrong": 0, "none": 0, "stranger": 0}),
    ],
)
def test_label_sources(
    make_critic: MakeCritic,
    demonstrations: list[Demonstration],
    as_rollout: MakeRollout,
    source: LabelSource,
    labels: dict[str, int],
) -> None:
    item = demonstrations[0]
    answer = str(item.trace.answer)
    step = ("We guess.",)
    made = {
        "right": as_rollout(item, Trace(step, f"{answer}.0")),  # equal as a number, not as text
        "wrong": as_rollout(item, Trace(step, f"{answer}1")),
        "none": as_rollout(item, Trace(step)),
        "stranger": replace(as_rollout(item, Trace(step, answer)), problem_id="a question without demonstration"),
    }
    names = {(r.problem_id, r.completion_ids): name for name, r in made.items()}
    found = make_critic(label_source=source).rollouts(list(made.values()))
    assert {names[e.trace.key, e.trace.completion_ids]: e.label for e in found} == labels
    assert all(e.wrong_step is None for e in found)


def test_a_rollout_agrees_by_an_options_letter_or_its_text(
    make_critic: MakeCritic, demonstrations: list[Demonstration], as_rollout: MakeRollout
) -> None:
    asked = Problem("choice", "What is high?\nA) pulse\nB) fever", "B")
    items = [Demonstration(asked, Trace(("It is hot.",), "B")), *demonstrations]
    critic = make_critic(items=items, label_source=LabelSource.AGREEMENT_EXCLUDE)
    given = ("B) fever", "fever", "(B)", "pulse", "A")
    made = [as_rollout(items[0], Trace(("We guess.",), answer)) for answer in given]
    assert [e.trace.completion_ids for e in critic.rollouts(made)] == [r.completion_ids for r in made[3:]]


def test_experts_are_positive_and_corruptions_negative(
    make_critic: MakeCritic, demonstrations: list[Demonstration]
) -> None:
    critic = make_critic()
    assert {e.label for e in critic.positives(demonstrations)} == {1}
    corrupted = critic.corruptions(demonstrations, random.Random(0))
    assert {e.label for e in corrupted} == {0}
    assert all(e.wrong_step is not None for e in corrupted)


def test_the_same_trace_is_encoded_alike_on_both_sides(
    make_critic: MakeCritic, demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase
) -> None:
    # Fault 3: a rollout with the expert's own tokens and one end-of-sequence is the expert's trace.
    critic, item = make_critic(), demonstrations[0]
    text = completion_text(item.trace, Format.PLAIN)
    prompt = tuple(tokenizer(f"{item.problem.question}\n")["input_ids"])
    completion = (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)
    (expert,) = critic.positives([item])
    (rollout,) = critic.rollouts([Rollout(item.problem.id, prompt, completion, text)])
    assert expert.trace == rollout.trace
    corrupted = critic.corruptions([item] * 8, random.Random(0))
    assert all(e.trace.prompt_ids == expert.trace.prompt_ids for e in corrupted)
    assert all(e.trace.completion_ids.count(tokenizer.eos_token_id) == 1 for e in corrupted)
    assert all(e.trace.completion_ids[-1] == tokenizer.eos_token_id for e in corrupted)


# ---- what is in a batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (1.0, 10, 10), (2.0, 20, 20), (0.5, 0, 10)])
def test_corruptions_per_expert(
    make_critic: MakeCritic, demonstrations: list[Demonstration], share: float, least: int, most: int
) -> None:
    critic = make_critic(corruptions=share)
    counts = {len(critic.corruptions(demonstrations, random.Random(seed))) for seed in range(12)}
    assert counts == ({least, most})


def test_excluded_corruptions_never_occur(make_critic: MakeCritic, demonstrations: list[Demonstration]) -> None:
    from traceward.data.corruptions import REGISTRY

    kept = "answer-near-miss" if "answer-near-miss" in REGISTRY else next(k for k in REGISTRY if "answer" in k)
    critic = make_critic(exclude_corruptions=[kind for kind in REGISTRY if kind != kept])
    found = critic.corruptions(demonstrations, random.Random(0))
    by_key = {d.problem.id: d for d in demonstrations}
    assert found
    assert {e.wrong_step == len(by_key[e.trace.key].trace.steps) for e in found} == {True}


def test_held_out_demonstrations_are_never_learned_from(
    make_critic: MakeCritic,
    rollouts: list[Rollout],
    monkeypatch: pytest.MonkeyPatch,
    demonstrations: list[Demonstration],
) -> None:
    critic = make_critic(held_out=0.3)
    held = {d.problem.id for d in critic.held_out}
    assert len(held) == 3
    assert held | {d.problem.id for d in critic.expert} == {d.problem.id for d in demonstrations}
    assert len(critic.expert) == 7
    seen = batches(critic, monkeypatch)
    critic.remember([r for r in rollouts if r.problem_id not in held])
    for _ in range(6):
        critic.update([])
    learned = [e for batch in seen for e in batch]
    assert not held & {e.trace.key for e in learned}
    assert len({e.trace.key for e in learned if e.label == 1}) > 4


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.2, 2), (10, 0.0, 0), (10, 0.05, 2), (4, 0.5, 2), (3, 0.5, 0)]
)
def test_how_many_are_held_out(
    make_critic: MakeCritic, demonstrations: list[Demonstration], count: int, share: float, held: int
) -> None:
    critic = make_critic(items=demonstrations[:count], held_out=share)
    assert (len(critic.held_out), len(critic.expert)) == (held, count - held)


def test_the_held_out_ones_do_not_depend_on_the_order_given(
    make_critic: MakeCritic, demonstrations: list[Demonstration]
) -> None:
    assert make_critic().held_out == make_critic(items=demonstrations[::-1]).held_out
    assert any(make_critic().held_out != make_critic(seed=seed).held_out for seed in (1, 2, 3))


def test_the_memory_is_bounded(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(replay=5)
    critic.remember(rollouts[:4])
    assert critic.replay == rollouts[:4]
    critic.remember(rollouts[4:])
    assert len(critic.replay) == 5
    assert set(critic.replay) <= set(rollouts)
    assert set(critic.replay) != set(rollouts[:5])


@pytest.mark.parametrize(("share", "old"), [(0.0, 0), (0.5, 3), (0.25, 2), (1.0, 6)])
def test_the_share_of_replayed_rollouts(
    make_critic: MakeCritic, rollouts: list[Rollout], share: float, old: int
) -> None:
    critic = make_critic(replay_share=share)
    remembered, fresh = rollouts[:15], rollouts[15:]
    critic.remember(remembered)
    drawn = critic._draw(fresh, critic.expert)
    assert len(drawn) == 6
    assert sum(r in remembered for r in drawn) == old
    assert sum(r in fresh for r in drawn) == 6 - old


def test_without_fresh_rollouts_all_are_replayed_and_without_memory_all_are_fresh(
    make_critic: MakeCritic, rollouts: list[Rollout]
) -> None:
    critic = make_critic(replay_share=0.5)
    assert set(critic._draw(rollouts, critic.expert)) <= set(rollouts)
    assert len(critic._draw(rollouts, critic.expert)) == 6
    critic.remember(rollouts[:2])
    assert set(critic._draw([], critic.expert)) <= set(rollouts[:2])
    assert len(critic._draw([], critic.expert)) == 6


def test_experts_are_cut_where_rollouts_are(make_critic: MakeCritic, make_reward: MakeReward) -> None:
    whole, cut = make_critic(), make_critic()
    cut.max_new_tokens = 20
    lengths = [len(e.trace.completion_ids) for e in whole.positives(whole.expert)]
    assert [len(e.trace.completion_ids) for e in cut.positives(cut.expert)] == [min(n, 20) for n in lengths]
    assert max(lengths) > 20
    # The wrong step of a corruption is inside its cut, or the corruption is left out.
    rows, cut_rows = (critic.corruptions(critic.expert * 8, random.Random(1)) for critic in (whole, cut))
    assert 0 < len(cut_rows) < len(rows)
    kept = []
    for row in rows:
        ends = whole.reward.segmenter.unit_ends(row.trace.completion_ids, STEPS)
        if len(row.trace.completion_ids) <= 20 or ends[min(row.wrong_step or 0, len(ends) - 1)] < 20:
            kept.append((row.trace.completion_ids[:20], row.wrong_step))
    assert [(row.trace.completion_ids, row.wrong_step) for row in cut_rows] == kept


def test_a_batch_has_the_counts_of_the_settings(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(positives=5, rollouts=7, corruptions=2.0)
    seen = batches(critic, monkeypatch)
    critic.update(rollouts)
    kinds = [("expert", "rollout", "corruption")[0 if e.label else 1 + (e.wrong_step is not None)] for e in seen[0]]
    assert [kinds.count(kind) for kind in ("expert", "rollout", "corruption")] == [5, 7, 10]


# ---- which units a corruption speaks of ------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPARSE, STEPS, UnitSpec(every=4), DENSE], ids=["sparse", "step", "every-4", "dense"])
@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_corruption_is_weighted_on_its_wrong_step_only(
    make_critic: MakeCritic,
    make_reward: MakeReward,
    demonstrations: list[Demonstration],
    tokenizer: PreTrainedTokenizerBase,
    *,
    spec: UnitSpec,
    wrong: int,
) -> None:
    critic = make_critic(make_reward(spec=spec))
    expert, longer = critic.positives(demonstrations[:2])
    wrong_one = Example(longer.trace, 0, wrong)
    plain = Example(expert.trace, 0)
    _, found, _ = critic._tables([expert, wrong_one, plain])

    segmenter = Segmenter(tokenizer)
    ids = longer.trace.completion_ids
    ends, units = segmenter.unit_ends(ids, STEPS), segmenter.unit_ends(ids, spec)
    assert len(ends) == 3
    tokens = range(ends[wrong - 1] + 1 if wrong else 0, ends[wrong] + 1)
    unit_of = {token: next(u for u, end in enumerate(units) if token <= end) for token in range(len(ids))}
    expected = {unit_of[token] for token in tokens}
    assert set(found[1].nonzero().flatten().tolist()) == expected
    if spec == SPARSE:
        assert expected == {0}
    if spec == STEPS:
        assert expected == {wrong}
    if spec == DENSE:
        assert len(expected) == len(tokens) < len(ids)
    # Experts and rollouts speak of every unit they have, and of no padding.
    own = len(segmenter.unit_ends(expert.trace.completion_ids, spec))
    for row in (0, 2):
        assert found[row].tolist() == [1.0] * own + [0.0] * (found.shape[1] - own)


def test_the_registrys_wrong_steps_point_at_the_edit(
    make_critic: MakeCritic, demonstrations: list[Demonstration], tokenizer: PreTrainedTokenizerBase
) -> None:
    # The step that the weights name holds the first difference from the expert's text.
    critic, checked = make_critic(), 0
    by_key = {d.problem.id: d for d in demonstrations}
    for example in critic.corruptions(demonstrations * 3, random.Random(1)):
        text = tokenizer.decode(example.trace.completion_ids, skip_special_tokens=True)
        expert, wrong = by_key[example.trace.key].trace, parse_completion(text, Format.PLAIN)
        assert wrong != expert
        if len(wrong.steps) != len(expert.steps):
            continue  # a deleted step: its place is what follows it
        lines, other = [*expert.steps, expert.answer], [*wrong.steps, wrong.answer]
        assert example.wrong_step == next(i for i, line in enumerate(lines) if line != other[i])
        checked += 1
    assert checked > 10


# ---- updates ---------------------------------------------------------------------------------------------------------


def losses(critic: Critic, rollouts: list[Rollout], updates: int = 4) -> list[float]:
    return [critic.update(rollouts)["loss"] for _ in range(updates)]


@pytest.mark.parametrize("head", list(Head))
def test_the_same_seed_gives_the_same_losses(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], head: Head
) -> None:
    # A token classifier has dropout before its last layer: that too comes from the critic's seed.
    torch.manual_seed(1)
    first = losses(make_critic(make_reward(head), seed=3), rollouts)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert losses(make_critic(make_reward(head), seed=3), rollouts) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert losses(make_critic(make_reward(head), seed=4), rollouts) != first


def test_dropout_is_on_while_learning_and_differs_between_updates(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout]
) -> None:
    critic = make_critic(make_reward(Head.SCALAR), learning_rate=1e-12, head_learning_rate=1e-12, corruptions=0.0)
    critic.expert, one = critic.expert[:1], rollouts[:1]
    assert len(set(losses(critic, one))) == 4


@pytest.mark.parametrize("head", list(Head))
def test_an_update_changes_the_backbone_and_never_the_reference(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], head: Head
) -> None:
    reward = make_reward(head)
    before = weights(reward)
    reference = {k: v.clone() for k, v in reward.reference.state_dict().items()} if reward.reference else {}
    critic = make_critic(reward)
    critic.update(rollouts)
    assert critic.updates == 1
    changed = {name for name, weight in weights(reward).items() if not torch.equal(weight, before[name])}
    assert changed == set(before)
    if reward.reference is not None:
        after = reward.reference.state_dict()
        assert all(torch.equal(after[name], weight) for name, weight in reference.items())
    assert not reward.training


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("spec", [SPARSE, STEPS, DENSE], ids=str)
def test_a_critic_learns_to_tell_experts_from_rollouts(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], head: Head, spec: UnitSpec
) -> None:
    critic = make_critic(make_reward(head, spec), corruptions=0.0, head_learning_rate=3e-2)
    held = {d.problem.id for d in critic.held_out}
    known = [r for r in rollouts if r.problem_id not in held]
    check = critic.positives(critic.held_out) + critic.rollouts([r for r in rollouts if r.problem_id in held])
    before = critic.discrimination(check)
    rows = [critic.update(known) for _ in range(15 if head is Head.LOG_RATIO else 40)]
    loss, auroc = critic.discrimination(check)
    assert loss < before[0] / 2
    assert auroc == 1.0  # also the sign: experts are high
    assert rows[-1]["logit_expert"] > rows[-1]["logit_rollout"] + 1
    assert rows[-1]["accuracy"] == 1.0


def test_the_first_loss_of_a_log_ratio_is_log_two(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    row = make_critic().update(rollouts)
    assert row["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert (row["logit_expert"], row["logit_rollout"]) == (0.0, 0.0)


def test_a_new_last_layer_learns_at_its_own_rate(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout]
) -> None:
    reward = make_reward(Head.SCALAR)
    critic = make_critic(reward, learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.0)
    before = weights(reward)
    critic.update(rollouts)
    # The first step of Adam moves a weight by its learning rate, whatever the gradient.
    moved = {name: (weight - before[name]).abs().max().item() for name, weight in weights(reward).items()}
    for name, size in moved.items():
        assert size == pytest.approx(1e-2 if name.startswith("score.") else 1e-4, rel=0.05), name
    trained = [p for group in critic.optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in reward.backbone.parameters()}


def test_a_log_ratio_has_one_rate(make_critic: MakeCritic) -> None:
    critic = make_critic(learning_rate=1e-4, head_learning_rate=1e-2)
    assert [group["lr"] for group in critic.optimiser.param_groups] == [1e-4]


def test_a_rate_left_out_goes_by_the_head(make_critic: MakeCritic, make_reward: MakeReward) -> None:
    rates = {
        head: [group["lr"] for group in make_critic(make_reward(head), learning_rate=None).optimiser.param_groups]
        for head in Head
    }
    assert rates == {Head.LOG_RATIO: [3e-4], Head.SCALAR: [3e-3, 5e-3]}


def test_gradients_are_cut_at_their_norm(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic(grad_norm=1e-3)
    norms: list[torch.Tensor] = []
    critic.optimiser.register_step_pre_hook(
        lambda *_: norms.extend(p.grad.norm() for p in critic.reward.backbone.parameters() if p.grad is not None)
    )
    assert critic.update(rollouts)["grad_norm"] > 1e-3
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert all(p.grad is None for p in critic.reward.backbone.parameters())  # nothing stands by until the next update


def test_smoothing_reaches_the_loss(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    plain, smooth = (make_critic(smoothing=value) for value in (0.0, 0.4))
    assert losses(plain, rollouts, 6) != losses(smooth, rollouts, 6)


def test_looking_changes_nothing(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic = make_critic()
    before, state = weights(critic.reward), critic.rng.getstate()
    examples = critic.positives(critic.held_out) + critic.rollouts(rollouts)
    assert critic.discrimination(examples) == critic.discrimination(examples)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(critic.reward).items())
    assert critic.rng.getstate() == state


def test_examples_hold_the_ids_as_sampled(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    # Fault 2: never decoded and encoded again. These ids would not come back from their text.
    odd = replace(rollouts[0], completion_ids=(5, 6, 7, 5), text="something else")
    (example,) = make_critic().rollouts([odd])
    assert example.trace == EncodedTrace(odd.prompt_ids, (5, 6, 7, 5), odd.problem_id)


# ---- pairwise --------------------------------------------------------------------------------------------------------


def test_a_pairwise_batch_holds_rollouts_of_its_experts_questions_only(
    make_critic: MakeCritic, rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    critic = make_critic(objective="pairwise", positives=2, rollouts=6)
    critic.remember(rollouts)
    seen = batches(critic, monkeypatch)
    for _ in range(4):
        critic.update(rollouts)
    for examples in seen:
        asked = {e.trace.key for e in examples if e.label == 1}
        assert {e.trace.key for e in examples} == asked
        assert any(e.label == 0 and e.wrong_step is None for e in examples)


@pytest.mark.parametrize("head", list(Head))
def test_pairwise_learns_to_put_experts_above_their_rollouts(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout], head: Head
) -> None:
    critic = make_critic(make_reward(head), objective="pairwise", learning_rate=3e-3)
    check = [*critic.positives(critic.expert), *critic.rollouts(rollouts)]
    before = critic.discrimination(check)[0]
    for _ in range(30):
        row = critic.update(rollouts)
    loss, in_order = critic.discrimination(check)
    assert loss < before
    assert in_order > 0.9
    assert row["accuracy"] > 0.7


def test_where_only_differences_count_the_last_bias_stays(
    make_critic: MakeCritic, make_reward: MakeReward, rollouts: list[Rollout]
) -> None:
    # Its gradient is zero but for rounding, and Adam makes full steps of rounding.
    moved = {}
    for objective in ("gail", "pairwise"):
        reward = make_reward(Head.SCALAR)
        before = reward.backbone.score.bias.item()
        make_critic(reward, objective=objective).update(rollouts)
        moved[objective] = reward.backbone.score.bias.item() != before
    assert moved == {"gail": True, "pairwise": False}


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_what_is_trained_and_no_more(make_critic: MakeCritic) -> None:
    critic = make_critic()
    embeddings = critic.reward.backbone.get_input_embeddings().weight.requires_grad_(False)
    names = {name for name, p in critic.reward.backbone.named_parameters() if p is not embeddings}
    assert critic.state_dict()["learner"]["weights"].keys() == names


def test_a_critic_goes_on_from_its_checkpoint(make_critic: MakeCritic, rollouts: list[Rollout]) -> None:
    critic, other = make_critic(replay=20), make_critic(replay=20)
    critic.remember(rollouts)  # more than it remembers: chance decides which
    critic.update([])
    other.load_state_dict(critic.state_dict())
    assert other.replay == critic.replay
    assert len(critic.replay) == 20
    assert other.update([]) == critic.update([])
    assert other.updates == 2
