"""The two controllers of the alternation, on plain numbers: how often the discriminator learns, how hard the KL
penalty pulls. Both see one number per policy step and set what the next step uses."""

from __future__ import annotations

from traceward.training.settings import AdversarialConfig

_LARGEST_ERROR = 0.2  # one odd batch moves the weight no further than this share of `kl_gain`


class UpdateSchedule:
    """Discriminator updates of the next policy step, `updates`.

    A discriminator that is always right leaves the policy no direction to improve in, one that guesses gives it
    noise. So its accuracy is kept in a band: inside, a step has `critic_updates` updates; every look above takes one
    away, down to 0; every look below adds one, up to `critic_updates_most`. With `critic_updates` = 0 the reward is
    frozen and nothing is scheduled.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        self.config = config
        self.updates = config.critic_updates

    def look(self, accuracy: float) -> int:
        """Take the accuracy that this step's rollouts were met with, before any update on them; returns `updates`."""
        config = self.config
        if accuracy > config.accuracy_high:
            self.updates = max(0, self.updates - 1)
        elif accuracy < config.accuracy_low:
            self.updates = min(config.critic_updates_most, self.updates + 1)
        else:
            self.updates = config.critic_updates
        return self.updates

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state_dict`."""
        self.updates = state["updates"]


class KLController:
    """The KL penalty's `weight`, moved so that the KL to the start policy comes to `kl_target` nats per token.

    weight <- weight * (1 + kl_gain * clip(kl / kl_target - 1, -0.2, 0.2)); constant without a target.
    Source: the proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2), whose gain is 0.1.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        self.config = config
        self.weight = config.kl

    def look(self, kl: float) -> float:
        """Take a step's mean KL in nats per token; returns `weight`."""
        if self.config.kl_target is not None:
            error = max(-_LARGEST_ERROR, min(_LARGEST_ERROR, kl / self.config.kl_target - 1))
            self.weight *= 1 + self.config.kl_gain * error
        return self.weight

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self.weight = state["weight"]
