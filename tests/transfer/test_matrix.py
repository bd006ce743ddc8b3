"""Matrices read from TOML: which places there are, under which recipes, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from traceward.config import Arm
from traceward.data.tasks.story_words import Shift
from traceward.errors import ConfigError
from traceward.records import Head
from traceward.transfer.matrix import Matrix, MatrixSettings, is_matrix, load_matrix
from traceward.transfer.run import plan_matrix

ROOT = Path(__file__).parents[2]
BASE = '[run]\nname = "mine"\narms = ["adversarial"]\nvariants = ["scalar:dense"]\n[data]\ntest = 7\n'


@pytest.fixture
def matrix(tmp_path: Path) -> Any:
    def load(text: str, *overrides: str, seed: int | None = None) -> Matrix:
        path = tmp_path / "matrix.toml"
        path.write_text(text, encoding="utf-8")
        return load_matrix(path, overrides, seed=seed)

    return load


def test_places_are_the_base_with_their_changes_at_every_seed(matrix: Any) -> None:
    found = matrix(
        BASE
        + """
[matrix]
seeds = [3, 5]
[learn.plain]
[learn.scalar]
reward.head = "scalar"
data.demonstrations = 9
[use.longer]
data.shift = "longer"
evaluation.samples = 3
"""
    )
    assert (found.name, found.seeds) == ("mine", (3, 5))
    assert {name: list(by_seed) for name, by_seed in found.learn.items()} == {"plain": [3, 5], "scalar": [3, 5]}
    one = found.learn["scalar"][5]
    assert (one.run.seed, one.reward.head, one.data.demonstrations, one.data.test) == (5, Head.SCALAR, 9, 7)
    assert (one.run.arms, one.run.variants) == ((Arm.SFT,), ())
    (used,) = found.use.values()
    assert (used[3].data.shift, used[3].evaluation.samples, used[3].reward.head) == (Shift.LONGER, 3, Head.LOG_RATIO)


def test_rewards_are_used_where_they_are_learned_and_a_place_is_known_by_its_name(matrix: Any) -> None:
    learned = '[learn.a]\n[learn.b]\ndata.style = "result-first"\ndata.demonstrations = 8\n'
    found = matrix(BASE + learned)
    assert found.use == found.learn
    found = matrix(BASE + learned + "[use.b]\ndata.test = 5\n[use.c]\n")
    assert list(found.use) == ["b", "c"]
    both = [(one[0].data.style, one[0].data.test) for one in found.use.values()]
    assert both == [("result-first", 5), ("usual", 7)]


def test_a_base_stands_beside_the_file_and_overrides_go_on_top(matrix: Any, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[data]\ntest = 9\nvalidation = 3\n", encoding="utf-8")
    text = 'recipe = "base.toml"\n[data]\ntest = 7\n[learn.a]\n[use.b]\ndata.test = 8\n'
    found = matrix(text)
    assert [one[0].data.test for one in (found.learn["a"], found.use["b"])] == [7, 8]
    assert found.learn["a"][0].data.validation == 3
    found = matrix(text, "data.test=4", seed=6)
    assert [one[6].data.test for one in (found.learn["a"], found.use["b"])] == [4, 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[learn.a]\ndata.shfit = 'longer'", "matrix.toml: learn.a: data.shfit: must be a known key"),
        ("[learn.a]\n[use.b]\ndata.shift = 'shorter'", "matrix.toml: use.b: data.shift: input should be 'none'"),
        ("[lern.a]\n[learn.a]", "matrix.toml: learn.a: lern: must be a known key"),
        ("[use.a]", "learn must name a place: got none; add a [learn.NAME] table"),
        ("learn = 3", "learn must hold tables of named places: got 3; write [learn.NAME]"),
        ("[learn]\na = 3", "learn must hold tables of named places: got 3; write [learn.a]"),
        ("[learn.a]\nrun.seed = 3", "learn.a must change data, policy, "),
        ("[learn.a]\nadversarial.steps = 3", "got adversarial.steps, which is not read there"),
        ("[learn.a]\n[use.b]\nreward.head = 'scalar'", "use.b must change data, policy, evaluation.samples, "),
        ("[matrix]\nseeds = []\n[learn.a]", "matrix.seeds must be right: got Tuple should have at least 1"),
        ("[matrix]\nseed = 1\n[learn.a]", "matrix.seed must be right: got Extra inputs are not permitted"),
        ("recipe = 'none.toml'\n[learn.a]", "recipe must be a TOML file: got"),
    ],
)
def test_mistakes_are_told_with_their_place(matrix: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        matrix(text)
    assert said in str(caught.value)


def test_what_the_matrix_says_cannot_be_overridden(matrix: Any) -> None:
    with pytest.raises(ConfigError, match=r"must not be of run.seed or run.arms in a matrix: got 'run.seed=3'"):
        matrix("[learn.a]", "run.seed=3")


def test_equal_work_is_planned_once(matrix: Any) -> None:
    found = matrix(
        BASE
        + """
[matrix]
seeds = [0, 1]
[learn.a]
[learn.b]
reward.head = "scalar"
[use.a]
[use.longer]
data.shift = "longer"
"""
    )
    parts, pairs = plan_matrix(found, lambda _recipe: {})
    stages = [part.stage for part, _ in parts.values()]
    # Two rewards on the same rollouts and demonstrations: one SFT, one set of rollouts; two places with samples.
    assert {stage: stages.count(stage) for stage in stages} == {
        "rollouts": 2,
        "sft": 2,
        "reward": 4,
        "samples": 4,
        "transfer": 8,
    }
    assert [(p.learn, p.use, p.seed) for p in pairs[:4]] == [
        *(("a", "a", 0), ("a", "longer", 0), ("b", "a", 0), ("b", "longer", 0)),
    ]
    order = list(parts)
    for part, _ in parts.values():
        assert all(order.index(name) < order.index(part.name) for name in part.waits)
    abouts = {about for part, about in parts.values() if part.stage == "transfer"}
    assert "b → longer · seed 1" in abouts
    pair = pairs[1].part
    assert list(pair.beside) == ["learned", "tuned", "used"]
    assert [name.rpartition("-")[0] for name in pair.beside.values()] == ["reward", "sft", "samples"]


def test_another_reward_or_another_place_is_another_pair(matrix: Any) -> None:
    def pair(text: str, data: str = "") -> str:
        _, pairs = plan_matrix(matrix(BASE + text), lambda _recipe: {"test": data})
        return pairs[-1].part.name

    first = pair("[learn.a]")
    assert first == pair("[learn.another-name]")
    others = ["[learn.a]\ncritic.learning_rate = 1e-9", "[learn.a]\nsft.steps = 3", "[learn.a]\n[use.b]\ndata.test = 8"]
    names = {first, *(pair(text) for text in others), pair("[learn.a]", data="other")}
    assert len(names) == 5


MATRICES = sorted(
    path for room in ("recipes", "benchmarks/transfer") for path in (ROOT / room).glob("*.toml") if is_matrix(path)
)


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.name)
def test_every_shipped_matrix_loads(path: Path) -> None:
    found = load_matrix(path)
    assert len(found.learn) >= 2
    assert len(found.seeds) >= 3


def test_shipped_matrices_are_found() -> None:
    assert {"transfer.toml", "tasks.toml", "backbones.toml", "sizes.toml"} <= {path.name for path in MATRICES}


def test_the_matrix_on_the_page_is_good(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs/transfer.md").read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "matrix.toml"
    path.write_text(text.replace('"demo.toml"', f'"{ROOT / "recipes/demo.toml"}"'), encoding="utf-8")
    found = load_matrix(path)
    assert (len(found.learn), len(found.use)) == (2, 3)


def test_every_setting_of_a_matrix_is_on_its_page() -> None:
    page = (ROOT / "docs/transfer.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", page, re.MULTILINE))
    shown = {name: json.dumps(list(field.get_default())) for name, field in MatrixSettings.model_fields.items()}
    assert {name: table[name] for name in shown} == shown
