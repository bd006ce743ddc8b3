"""What the guards of a run said, as its results tell it."""

from __future__ import annotations

from dataclasses import dataclass

from traceward.report.tables import POLICY, Section, refuse


@dataclass(frozen=True, slots=True)
class Told:
    """One alarm, in words for the page."""

    stage: str
    step: int
    alarm: str
    message: str


def alarms_of(results: Section) -> list[Told] | None:
    """The alarms in the order of stages and steps; None where none were recorded, not even that there were none."""
    rows = results.listed("alarms")
    if rows is None:
        return None
    labels = {method.key: method.label for method in POLICY} | {"warm-up": "Warm-up of the reward"}
    found = []
    for row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("stage", "alarm", "message")):
            refuse(f"{results.where}: alarms", "hold stage, step, alarm and message", row, "evaluate the run again")
        step = Section(f"{results.where}: alarms", row).number("step")
        stage = str(row["stage"])
        found.append(Told(labels.get(stage) or stage, int(step or 0), row["alarm"], row["message"]))
    return found
