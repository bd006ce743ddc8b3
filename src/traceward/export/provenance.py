"""What is known of a saved model: its own card, and the run directory that it lies in. Nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceward.config import Recipe
from traceward.errors import RunError
from traceward.training.run_directory import RunDirectory

MANIFEST, RESULTS = "manifest.json", "results.json"
MEASURED_REWARD = "reward"  # the directory whose reward a run's results are of


@dataclass(frozen=True, slots=True)
class Provenance:
    """name: of the model's directory.   card: a reward's own, else empty.

    recipe, manifest, results: of its run; None and empty where it lies in none, or the run is not over.
    """

    name: str
    card: Mapping[str, Any]
    recipe: Recipe | None
    manifest: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def judged(self) -> Mapping[str, Any]:
        """The results, where they were measured with this reward: one that learned on beside a policy has none."""
        return self.results if self.name == MEASURED_REWARD else {}


def is_run(directory: Path) -> bool:
    """Whether it is the directory of a run."""
    return (directory / "config.json").is_file() and (directory / MANIFEST).is_file()


def provenance(source: Path, card: Mapping[str, Any] | None = None) -> Provenance:
    """What stands beside `source`: RUN/reward, RUN/reward-after or RUN/policies/NAME.   card: a reward's."""
    place = source.resolve()
    run = place.parent if card is not None else place.parent.parent
    if not is_run(run) or (card is None and place.parent.name != "policies"):
        return Provenance(place.name, card or {}, None, {}, {})
    return Provenance(
        place.name, card or {}, RunDirectory(run).recipe(), _object(run / MANIFEST), _object(run / RESULTS)
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"run directory must hold a whole {path.name}: got '{error}' in {path}; mend it") from error
    return found
