"""What a trainer logs, under our names, in the metrics of a run."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import TrainerCallback

from traceward.training.run_directory import Metrics
from traceward.training.step_times import PREFIX


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Carries a trainer's logs into our metrics under our names."""

    NAMES: ClassVar[dict[str, str]] = {
        "loss": "loss",
        "grad_norm": "grad_norm",
        "learning_rate": "learning_rate",
        "kl": "kl",
        "entropy": "entropy",
        "reward": "reward",
        "completions/mean_length": "completion_length",
        "completions/clipped_ratio": "cut_share",
        "exported": "exported",
        "agreement": "agreement",
        "outcome": "outcome",
        "kl_weight": "kl_weight",
        "reward_length_correlation": "reward_length_correlation",
    }

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Write the row under our names; what has none is left out."""
        logs = logs or {}
        row = {ours: float(logs[theirs]) for theirs, ours in self.NAMES.items() if theirs in logs}
        # The critic's own figures keep the names of warm-up; loss and gradient would be mistaken for the policy's.
        for key, value in logs.items():
            if key.startswith("critic/"):
                name = key.removeprefix("critic/")
                row[f"critic_{name}" if name in row else name] = float(value)
            elif key.startswith(PREFIX):
                row[f"seconds_{key.removeprefix(PREFIX)}"] = round(float(value), 4)
        if row:
            self.metrics.log({"step": state.global_step, **row})

    def state_dict(self) -> dict[str, Any]:
        """Where the metrics file stands."""
        return self.metrics.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the metrics file back."""
        self.metrics.load_state_dict(state)
