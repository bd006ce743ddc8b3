"""Recipes: what is refused, and how it is told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

import traceward
from traceward.ablation.grid import is_grid
from traceward.config import Arm, Recipe, load_recipe, resolve
from traceward.data.formats import Format
from traceward.data.tasks.worlds import WORLDS
from traceward.errors import ConfigError
from traceward.records import Credit, Granularity, Head, LabelSource, Start, UnitSpec
from traceward.transfer.matrix import is_matrix
from traceward.workflows.inputs import load_task

SHIPPED = [
    *(Path(__file__).parents[1] / "recipes").glob("*.toml"),
    *(Path(traceward.__file__).parent / "assets").glob("*.toml"),
]
# grids: tests/ablation/test_grid.py; matrices: tests/transfer/test_matrix.py
RECIPES = sorted(path for path in SHIPPED if not is_grid(path) and not is_matrix(path))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('[data]\ntest = 50\n[run]\nname = "mine"\n', encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_loads(path: Path) -> None:
    data = tomllib.loads(path.read_text(encoding="utf-8")).get("data", {})
    needs_path = data.get("task", "stories") not in WORLDS and "path" not in data
    found = load_recipe(path, ["data.path=somewhere"] if needs_path else [])
    assert found.run.name != Recipe().run.name
    assert resolve(found.model_dump(mode="json"), where="dump") == found


def test_recipes_are_found() -> None:
    names = {path.name for path in RECIPES}
    assert names >= {"demo.toml", "gsm8k-tiny.toml", *(f"{world}.toml" for world in WORLDS if world != "stories")}


@pytest.mark.parametrize("task", sorted({*WORLDS} - {"stories"}))
def test_a_world_needs_a_base_of_its_own(recipe: Path, task: str) -> None:
    assert "policy.path must be a base of task" in refusal(recipe, f"data.task={task}")
    assert "data.path must be no path" in refusal(recipe, f"data.task={task}", "policy.path=base", "data.path=there")
    found = load_recipe(recipe, [f"data.task={task}", "policy.path=base"])
    made = load_task(found.model_copy(update={"data": found.data.model_copy(update={"validation": 2, "test": 3})}))
    assert (made.name, len(made.test), len(made.validation)) == (task, 3, 2)


def test_what_is_left_out_keeps_its_default(recipe: Path) -> None:
    found = load_recipe(recipe)
    assert (found.run.name, found.data.test) == ("mine", 50)
    assert found.model_copy(update={"run": Recipe().run, "data": Recipe().data}) == Recipe()


def test_defaults_are_the_pure_setting() -> None:
    found = Recipe()
    assert found.critic.label_source is LabelSource.DEMONSTRATIONS
    assert found.critic.exclude_corruptions == ()
    assert found.reward.spec == UnitSpec(Granularity.INTERVAL)


@pytest.mark.parametrize("key", ["data.tset", "rewards", "policy.scratch.depth", "adversarial.group_size"])
def test_an_unknown_key_is_named_with_its_place(recipe: Path, key: str) -> None:
    assert refusal(recipe, f"{key}=1") == (
        f"{recipe}: {key}: must be a known key: got an unknown one; remove it or check its spelling"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.test=0", "data.test: input should be greater than or equal to 1: got 0"),
        ("adversarial.group=1", "adversarial.group: input should be greater than or equal to 2: got 1"),
        ("critic.smoothing=1.0", "critic.smoothing: input should be less than 1: got 1.0"),
        ("adversarial.credit=luck", "adversarial.credit: input should be 'trace-mean', 'reward-to-go', 'step-local'"),
        ("run.arms=[\"sft\", \"magic\"]", "run.arms.1: input should be"),
        ("critic.objective=gan", "critic.objective: input should be 'gail', 'airl', 'pairwise' or 'wgan-gp': got"),
        ("data.test=many", "data.test: input should be a valid integer"),
        ("reward.beta=0", "reward.beta: input should be greater than 0: got 0"),
        ("data=4", "data: input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_key(recipe: Path, override: str, said: str) -> None:
    text = refusal(recipe, override)
    assert text.startswith(f"{recipe}: {said}")
    assert text.endswith("; mend it")


def test_all_faults_are_told_at_once(recipe: Path) -> None:
    text = refusal(recipe, "data.test=0", "run.nmae=x")
    assert text.splitlines()[0].startswith(f"{recipe}: ")
    assert {"data.test", "run.nmae"} == {line.strip().split(": ")[1] for line in text.splitlines()}


def test_an_interval_belongs_to_interval_rewards(recipe: Path) -> None:
    assert load_recipe(recipe, ["reward.interval=15"]).reward.spec == UnitSpec(every=15)
    text = refusal(recipe, "reward.granularity=dense", "reward.interval=15")
    assert text.startswith(f"{recipe}: interval must belong to granularity 'interval': got 15 with 'dense'")


def test_bad_toml_names_the_line(recipe: Path) -> None:
    recipe.write_text("[run]\nname = mine\n", encoding="utf-8")
    text = refusal(recipe)
    assert text.startswith(f"{recipe}: recipe must be TOML: got ")
    assert "line 2" in text


def test_a_file_that_is_no_text_is_told(recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    assert "recipe must be TOML" in refusal(recipe)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml").startswith(f"recipe must be a TOML file: got '{tmp_path / 'no.toml'}'")
    assert "must be a TOML file" in refusal(tmp_path)


def test_overrides_take_toml_values_and_bare_words(recipe: Path) -> None:
    found = load_recipe(
        recipe,
        [
            "data.test=7",
            "critic.learning_rate=1e-4",
            'run.arms=["outcome"]',
            "reward.head=scalar",
            "data.format=think",
            "adversarial.credit='trace-mean'",
            "policy.path=some/where-else",
            "policy.scratch.layers=2",
            "run.name=a=b",
        ],
    )
    assert (found.data.test, found.critic.learning_rate, found.run.arms) == (7, 1e-4, (Arm.OUTCOME,))
    assert (found.reward.head, found.data.format, found.adversarial.credit) == (
        Head.SCALAR,
        Format.THINK,
        Credit.TRACE_MEAN,
    )
    assert (found.policy.path, found.policy.scratch.layers, found.run.name) == ("some/where-else", 2, "a=b")


def test_a_later_override_wins(recipe: Path) -> None:
    assert load_recipe(recipe, ["data.test=7", "data.test=8"]).data.test == 8


@pytest.mark.parametrize("override", ["data.test", "=5", "data..test=5", ".test=5", "data.=5", ""])
def test_a_malformed_override_is_told(recipe: Path, override: str) -> None:
    assert refusal(recipe, override).startswith(f"override must read section.key=value: got '{override}'")


def test_an_override_below_a_value_is_told(recipe: Path) -> None:
    assert "'test' is a value" in refusal(recipe, "data.test.deep=1")


def test_held_out_demonstrations_must_be_unseen(tmp_path: Path) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text('[reward]\nstart = "sft"\n', encoding="utf-8")
    assert "critic.held_out must be 0 with reward.start 'sft'" in refusal(recipe)
    assert load_recipe(recipe, ["critic.held_out=0"]).reward.start is Start.SFT


def test_a_task_with_files_needs_a_path_and_stories_take_none(recipe: Path) -> None:
    assert "data.path must be a path (or --data PATH) with task 'gsm8k': got None" in refusal(recipe, "data.task=gsm8k")
    assert "data.path must be no path with task 'stories': got there" in refusal(recipe, "data.path=there")
    assert load_recipe(recipe, ["data.task=jsonl", "data.path=there"]).data.path == Path("there")


def test_a_public_set_brings_its_packs_of_corruptions(recipe: Path) -> None:
    usual = ("general", "arithmetic", "structure")
    assert load_recipe(recipe).critic.corruption_packs == usual
    for task, packs in {
        "gsm8k": usual,
        "jsonl": usual,
        "mmlu-pro": ("general", "arithmetic", "multiple-choice"),
        "medreason": ("general", "multiple-choice", "clinical"),
    }.items():
        asked = [f"data.task={task}", "data.path=there"]
        assert load_recipe(recipe, asked).critic.corruption_packs == packs
        found = load_recipe(recipe, [*asked, 'critic.corruption_packs=["clinical"]', "critic.grad_norm=2.0"])
        assert found.critic.corruption_packs == ("clinical",)
        assert load_recipe(recipe, [*asked, "critic.grad_norm=2.0"]).critic.corruption_packs == packs
        assert resolve(json.loads(found.model_dump_json()), where="config.json") == found
    kinds = load_recipe(recipe, ["data.task=medreason", "data.path=there"]).critic.corruption_kinds
    assert {"direction-flip", "option-text", "entity-swap"} <= set(kinds)
    assert "operator-flip" not in kinds


def test_packs_are_checked(recipe: Path) -> None:
    assert "must name packs among arithmetic, general" in refusal(recipe, 'critic.corruption_packs=["legal"]')
    text = refusal(recipe, 'critic.corruption_packs=["clinical"]', 'critic.exclude_corruptions=["direction-flap"]')
    assert "got direction-flap" in text
    assert "must leave a kind of corruption_packs" in refusal(recipe, "critic.corruption_packs=[]")
    assert load_recipe(recipe, ["critic.corruption_packs=[]", "critic.corruptions=0"]).critic.corruption_kinds == []


def test_a_resolved_recipe_round_trips_through_json(recipe: Path) -> None:
    found = load_recipe(recipe, ["data.task=jsonl", "data.path=there", "reward.interval=5", "run.arms=[]"])
    dumped = json.loads(json.dumps(found.model_dump(mode="json")))
    assert resolve(dumped, where="config.json") == found


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().run.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["critic.objective=wgan-gp"], "reward.head must be 'scalar' with critic.objective 'wgan-gp'"),
        (
            ["critic.objective=wgan-gp", "reward.head=scalar", 'run.variants=["log-ratio:dense"]'],
            "reward.head must be 'scalar' with critic.objective 'wgan-gp'",
        ),
        (["critic.objective=airl", "reward.beta=0.5"], "reward.beta must be 1 with critic.objective 'airl'"),
    ],
)
def test_what_an_objective_cannot_do_is_said_when_the_recipe_is_read(
    recipe: Path, overrides: list[str], said: str
) -> None:
    text = refusal(recipe, *overrides)
    assert said in text
    assert str(recipe) in text


@pytest.mark.parametrize("head", ["scalar", "log-ratio"])
@pytest.mark.parametrize("objective", ["gail", "airl", "pairwise"])
def test_objectives_and_heads_that_go_together(recipe: Path, objective: str, head: str) -> None:
    assert load_recipe(recipe, [f"critic.objective={objective}", f"reward.head={head}"])
