"""The prefix tree with the package's own RewardModel and Discriminator on a tiny random Llama, units of one token."""

from __future__ import annotations

import torch
from _planted import Learned, Walks, World, towards
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from traceward.builtin import TOKENIZER
from traceward.data.formats import EncodedTrace, Format
from traceward.loading import load_tokenizer
from traceward.records import Granularity, Head, Objective, UnitSpec
from traceward.rewards.batches import TraceBatch
from traceward.rewards.model import RewardModel, new_reward
from traceward.training.discriminator import Discriminator
from traceward.training.settings import CriticSettings

FIRST_SYMBOL, FIRST_PROMPT = 10, 100  # token ids
DENSE = UnitSpec(Granularity.DENSE)


def new_model(seed: int) -> RewardModel:
    """A scalar head on a Llama of two layers, without dropout."""
    tokenizer = load_tokenizer(TOKENIZER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=32,
                pad_token_id=tokenizer.pad_token_id,
                classifier_dropout=0.0,
            )
        )
    return new_reward(policy, tokenizer, head=Head.SCALAR, spec=DENSE, style=Format.PLAIN, seed=seed)


def encoded(world: World, walks: Walks) -> list[EncodedTrace]:
    """Walks as token ids: one token that names the prompt, then a token per symbol."""
    prompts = torch.searchsorted(world.starts, walks.before[:, 0].contiguous(), right=True) - 1
    return [
        EncodedTrace((FIRST_PROMPT + prompt,), tuple(FIRST_SYMBOL + symbol for symbol in actions[mask].tolist()))
        for prompt, actions, mask in zip(prompts.tolist(), walks.action, walks.mask, strict=True)
    ]


def policy_logprobs(world: World, policy_SA: Tensor, batch: TraceBatch) -> Tensor:  # noqa: N803
    """(B, T) log pi of the tokens of a batch, read from the policy's table."""
    found = torch.zeros(batch.input_ids.shape)
    state = world.starts[batch.input_ids[:, 0] - FIRST_PROMPT]
    for at in range(1, batch.input_ids.shape[1]):
        inside = batch.unit[:, at] >= 0
        symbol = torch.where(inside, batch.input_ids[:, at] - FIRST_SYMBOL, 0)
        found[:, at] = torch.where(inside, policy_SA[state, symbol].float(), 0.0)
        state = torch.where(inside, world.following[state, symbol], state)
    return found


def every_trace(world: World) -> Walks:
    """All whole traces of all prompts."""
    assert world.traces is not None
    after = world.traces.flatten(0, 1)
    mask = after >= 0
    before = torch.cat([world.starts.repeat_interleave(world.traces.shape[1])[:, None], after[:, :-1]], 1)
    before, after = before.clamp(min=0), after.clamp(min=0)
    action = (world.following[before] == after[..., None]).long().argmax(-1)
    return Walks(before, after, action, mask)


def state_rewards(world: World, reward: RewardModel, walks: Walks) -> Tensor:
    """(S,) what the model says on entering each state: g, or the logit of gail."""
    found = torch.zeros_like(world.reward)
    scored = reward.score_encoded(encoded(world, walks), spec=DENSE)
    for after, mask, one in zip(walks.after, walks.mask, scored, strict=True):
        found[after[mask]] = torch.tensor(one.unit_logits, dtype=found.dtype)
    return found


def learn_model(world: World, objective: Objective, *, updates: int, seed: int, batch: int = 128) -> Learned:
    """As `learn`, with a model in place of the tables; the policy moves after every fourth update."""
    generator, reward, all_walks = torch.Generator().manual_seed(seed), new_model(seed), every_trace(world)
    expert, policy = world.expert(), world.soft_optimal(torch.zeros_like(world.reward))
    judge = Discriminator(reward, CriticSettings(objective=objective))
    optimiser = torch.optim.Adam(reward.learned.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, updates)
    labels, questions = torch.tensor([1, 0]).repeat_interleave(batch), torch.zeros(2 * batch)
    for update in range(updates):
        judge.policy_logprobs = lambda rows, now=policy: policy_logprobs(world, now, rows)
        traces = [t for side in (expert, policy) for t in encoded(world, world.walk(side, batch, generator))]
        rows = reward.batch(traces)
        there = rows.unit_mask.float()
        optimiser.zero_grad()
        judge.loss((judge.logits(rows), there, there), labels, questions, smoothing=0.0).backward()
        optimiser.step()
        schedule.step()
        if update % 4 == 3:
            policy = towards(policy, world.soft_optimal(state_rewards(world, reward, all_walks)))
    return Learned(state_rewards(world, reward, all_walks), policy)
