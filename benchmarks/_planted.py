"""Worlds whose reward is known, and experts that are soft-optimal for it: pi(a | s) ~ exp(Q(s, a) / temperature).

Both are deterministic, as text is; a reward is earned on entering a state. A table of g and one of h are learned by the
package's own losses. `grid` has states that merge, so g can be held against the reward itself; in `tree` every
state is a prefix, as in language, where shaping telescopes and the return of whole traces is what a reward can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from scipy.stats import linregress, pearsonr, spearmanr
from torch import Tensor

from traceward.objectives.discriminator import airl_logits, gail_loss, shaped_reward
from traceward.records import Objective

TEMPERATURE = 1.0


@dataclass(frozen=True)
class Walks:
    """(B, U) each: the states before and after every unit, what was done, and which units are there."""

    before: Tensor
    after: Tensor
    action: Tensor
    mask: Tensor


@dataclass(frozen=True)
class World:
    """following: (S, A) the state that an action leads to, -1 where there is no such action.  reward: (S,).
    starts: (P,).  traces: (P, L, U) the states of every whole trace, -1 behind its end, where a world has ends."""

    following: Tensor
    reward: Tensor
    starts: Tensor
    gamma: float
    steps: int
    traces: Tensor | None = None

    @cached_property
    def absent(self) -> Tensor:
        """(S, A) bool, True where there is no such action."""
        return self.following < 0

    @cached_property
    def final(self) -> Tensor:
        """(S,) bool, True where there is no action at all."""
        return self.absent.all(1)

    def soft_optimal(self, reward_S: Tensor) -> Tensor:  # noqa: N803
        """(S, A) log-probabilities of the policy that maximises reward and entropy, at temperature 1."""
        to, value = self.following.clamp(min=0), torch.zeros_like(reward_S)
        for _ in range(self.steps if self.traces is not None else 60):  # 0.9^60 < 0.002
            q = (reward_S + self.gamma * value)[to].masked_fill(self.absent, -torch.inf)
            value = q.logsumexp(1).masked_fill(self.final, 0.0)
        return q - value[:, None]

    def expert(self) -> Tensor:
        """(S, A) log-probabilities."""
        return self.soft_optimal(self.reward / TEMPERATURE)

    def walk(self, policy_SA: Tensor, count: int, generator: torch.Generator) -> Walks:  # noqa: N803
        """`count` walks from random starts."""
        state = self.starts[torch.randint(len(self.starts), (count,), generator=generator)]
        upto, draws = (
            policy_SA.exp().cumsum(1)[:, :-1].contiguous(),
            torch.rand(self.steps, count, 1, generator=generator),
        )
        units = []
        for draw in draws:
            goes = ~self.final[state]
            action = (draw > upto[state]).sum(1) * goes
            after = torch.where(goes, self.following[state, action], state)
            units.append((state, after, action, goes))
            state = after
        return Walks(*(torch.stack(column, 1) for column in zip(*units, strict=True)))


def grid(seed: int, *, side: int = 5) -> World:
    """Cells of a square, reached by staying or by a step to a neighbour; into the wall is staying. It never ends."""
    cells = list(product(range(side), repeat=2))
    moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    following = [
        [min(max(y + dy, 0), side - 1) * side + min(max(x + dx, 0), side - 1) for dy, dx in moves] for y, x in cells
    ]
    reward = torch.randn(len(cells), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return World(torch.tensor(following), reward, torch.arange(len(cells)), gamma=0.9, steps=20)


def tree(seed: int, *, prompts: int = 3, symbols: int = 4, depth: int = 4) -> World:
    """All texts of at most `depth` symbols for each prompt; symbol 0 ends a text, and so does the length cap."""
    texts: list[tuple[int, ...]] = [()]
    for text in texts:
        if len(text) < depth and text[-1:] != (0,):
            texts.extend((*text, symbol) for symbol in range(symbols))
    number = {text: at for at, text in enumerate(texts)}
    one = torch.tensor([[number.get((*text, symbol), -1) for symbol in range(symbols)] for text in texts])
    whole = [text for text in texts if len(text) == depth or text[-1:] == (0,)]
    traces = torch.tensor([[number[t[: u + 1]] if u < len(t) else -1 for u in range(depth)] for t in whole])
    shift = torch.arange(prompts)[:, None, None] * len(texts)
    count = prompts * len(texts)
    reward = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return World(
        torch.where(one >= 0, one + shift, -1).flatten(0, 1),
        reward,
        shift.flatten(),
        gamma=1.0,
        steps=depth,
        traces=torch.where(traces >= 0, traces + shift, -1),
    )


@dataclass(frozen=True)
class Learned:
    """A reward (S,) and the policy (S, A) at the end."""

    reward: Tensor
    policy: Tensor


def learn(
    world: World, objective: Objective, *, updates: int, seed: int, against_expert: bool = False, batch: int = 128
) -> Learned:
    """The alternation on tables: an update of the discriminator, then half a step of the policy to the one that is
    soft-optimal for the reward so far. `against_expert` leaves the policy where the alternation should end."""
    generator = torch.Generator().manual_seed(seed)
    expert = world.expert()
    g, h = (torch.zeros_like(world.reward, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([g, h], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, updates)
    policy = expert if against_expert else world.soft_optimal(torch.zeros_like(world.reward))
    labels = torch.tensor([1, 0]).repeat_interleave(batch)
    for _ in range(updates):
        sides = [world.walk(side, batch, generator) for side in (expert, policy)]
        rows = Walks(*(torch.cat([getattr(side, name) for side in sides]) for name in Walks.__dataclass_fields__))
        logits = g[rows.after]
        if objective is Objective.AIRL:
            shaped = shaped_reward(logits, h[rows.before], rows.mask, gamma=world.gamma)
            logits = airl_logits(shaped, policy[rows.before, rows.action].masked_fill(~rows.mask, 0.0))
        weight = rows.mask.double()
        if world.traces is None:
            weight[:, -1] = 0.0  # a walk is cut there, and the state is not terminal
        optimiser.zero_grad()
        gail_loss(logits, labels, weight, smoothing=0.0).backward()
        optimiser.step()
        schedule.step()
        if not against_expert:
            policy = towards(policy, world.soft_optimal(g.detach()))
    return Learned(g.detach(), policy)


def towards(policy_SA: Tensor, target_SA: Tensor) -> Tensor:  # noqa: N803
    """Half a step in log-probabilities, as mirror descent takes; states without actions stay without."""
    there = target_SA.isfinite()
    mixed = torch.where(there, (policy_SA + target_SA) / 2, -torch.inf)
    return torch.where(there.any(1, keepdim=True), mixed.log_softmax(1), -torch.inf)


def compare(world: World, learned: Learned) -> dict[str, float]:
    """Learned against true: reward of states, or, in a world of texts, returns of all texts of a prompt (mean over
    prompts, and `lowest`). `slope` is that of the learned reward on the true one over the temperature, 1 for the truth;
    `policy_kl` the distance of expert and policy, a mean over the states of the expert's walks, in nats."""
    if world.traces is None:
        pairs = [(world.reward, learned.reward)]
    else:
        there = world.traces >= 0
        returns = [
            torch.where(there, values[world.traces.clamp(min=0)], 0.0).sum(-1)
            for values in (world.reward, learned.reward)
        ]
        pairs = list(zip(*returns, strict=True))
    pearson = [float(pearsonr(true, found)[0]) for true, found in pairs]
    walks, expert = world.walk(world.expert(), 2000, torch.Generator().manual_seed(0)), world.expert()
    gap = torch.where(expert.isfinite(), expert.exp() * (expert - learned.policy), 0.0).sum(1)
    return {
        "pearson": float(np.mean(pearson)),
        "spearman": float(np.mean([spearmanr(true, found)[0] for true, found in pairs])),
        "lowest": min(pearson),
        "slope": float(np.mean([linregress(true / TEMPERATURE, found).slope for true, found in pairs])),
        "policy_kl": float(gap[walks.before[walks.mask]].mean()),
    }
