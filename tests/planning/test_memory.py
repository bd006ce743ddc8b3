"""Which part of memory each setting moves. Passes are stood in for where only what stands there is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from traceward.config import Recipe, resolve
from traceward.errors import ConfigError
from traceward.planning import memory as planning
from traceward.planning.architecture import Architecture
from traceward.planning.forward import Pass
from traceward.planning.ledger import Peak
from traceward.planning.memory import Memory
from traceward.planning.moments import Moment, Room
from traceward.planning.passes import Peaks

PARAMETERS = 265_280  # of the small Llama
WHOLE = 4 * PARAMETERS  # bytes in float32
BASE: dict[str, Any] = {
    "run": {"arms": ["adversarial"]},
    "critic": {"positives": 4, "rollouts": 8, "held_out": 0.2},
    "adversarial": {"questions_per_step": 4, "group": 4, "max_new_tokens": 24, "rollouts_per_backward": 16},
}
RANK = {"adapter": {"rank": 2}}


@pytest.fixture
def recipe_of(config_only: Callable[..., str]) -> Callable[..., Recipe]:
    model = config_only("llama")

    def make(**sections: dict[str, Any]) -> Recipe:
        policy = {"path": model, **sections.pop("policy", {})}
        return resolve(
            {name: {**BASE.get(name, {}), **sections.get(name, {})} for name in {*BASE, *sections}}
            | {"policy": policy},
            where="test",
        )

    return make


def by_name(recipe: Recipe, **room: Any) -> dict[str, Moment]:
    return {moment.name: moment for moment in Memory(recipe, Room(prompt=8, **room)).moments()}


@pytest.fixture
def nothing_passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    """Passes that hold nothing; their descriptions are kept."""
    seen: list[Pass] = []

    def stand_in(what: Pass) -> Peaks:
        seen.append(what)
        return Peaks(Peak())

    for name in ("policy_update", "reward_update", "sampling", "scoring"):
        monkeypatch.setattr(planning, name, stand_in)
    return seen


def test_whole_weights_by_hand(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    found = by_name(recipe_of())
    assert list(found) == [
        "rollouts: sampling",
        "reward: update",
        *(f"adversarial: {part}" for part in ("sampling", "reward update", "scoring", "policy update")),
    ]
    # Warm-up: what the reward was made of, p_phi, p_ref, and the best weights so far.
    assert found["reward: update"].weights == 4 * WHOLE
    # The policy, TRL's reference of the KL penalty, p_phi and p_ref.
    last = found["adversarial: policy update"]
    assert (last.weights, last.gradients, last.optimiser) == (4 * WHOLE, WHOLE, 4 * WHOLE)
    assert found["adversarial: reward update"].gradients == WHOLE
    # The roots of AdamW's second moments, all at once.
    assert found["adversarial: reward update"].activations == WHOLE
    assert found["adversarial: sampling"].gradients == 0  # neither's stand by


def test_adapters_by_hand(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    lora = 4 * 4 * 2 * (4 * (64 + 64) + 3 * (64 + 176))  # bytes: float32, four layers, rank 2, seven linear layers
    last = by_name(recipe_of(policy=RANK, reward=RANK))["adversarial: policy update"]
    assert (last.weights, last.gradients, last.optimiser) == (2 * WHOLE + 2 * lora, lora, 4 * lora)
    shared = by_name(recipe_of(policy=RANK, reward={**RANK, "shares_backbone": True}))["adversarial: policy update"]
    assert last.weights - shared.weights == WHOLE
    half = by_name(recipe_of(policy={**RANK, "dtype": "bfloat16"}, reward=RANK))["adversarial: policy update"]
    assert half.weights == WHOLE + 2 * lora
    packed = by_name(recipe_of(policy={**RANK, "load_in_4bit": True}, reward=RANK))["adversarial: policy update"]
    assert packed.weights < 0.75 * last.weights


@pytest.mark.parametrize(
    ("sections", "copies"),
    [
        ({"adversarial": {"kl": 0.0}}, 3),
        ({"reward": {"head": "scalar"}}, 2.88),  # no p_ref, and a head of one column in place of the output layer
        ({"run": {"arms": ["outcome"]}}, 2),
        ({"run": {"arms": ["majority_consensus"]}, "adversarial": {"kl": 0.0}}, 1),
        ({"run": {"arms": ["reward_frozen"]}}, 4),
    ],
)
def test_copies_of_the_weights(
    recipe_of: Callable[..., Recipe], nothing_passes: list[Pass], sections: dict[str, Any], copies: float
) -> None:
    last = list(by_name(recipe_of(**sections)).values())[-1]
    assert last.weights / WHOLE == pytest.approx(copies, abs=0.01)
    assert (last.optimiser > 2 * WHOLE) is (sections.get("run") is None)  # a critic that learns keeps its own states


def test_a_critic_of_its_own(recipe_of: Callable[..., Recipe], config_only: Callable[..., str]) -> None:
    own = config_only("qwen2")
    found = Memory(recipe_of(reward={"path": own, "dtype": "bfloat16"}), Room(prompt=8)).models
    assert found.reward_base == 2 * Architecture.of(own).size().parameters
    assert found.policy_base == WHOLE


def test_batches_become_passes(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    changes = {"critic": {"traces_per_pass": 8}, "adversarial": {"rollouts_per_backward": 4}}
    by_name(recipe_of(run={"arms": ["sft", "adversarial"]}, sft={"batch": 6}, **changes))
    sft, rollouts, reward, sampling, _, scoring, policy = nothing_passes
    assert (sft.rows, sft.accumulates) == ((6,), False)
    assert (rollouts.rows, rollouts.bf16) == ((256,), False)
    # 4 experts, 4 corruptions and 8 rollouts, in two parts.
    assert (reward.rows, reward.accumulates) == ((2, 2, 2, 2), True)
    assert sampling.rows == (16,)
    assert scoring.rows == (16,)  # all of a step's; of longer ones, as many of one prompt as 8,192 tokens hold
    assert next(Memory(recipe_of(adversarial={"max_new_tokens": 1024}), Room(prompt=8)).batches.scoring()).rows == (7,)
    assert (policy.rows, policy.accumulates, policy.bf16, reward.bf16) == ((4,), True, True, False)
    nothing_passes.clear()
    by_name(recipe_of(run={"arms": ["sft"]}, sft={"batch": 6, "traces_per_backward": 4}))
    assert (nothing_passes[0].rows, nothing_passes[0].accumulates) == ((3,), True)
    nothing_passes.clear()
    by_name(recipe_of(policy={"bf16": False, "gradient_checkpointing": True}), gpus=2)
    rollouts, reward, sampling, _, scoring, policy = nothing_passes
    assert (sampling.rows, policy.rows, policy.accumulates) == ((8,), (8,), False)
    assert (policy.bf16, policy.checkpointing, reward.checkpointing) == (False, True, False)
    assert reward.rows == (2, 2, 2, 2)


def test_scores_by_units_read_the_policy_too(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    by_name(recipe_of(reward={"head": "scalar"}, adversarial={"credit": "trace-mean"}))
    *_, reward, policy, _ = nothing_passes
    assert (reward.scalar, policy.scalar, policy.rows) == (True, False, reward.rows)


def test_sharding_divides_what_learns(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    one = by_name(recipe_of(), gpus=4)["adversarial: policy update"]
    last = by_name(recipe_of(), gpus=4, sharded=True)["adversarial: policy update"]
    assert (last.gradients, last.optimiser) == (one.gradients / 4, one.optimiser / 4)
    assert last.weights == (3 / 4 + 1) * WHOLE  # p_ref stays whole
    assert last.activations > 0  # what is brought together for a pass


def test_rollouts_must_divide(recipe_of: Callable[..., Recipe], nothing_passes: list[Pass]) -> None:
    with pytest.raises(ConfigError, match="must be a multiple of the processes: got 16 for 3"):
        by_name(recipe_of(), gpus=3)


def test_settings_that_save_activations(recipe_of: Callable[..., Recipe]) -> None:
    whole = by_name(recipe_of(critic={"traces_per_pass": 32}))
    saved = by_name(
        recipe_of(
            policy={"gradient_checkpointing": True},
            critic={"traces_per_pass": 4},
            adversarial={"rollouts_per_backward": 4},
        )
    )
    for name, part in (("policy update", "activations"), ("reward update", "activations"), ("reward update", "logits")):
        moment = f"adversarial: {name}"
        assert getattr(saved[moment], part) < 0.6 * getattr(whole[moment], part)
    kept = 16 * 32 * 2 * 4 * 4 * 16 * 2  # rollouts, tokens, tables, layers, heads, width, bytes in bfloat16
    assert whole["adversarial: sampling"].cache == kept
