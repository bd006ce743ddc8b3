"""What a trainer logs, under our names, in the metrics of a run."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import TrainerCallback

from traceward.errors import PausedError
from traceward.records import OnAlarm
from traceward.training.guards import Alarm, Guards
from traceward.training.run_directory import Metrics
from traceward.training.settings import GuardSettings
from traceward.training.step_times import PREFIX


class Watched:
    """Metrics under guard: every row is a look, and every alarm a row of its own (`alarm`, `message`)."""

    def __init__(self, metrics: Metrics, settings: GuardSettings) -> None:
        self.metrics = metrics
        self.guards = Guards(settings)
        self.alarms: list[Alarm] = []

    def log(self, row: dict[str, Any]) -> None:
        """Write a row, and what the guards say to it."""
        self.metrics.log(row)
        found = self.guards.watch(row["step"], row)
        for alarm in found:
            self.metrics.log({"step": alarm.step, "alarm": str(alarm.kind), "message": alarm.message})
        self.alarms += found

    def state_dict(self) -> dict[str, Any]:
        """Where the metrics file stands, and what the guards have seen."""
        return {"metrics": self.metrics.state_dict(), "guards": self.guards.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the metrics file back, and watch on; an alarm that is known is no news."""
        self.metrics.load_state_dict(state["metrics"])
        self.guards.load_state_dict(state["guards"])

    @property
    def pauses(self) -> bool:
        """Whether the run is to stop here."""
        return bool(self.alarms) and self.guards.settings.on_alarm is OnAlarm.PAUSE

    def paused(self) -> PausedError:
        """The error that tells of it, with the alarms that were not known when this process began."""
        told = ", ".join(f"{alarm.kind} at step {alarm.step} ({alarm.message})" for alarm in self.alarms)
        return PausedError(f"{self.metrics.stage}: {told}")


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

    def __init__(self, metrics: Metrics | Watched) -> None:
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
        """Where the metrics file stands, and what the guards have seen."""
        return self.metrics.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the metrics file back, and go on."""
        self.metrics.load_state_dict(state)


class PauseCallback(TrainerCallback):  # type: ignore[misc]
    """Ends a training with a checkpoint where its guards say so; stands behind the MetricsCallback."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._paused = False

    def on_log(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every alarm of this step is known by now. A training that ends here anyway is let end."""
        if self.watched.pauses and state.global_step < state.max_steps:
            self._paused = control.should_save = control.should_training_stop = True

    def raise_if_paused(self) -> None:
        """Raises PausedError where the training was ended before its time."""
        if self._paused:
            raise self.watched.paused()
