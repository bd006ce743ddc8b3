"""Grids read from TOML: which cells there are, in which order, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from traceward.ablation.grid import MEASURES, Ablation, Grid, is_grid, label, load_grid
from traceward.config import Recipe
from traceward.errors import ConfigError
from traceward.records import Granularity, Head
from traceward.tree import merged

ROOT = Path(__file__).parents[2]
BASE = '[run]\nname = "mine"\narms = []\n[data]\ntest = 7\n'


def accept(_recipe: Recipe) -> None:
    """Every recipe has data enough."""


@pytest.fixture
def grid(tmp_path: Path) -> object:
    def load(text: str, *overrides: str) -> Grid:
        path = tmp_path / "grid.toml"
        path.write_text(text, encoding="utf-8")
        return load_grid(path, overrides, check=accept)

    return load


def labels(found: Grid) -> list[tuple[str, ...]]:
    return [(*cell.labels.values(), str(cell.seed)) for cell in found.cells]


def test_cells_are_the_product_of_the_axes_seed_by_seed(grid) -> None:
    found = grid(
        BASE
        + """
[grid]
reward.head = ["log-ratio", "scalar"]
regime.few = { data.demonstrations = 20 }
regime.style = { data.demonstrations = 100, "data.style" = "result-first" }
run.seed = [3, 5]
"""
    )
    assert found.axes == {"reward.head": ("log-ratio", "scalar"), "regime": ("few", "style")}
    rows = [("log-ratio", "few"), ("log-ratio", "style"), ("scalar", "few"), ("scalar", "style")]
    assert labels(found) == [(*row, seed) for seed in ("3", "5") for row in rows]
    last = found.cells[-1].recipe
    assert (last.reward.head, last.data.demonstrations, last.data.style, last.run.seed) == (
        Head.SCALAR,
        100,
        "result-first",
        5,
    )
    assert (last.data.test, found.name) == (7, "mine")


def test_a_base_recipe_stands_beside_the_grid_and_is_changed_by_its_sections(grid, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[data]\ntest = 9\nvalidation = 3\n[run]\narms = []\n", encoding="utf-8")
    found = grid('recipe = "base.toml"\n[data]\ntest = 7\n[grid]\nreward.head = ["scalar"]\n')
    (cell,) = found.cells
    assert (cell.recipe.data.test, cell.recipe.data.validation, cell.recipe.reward.head) == (7, 3, Head.SCALAR)


def test_what_the_recipe_refuses_leaves_with_its_reason(grid) -> None:
    found = grid(
        BASE
        + """
[adversarial]
scale_rewards = "none"
[grid]
adversarial.credit = ["trace-mean", "reward-to-go"]
adversarial.baseline = ["group-mean", "leave-one-out"]
run.seed = [0, 1]
"""
    )
    assert {row[:2] for row in labels(found)} == {
        ("trace-mean", "group-mean"),
        ("trace-mean", "leave-one-out"),
        ("reward-to-go", "group-mean"),
    }
    (removed,) = found.removed  # once, not once a seed
    assert list(removed.labels.values()) == ["reward-to-go", "leave-one-out"]
    assert "baseline must be group-mean with credit 'reward-to-go'" in removed.reason


def test_what_the_data_cannot_serve_leaves_too(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(BASE + "[grid]\ndata.questions = [5, 50]\nadversarial.group = [2, 4]\n", encoding="utf-8")

    def check(recipe: Recipe) -> None:
        if recipe.adversarial.group == 4:
            recipe.adversarial.check_questions(recipe.data.questions)

    found = load_grid(path, check=check)
    assert labels(found) == [("5", "2", "0"), ("50", "2", "0"), ("50", "4", "0")]
    assert "must be at most the number of questions" in found.removed[0].reason


def test_exclusions_match_all_their_labels(grid) -> None:
    found = grid(
        BASE
        + """
[ablation]
exclude = [
    { reward.head = "scalar", reward.granularity = ["dense", "sparse"] },
    { regime = "few", reward.head = "scalar" },
]
[grid]
reward.head = ["log-ratio", "scalar"]
reward.granularity = ["sparse", "interval", "dense"]
regime.few = { data.demonstrations = 20 }
regime.many = { data.demonstrations = 100 }
"""
    )
    scalar = [
        (cell.recipe.reward.granularity, cell.labels["regime"])
        for cell in found.cells
        if cell.labels["reward.head"] == "scalar"
    ]
    assert scalar == [(Granularity.INTERVAL, "many")]
    assert len(found.cells) == 6 + 1
    assert found.removed == ()


def test_several_grids_are_a_union_and_overrides_go_on_top(grid) -> None:
    text = BASE + '[[grid]]\nreward.head = ["scalar", "log-ratio"]\nrun.seed = [0, 1]\n[[grid]]\nsft.steps = [5]\n'
    found = grid(text)
    assert [cell.labels for cell in found.cells] == [
        {"reward.head": "scalar"},
        {"reward.head": "log-ratio"},
        {"sft.steps": "5"},
        {"reward.head": "scalar"},
        {"reward.head": "log-ratio"},
    ]
    alone = grid(text, "run.seed=9", "data.test=4")
    assert [(cell.seed, cell.recipe.data.test) for cell in alone.cells] == [(9, 4)] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[grid]\nreward.haed = ['scalar']", "grid must change known settings: got reward.haed"),
        ("[grid]\nreward.head = 'scalar'", "grid.reward.head must be a list of values: got 'scalar'"),
        ("[grid]\nregime = ['few']", "grid.regime must be a setting with its values, or a table of named points"),
        ("[grid]\nregime.few = {data.demos = 3}", "known settings: got data.demos"),
        ("[grid]\nreward.head = ['scalar', 'scaler']", "reward.head = 'scaler' must run in some combination"),
        ("[ablation]\nsort = 'pass_at_1'\n[grid]\nsft.steps = [1]", "which see no test problem: got 'pass_at_1'"),
        ("[ablation]\nmeasures = ['best']\n[grid]\nsft.steps = [1]", "ablation.measures must be of"),
        ("[ablation]\nmeasure = []\n[grid]\nsft.steps = [1]", "ablation.measure must be right"),
        ("[ablation]\ncompare = [['sft', 'x']]\n[grid]\nsft.steps = [1]\nrun.arms=[['sft']]", "got 'x'"),
        ("[ablation]\nexclude = [{sft.steps = 2}]\n[grid]\nsft.steps = [1]", "got sft.steps = '2'; sft.steps has 1"),
        ("[ablation]\nexclude = [{sft.step = 1}]\n[grid]\nsft.steps = [1]", "sft.step has no points, it is no axis"),
        ("[ablation]\nexclude = [{sft.steps = 1}]\n[grid]\nsft.steps = [1]", "grid must have a cell: got none"),
        ("recipe = 'none.toml'\n[grid]\nsft.steps = [1]", "recipe must be a TOML file: got"),
    ],
)
def test_mistakes_are_told_before_anything_runs(grid, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        grid(text)
    assert said in str(caught.value)


GRIDS = sorted(path for path in (ROOT / "recipes").glob("*.toml") if is_grid(path))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.name)
def test_every_shipped_grid_loads(path: Path) -> None:
    found = load_grid(path, check=accept)
    assert len(found.cells) > 3
    assert found.removed == ()
    assert found.name == path.stem


@pytest.mark.parametrize("name", ["search", "screening", "regimes", "stability"])
def test_every_grid_of_a_benchmark_loads(name: str) -> None:
    assert len(load_grid(ROOT / "benchmarks" / "objectives" / f"{name}.toml", check=accept).cells) >= 10


def test_shipped_grids_are_found() -> None:
    assert "ablation.toml" in {path.name for path in GRIDS}


def test_the_grid_on_the_page_is_good(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs/ablation.md").read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "grid.toml"
    path.write_text(text.replace('"demo.toml"', f'"{ROOT / "recipes/demo.toml"}"'), encoding="utf-8")
    assert len(load_grid(path, check=accept).cells) == 3 * (4 - 1)


def test_every_setting_of_a_grid_is_on_its_page() -> None:
    page = (ROOT / "docs/ablation.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", page, re.MULTILINE))
    shown = {name: field.get_default() for name, field in Ablation.model_fields.items()}
    assert table == {
        name: json.dumps(list(value) if isinstance(value, tuple) else value) for name, value in shown.items()
    }
    assert all(f"`{measure}`" in page for measure in MEASURES)


def test_a_file_with_a_grid_is_one(tmp_path: Path) -> None:
    for text, expected in (("[grid]\nsft.steps = [1]\n", True), ("[run]\nname = 'grid'\n", False)):
        (tmp_path / "file.toml").write_text(text, encoding="utf-8")
        assert is_grid(tmp_path / "file.toml") is expected


def test_labels_and_merging() -> None:
    assert [label(v) for v in (["sft", "outcome"], [], True, 0.5, "x")] == ["sft+outcome", "none", "true", "0.5", "x"]
    below = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(below, {"a": {"b": 9}, "e": {"f": 1}}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": {"f": 1}}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3}
