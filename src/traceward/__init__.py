"""traceward learns a reward for reasoning from worked solutions alone.

The public names load on first use, so that `import traceward` and `traceward --help` need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from traceward.decoding.search import search
    from traceward.evaluation.localise import localise
    from traceward.evaluation.rerank import rerank
    from traceward.rewards.model import RewardModel
    from traceward.training.adversarial import AdversarialTrainer
    from traceward.training.settings import AdversarialConfig

_HOMES = {
    "RewardModel": "traceward.rewards.model",
    "AdversarialTrainer": "traceward.training.adversarial",
    "AdversarialConfig": "traceward.training.settings",
    "rerank": "traceward.evaluation.rerank",
    "localise": "traceward.evaluation.localise",
    "search": "traceward.decoding.search",
}

__all__ = ["AdversarialConfig", "AdversarialTrainer", "RewardModel", "__version__", "localise", "rerank", "search"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'traceward' has no attribute {name!r}")
