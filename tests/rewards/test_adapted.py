"""Rewards that are adapters: what learns, what is shared, what is saved, and who can read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from traceward.adapters import adapted_policy, is_adapted
from traceward.data.formats import EncodedTrace, Format
from traceward.errors import RewardFileError
from traceward.loading import load_causal_lm, load_token_classifier
from traceward.records import Head, UnitSpec
from traceward.rewards.adapted import adapted
from traceward.rewards.heads import token_logprobs
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.adapter import AdapterSettings

# PEFT asks for it by the name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ADAPTER = AdapterSettings(rank=2, dropout=0.1)
HEADS = pytest.mark.parametrize("head", list(Head))
MakePolicy = Callable[..., PreTrainedModel]
MakeAdapted = Callable[..., tuple[RewardModel, PreTrainedModel]]


@pytest.fixture
def make_adapted(make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> MakeAdapted:
    """A reward with an adapter away from its start, and its base, which is also on disk."""

    def make(
        head: Head, *, family: str = "Llama", dtype: torch.dtype = torch.float32, moved: bool = True
    ) -> tuple[RewardModel, PreTrainedModel]:
        place = tmp_path / f"base-{family}"
        make_policy(family).save_pretrained(place)
        base = load_causal_lm(place, dtype)
        reward = new_reward(
            base,
            tokenizer,
            head=head,
            spec=UnitSpec(),
            style=Format.PLAIN,
            adapter=ADAPTER,
            reference_share=0.5,
            seed=1,
        )
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in reward.backbone.parameters() if moved else ():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return reward, base

    return make


@HEADS
def test_only_adapter_and_head_learn_and_no_weight_is_copied(make_adapted: MakeAdapted, head: Head) -> None:
    reward, base = make_adapted(head)
    learn = {name for name, parameter in reward.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in learn if "lora_" not in name} == (
        {"score"} if head is Head.SCALAR else set()
    )
    assert {name.split(".")[-4] for name in learn if "lora_" in name} == {*ADAPTER.target_modules}
    base_memory = {parameter.data_ptr() for parameter in base.parameters()}
    own = {parameter.data_ptr() for parameter in reward.parameters() if not parameter.requires_grad}
    assert own <= base_memory


def test_a_log_ratio_starts_at_zero_and_its_reference_is_the_base(
    make_adapted: MakeAdapted, traces: list[EncodedTrace]
) -> None:
    start, base = make_adapted(Head.LOG_RATIO, moved=False)
    assert all(not any(found.unit_logits) for found in start.score_encoded(traces))
    moved, base = make_adapted(Head.LOG_RATIO)
    batch = moved.batch(traces)
    with torch.no_grad():
        assert torch.equal(moved.read(batch).ref_logprobs_BT, token_logprobs(base, batch))
    assert all(all(found.unit_logits) for found in moved.score_encoded(traces))


@HEADS
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_a_saved_adapter_scores_the_same_bit_for_bit(
    make_adapted: MakeAdapted, traces: list[EncodedTrace], tmp_path: Path, head: Head, family: str
) -> None:
    reward, base = make_adapted(head, family=family)
    wanted = reward.score_encoded(traces)
    reward.save(tmp_path / "reward")
    assert RewardModel.load(tmp_path / "reward").score_encoded(traces) == wanted
    again = RewardModel.load(tmp_path / "reward", base=base)
    assert again.score_encoded(traces) == wanted
    assert next(again.backbone.parameters()).data_ptr() == next(base.parameters()).data_ptr()
    assert not list((tmp_path / "reward").rglob("model.safetensors"))
    again.save(tmp_path / "again")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again/model" / name).read_bytes() == (tmp_path / "reward/model" / name).read_bytes()


@HEADS
def test_bfloat16_weights_stay_what_they_were(
    make_adapted: MakeAdapted, traces: list[EncodedTrace], tmp_path: Path, head: Head
) -> None:
    reward, _ = make_adapted(head, dtype=torch.bfloat16)
    kinds = {".lora_" in name: p.dtype for name, p in reward.backbone.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    reward.save(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded.backbone.dtype == torch.bfloat16
    assert loaded.score_encoded(traces) == reward.score_encoded(traces)


@HEADS
def test_peft_reads_the_directory_with_the_head(
    make_adapted: MakeAdapted, traces: list[EncodedTrace], tmp_path: Path, head: Head
) -> None:
    reward, base = make_adapted(head)
    reward.save(tmp_path / "reward")
    load = load_token_classifier if head is Head.SCALAR else load_causal_lm
    found = PeftModel.from_pretrained(load(base.name_or_path), tmp_path / "reward/model").eval()
    ids = torch.tensor([[*traces[0].prompt_ids, *traces[0].completion_ids]])
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, reward.backbone(input_ids=ids).logits)


@HEADS
def test_a_merged_reward_needs_no_peft(
    make_adapted: MakeAdapted, traces: list[EncodedTrace], tmp_path: Path, head: Head
) -> None:
    reward, _ = make_adapted(head)
    reward.merged().save(tmp_path / "whole")
    loaded = RewardModel.load(tmp_path / "whole")
    assert not is_adapted(loaded.backbone)
    assert loaded.merged() is loaded
    for one, other in zip(loaded.score_encoded(traces), reward.score_encoded(traces), strict=True):
        assert one.exported == pytest.approx(other.exported, abs=1e-4, rel=1e-5)
        assert one.unit_logits == pytest.approx(other.unit_logits, abs=1e-4, rel=1e-5)
    assert is_adapted(reward.backbone)


def test_another_precision_of_the_same_base_is_taken(make_adapted: MakeAdapted, tmp_path: Path) -> None:
    reward, _ = make_adapted(Head.SCALAR)
    reward.save(tmp_path / "reward")
    assert RewardModel.load(tmp_path / "reward", torch.bfloat16).backbone.dtype == torch.bfloat16


@HEADS
def test_whole_weights_come_back_in_the_type_that_they_were_saved_in(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, traces: list[EncodedTrace], tmp_path: Path, head: Head
) -> None:
    make_policy().save_pretrained(tmp_path / "policy")
    policy = load_causal_lm(tmp_path / "policy", torch.bfloat16)
    reward = new_reward(policy, tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN)
    reward.save(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded.backbone.dtype == torch.bfloat16
    assert loaded.score_encoded(traces) == reward.score_encoded(traces)
    assert RewardModel.load(tmp_path / "reward", torch.float32).backbone.dtype == torch.float32


def test_another_base_is_refused(
    make_adapted: MakeAdapted, make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    reward, base = make_adapted(Head.SCALAR)
    reward.save(tmp_path / "reward")
    make_policy(seed=5).save_pretrained(base.name_or_path)
    with pytest.raises(RewardFileError, match="base must be the model that the adapter learned on: got other weights"):
        RewardModel.load(tmp_path / "reward")
    whole = new_reward(base, tokenizer, head=Head.SCALAR, spec=UnitSpec(), style=Format.PLAIN)
    whole.save(tmp_path / "whole")
    with pytest.raises(RewardFileError, match="reward must be an adapter to take a base"):
        RewardModel.load(tmp_path / "whole", base=base)


def test_a_base_that_is_given_keeps_its_own_adapter(
    make_adapted: MakeAdapted, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    reward, base = make_adapted(Head.SCALAR)
    reward.save(tmp_path / "reward")
    policy = adapted_policy(load_causal_lm(base.name_or_path), ADAPTER, seed=0)
    for given in (policy, policy.get_base_model()):
        loaded = RewardModel.load(tmp_path / "reward", base=given)  # the adapter is at its start: the same weights
        assert is_adapted(given)
        assert loaded.score_encoded(traces) == reward.score_encoded(traces)


@HEADS
@pytest.mark.parametrize("own", [None, ADAPTER])
def test_a_policy_with_an_adapter_is_merged_into_a_copy(
    make_policy: MakePolicy, tokenizer: PreTrainedTokenizerBase, own: AdapterSettings | None, head: Head
) -> None:
    policy = adapted_policy(make_policy(), ADAPTER, seed=0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.add_(0.05 * (".lora_" in name))
    inside = policy.get_base_model()
    reward = new_reward(inside, tokenizer, head=head, spec=UnitSpec(), style=Format.PLAIN, adapter=own, seed=1)
    assert is_adapted(inside)
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.no_grad():
        found = reward.backbone.base_model(input_ids=ids).last_hidden_state
        assert torch.allclose(found, inside.base_model(input_ids=ids).last_hidden_state, atol=1e-4)


def test_a_start_from_sft_takes_its_adapter(make_adapted: MakeAdapted, traces: list[EncodedTrace]) -> None:
    reward, base = make_adapted(Head.LOG_RATIO, moved=False)
    tuned, _ = adapted(base, Head.LOG_RATIO, ADAPTER, seed=9)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            parameter.add_(0.05 * (".lora_" in name))
    reward.start_from(tuned)
    batch = reward.batch(traces)
    with torch.no_grad():
        assert torch.equal(token_logprobs(reward.backbone, batch), token_logprobs(tuned, batch))
    assert any(any(found.unit_logits) for found in reward.score_encoded(traces))
