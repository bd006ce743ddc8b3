"""A grid of recipes: a base recipe and axes; every combination of their points is a cell.

    recipe = "demo.toml"                        the base, beside this file; sections below change it

    [ablation]                                  see `Ablation`
    compare = [["adversarial", "sft"]]

    [grid]
    reward.head = ["log-ratio", "scalar"]       an axis over a setting
    regime.few = { data.demonstrations = 20 }   an axis of named points; a point sets as much as it likes
    regime.many = { data.demonstrations = 100 }
    run.seed = [0, 1, 2]                        repeats a row; means and intervals are over these

Several `[[grid]]` tables are a union of products. Combinations that a recipe's own check refuses leave the grid and are
listed with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from traceward.config import Recipe, resolve
from traceward.errors import ConfigError
from traceward.training.section import Section
from traceward.tree import Tree, merged, read_toml, set_override

SEED = "run.seed"
ARM = "arm"  # the last column of a row: the policy that it measures
BEST = "best"  # in `compare`: of the rows with a learned reward the one that is highest on `sort`
MEASURES = ("pass_at_1", "greedy", "validation_pass_at_1", "validation_greedy", "rerank", "localise", "held_out_auroc")
SELECTORS = ("validation_pass_at_1", "validation_greedy", "held_out_auroc")  # nothing of the test problems

Labels: TypeAlias = dict[str, str]


class Ablation(Section):
    """`[ablation]`: how a grid is cut and shown."""

    measures: tuple[str, ...] = ("pass_at_1", "greedy", "rerank", "localise")
    """Columns of the table; `sort` is always one."""
    sort: str = "validation_pass_at_1"
    """What orders the rows. Never a measure on test problems: they choose nothing."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of labels or arms whose rows are compared, same problems and same seeds, where all other labels agree.
    "best" is, of the rows with a learned reward, the one that is highest on `sort`."""
    exclude: tuple[Tree, ...] = ()
    """Combinations to leave out: axis = label, or a list of labels; all of an entry must hold."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One recipe of a grid. labels: axis -> point, without the seed."""

    labels: Labels
    recipe: Recipe

    @property
    def seed(self) -> int:
        """Which repeat of its row it is."""
        return self.recipe.run.seed


@dataclass(frozen=True, slots=True)
class Removed:
    """A combination that cannot run, and why."""

    labels: Labels
    reason: str


@dataclass(frozen=True, slots=True)
class Grid:
    """Cells in the order they run: the first seed of every row, then the second, …"""

    name: str
    axes: dict[str, tuple[str, ...]]
    cells: tuple[Cell, ...]
    removed: tuple[Removed, ...]
    settings: Ablation


def is_grid(path: str | Path) -> bool:
    """Whether a TOML file describes a grid and not a single recipe."""
    return "grid" in read_toml(path)


def load_grid(path: str | Path, overrides: Sequence[str] = (), *, check: Callable[[Recipe], None]) -> Grid:
    """Read a grid file; `overrides` go on top of every cell, and cells that become equal are one.

    check: refuses a recipe that its data cannot serve, by ConfigError.
    Raises ConfigError for what no cell could mean: an unknown setting, an exclusion or comparison of a label that there
    is not, a point that runs in no combination.
    """
    tree = read_toml(path)
    blocks = tree.pop("grid")
    settings = _settings(tree.pop("ablation", {}), str(path))
    products = [_axes(block, str(path)) for block in (blocks if isinstance(blocks, list) else [blocks])]
    axes = {
        name: tuple(dict.fromkeys(itertools.chain(*(p.get(name, {}) for p in products))))
        for p in products
        for name in p
    }
    rules = [_rule(entry, axes, str(path)) for entry in settings.exclude]
    cells: dict[tuple[tuple[str, str], ...], dict[int, Cell]] = {}
    removed: dict[tuple[tuple[str, str], ...], Removed] = {}
    for labels, changes in itertools.chain.from_iterable(map(_combinations, products)):
        if any(all(labels.get(axis) in wanted for axis, wanted in rule.items()) for rule in rules):
            continue
        labels.pop(SEED, None)
        whole = merged(tree, changes)
        for override in overrides:
            set_override(whole, override)
        try:
            recipe = resolve(whole, where="")
            check(recipe)
            cells.setdefault(tuple(labels.items()), {}).setdefault(recipe.run.seed, Cell(labels, recipe))
        except ConfigError as error:
            removed.setdefault(tuple(labels.items()), Removed(labels, str(error).removeprefix(": ")))
    grid = Grid(
        name=resolve({"run": tree.get("run", {})}, where=str(path)).run.name,
        axes={name: points for name, points in axes.items() if name != SEED},
        cells=tuple(sorted(itertools.chain.from_iterable(c.values() for c in cells.values()), key=_repeat(cells))),
        removed=tuple(removed.values()),
        settings=settings,
    )
    _refuse_idle_points(grid, str(path))
    return grid


def _repeat(cells: Mapping[Any, Mapping[int, Cell]]) -> Callable[[Cell], int]:
    """Which of its row's seeds a cell has: 0 for the first."""
    place = {id(cell): at for row in cells.values() for at, cell in enumerate(row.values())}
    return lambda cell: place[id(cell)]


def _settings(values: Tree, where: str) -> Ablation:
    try:
        found = Ablation.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{where}: ablation.{place} must be right: got {fault['msg']}; mend it") from error
    for measure in found.measures:
        if measure not in MEASURES:
            raise ConfigError(f"{where}: ablation.measures must be of {', '.join(MEASURES)}: got '{measure}'; mend it")
    if found.sort not in SELECTORS:
        raise ConfigError(
            f"{where}: ablation.sort must be one of {', '.join(SELECTORS)}, which see no test problem: got "
            f"'{found.sort}'; choose one of them"
        )
    return found


def _axes(block: Tree, where: str) -> dict[str, dict[str, Tree]]:
    """Axis -> label -> the changes to the base recipe."""
    found: dict[str, dict[str, Tree]] = {}
    for key, value in block.items():
        section = key.partition(".")[0]
        if section in Recipe.model_fields:
            for setting, values in leaves({key: value}):
                if not isinstance(values, list) or not values:
                    raise ConfigError(f"{where}: grid.{setting} must be a list of values: got {values!r}; put it in []")
                found[setting] = {label(v): _nested(setting, v) for v in values}
        elif isinstance(value, dict) and value and all(isinstance(point, dict) for point in value.values()):
            found[key] = {name: _expanded(point) for name, point in value.items()}
        else:
            raise ConfigError(
                f"{where}: grid.{key} must be a setting with its values, or a table of named points: got {value!r}; "
                f"write section.key = [...], or {key}.NAME = {{ section.key = value }}"
            )
    for points in found.values():
        for point in points.values():
            for setting, _ in leaves(point):
                if not _is_setting(setting):
                    raise ConfigError(f"{where}: grid must change known settings: got {setting}; check its spelling")
    return found


def _combinations(axes: Mapping[str, Mapping[str, Tree]]) -> Iterator[tuple[Labels, Tree]]:
    for points in itertools.product(*(axis.items() for axis in axes.values())):
        changes: Tree = {}
        for _, change in points:
            changes = merged(changes, change)
        yield {axis: name for axis, (name, _) in zip(axes, points, strict=True)}, changes


def _rule(entry: Tree, axes: Mapping[str, Sequence[str]], where: str) -> dict[str, set[str]]:
    rule = {axis: {label(v) for v in (value if isinstance(value, list) else [value])} for axis, value in leaves(entry)}
    for axis, wanted in rule.items():
        if unknown := wanted - set(axes.get(axis, ())):
            raise ConfigError(
                f"{where}: ablation.exclude must name points of the grid: got {axis} = '{sorted(unknown)[0]}'; {axis} "
                f"has {', '.join(axes[axis]) if axis in axes else 'no points, it is no axis'}"
            )
    return rule


def _refuse_idle_points(grid: Grid, where: str) -> None:
    """A point whose every combination was refused is a mistake, not a result."""
    for cell in grid.removed:
        for axis, name in cell.labels.items():
            if not any(other.labels.get(axis) == name for other in grid.cells):
                raise ConfigError(f"{where}: {axis} = '{name}' must run in some combination: got none; {cell.reason}")
    if not grid.cells:
        raise ConfigError(f"{where}: grid must have a cell: got none; exclude less")
    named = {*itertools.chain.from_iterable(grid.axes.values()), "base", BEST}
    named |= {str(arm) for cell in grid.cells for arm in cell.recipe.run.arms}
    for pair in grid.settings.compare:
        for name in pair:
            if name not in named:
                raise ConfigError(
                    f"{where}: ablation.compare must name points or arms of the grid: got '{name}'; there are "
                    f"{', '.join(sorted(named))}"
                )


def label(value: object) -> str:
    """A value as it stands in a table: `["sft", "outcome"]` is `sft+outcome`."""
    if isinstance(value, list):
        return "+".join(label(item) for item in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything that is no table."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nested(setting: str, value: object) -> Tree:
    for part in reversed(setting.split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def _expanded(point: Tree) -> Tree:
    """A point whose quoted dotted keys are sections too."""
    found: Tree = {}
    for setting, value in leaves(point):
        found = merged(found, _nested(setting, value))
    return found


def _is_setting(setting: str) -> bool:
    model: type[BaseModel] = Recipe
    *sections, key = setting.split(".")
    for part in sections:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.default, BaseModel):
            return False
        model = type(field.default)
    return key in model.model_fields
