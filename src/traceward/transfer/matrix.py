"""A matrix: the places where a reward is learned are its rows, those where it is used its columns.

    recipe = "demo.toml"               the base, beside this file; other sections change it for all places

    [matrix]
    seeds = [0, 1, 2]                  every place with each of these

    [learn.stories]                    learned under the base as it is
    [learn.result-first]
    data.style = "result-first"        learned under the base with these changes

    [use.stories]                      a place of use that is also one of learning begins with its changes
    [use.longer]
    data.shift = "longer"              whose samples are scored

Without a [use.NAME] rewards are used where they are learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from traceward.ablation.grid import SEED, leaves
from traceward.ablation.sharing import EVERYWHERE, READS
from traceward.config import Arm, Recipe, resolve
from traceward.errors import ConfigError
from traceward.training.section import Section
from traceward.tree import Tree, merged, read_toml, set_override

LEARNING = ("pretrain", "rollouts", "sft", "reward")  # the stages of a place where a reward is learned
USING = ("pretrain", "samples")  # those of a place where it is used
_GIVEN = (SEED, "run.arms")  # what the matrix says itself


class MatrixSettings(Section):
    """`[matrix]`: what holds for all places."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """Every reward is learned with each, on demonstrations that follow it."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows and columns: name of a place -> seed -> its recipe."""

    name: str
    seeds: tuple[int, ...]
    learn: Mapping[str, Mapping[int, Recipe]]
    use: Mapping[str, Mapping[int, Recipe]]


def is_matrix(path: str | Path) -> bool:
    """Whether a TOML file describes places and not a recipe."""
    return "learn" in read_toml(path)


def load_matrix(path: str | Path, overrides: Sequence[str] = (), *, seed: int | None = None) -> Matrix:
    """Read a matrix file; `overrides` go on top of every place, `seed` takes the place of its seeds.

    Raises ConfigError naming the place and the key: for unknown settings, and for those that a place cannot change.
    """
    tree = read_toml(path)
    settings = _settings(tree.pop("matrix", {}), str(path))
    learn, use = (_places(tree.pop(kind, {}), kind, str(path)) for kind in ("learn", "use"))
    if not learn:
        raise ConfigError(f"{path}: learn must name a place: got none; add a [learn.NAME] table, empty for the base")
    _refuse_idle(learn, "learn", LEARNING, str(path))
    _refuse_idle(use, "use", USING, str(path))
    for override in overrides:
        if override.partition("=")[0].strip() in _GIVEN:
            raise ConfigError(
                f"override must not be of {' or '.join(_GIVEN)} in a matrix: got '{override}'; use --seed"
            )
    seeds = settings.seeds if seed is None else (seed,)

    def recipes(changes: Tree, where: str) -> dict[int, Recipe]:
        whole = merged(tree, changes)
        for override in overrides:
            set_override(whole, override)
        given = {"arms": [str(Arm.SFT)], "variants": []}
        each = {seed: merged(whole, {"run": {**given, "seed": seed}}) for seed in seeds}
        return {seed: resolve(one, where=where) for seed, one in each.items()}

    columns = {name: merged(learn.get(name, {}), changes) for name, changes in use.items()} or learn
    return Matrix(
        name=resolve({"run": tree.get("run", {})}, where=str(path)).run.name,
        seeds=tuple(dict.fromkeys(seeds)),
        learn={name: recipes(changes, f"{path}: learn.{name}") for name, changes in learn.items()},
        use={name: recipes(changes, f"{path}: use.{name}") for name, changes in columns.items()},
    )


def _settings(values: Any, where: str) -> MatrixSettings:
    try:
        return MatrixSettings.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in ("matrix", *fault["loc"]))
        raise ConfigError(f"{where}: {place} must be right: got {fault['msg']}; mend it") from error


def _places(values: Any, kind: str, where: str) -> dict[str, Tree]:
    """Name -> changes to the base."""
    for name, changes in values.items() if isinstance(values, dict) else [("", values)]:
        if not isinstance(changes, dict):
            raise ConfigError(
                f"{where}: {kind} must hold tables of named places: got {changes!r}; write [{kind}.{name or 'NAME'}]"
            )
    return dict(values)


def _refuse_idle(places: Mapping[str, Tree], kind: str, stages: Sequence[str], where: str) -> None:
    """A change that nothing at the place would read."""
    read = dict.fromkeys(name for stage in stages for name in (*EVERYWHERE, *READS[stage]) if name != SEED)
    for place, changes in places.items():
        for setting, _ in leaves(changes):
            section, known = setting.partition(".")[0], setting.partition(".")[0] in Recipe.model_fields
            # What is no setting at all is told by the recipe's own check.
            if section == "run" or (known and not any(f"{setting}.".startswith(f"{name}.") for name in read)):
                raise ConfigError(
                    f"{where}: {kind}.{place} must change {', '.join(read)}: got {setting}, which is not read there; "
                    "set it for all places, or leave it out"
                )
