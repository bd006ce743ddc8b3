"""Dry runs: every recipe becomes a small one, and every stage of it runs on each architecture, adapted and whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Qwen3Config

from traceward import cli
from traceward.ablation.grid import is_grid
from traceward.builtin import TOKENIZER
from traceward.builtin.stand_ins import shrunk, stand_in
from traceward.config import Recipe, load_recipe
from traceward.data.jsonl import write_jsonl
from traceward.errors import ConfigError, DataError
from traceward.loading import config_here, load_tokenizer
from traceward.planning.shapes import shape
from traceward.training.run_directory import RunDirectory
from traceward.transfer.matrix import is_matrix
from traceward.workflows import train
from traceward.workflows.dry_run import AT_MOST, ROWS, dry_run, first_recipe
from traceward.workflows.inputs import load_task
from traceward.workflows.pool import part_name
from traceward.workflows.stages import do_stage
from traceward.workflows.train import check, plan

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = sorted(p for p in RECIPES.rglob("*.toml") if p.parent.name != "parts" and not is_matrix(p))
HUB = {"qwen2": "Qwen/Qwen2.5-7B-Instruct", "qwen3": "Qwen/Qwen3-4B", "llama": "meta-llama/Llama-3.1-8B-Instruct"}
FORMS = {"adapters": "gsm8k-qwen2.5-7b.toml", "whole": "gsm8k-qwen2.5-7b-full.toml"}
TEXTS = ["Ann has 1 + 2 = 3 pens. system user assistant"]


def small(path: Path, room: Path, *overrides: str) -> Recipe:
    """The recipe that a dry run runs."""
    made = dry_run(first_recipe(path, overrides=overrides), room)
    return first_recipe(path, overrides=[*overrides, *made.overrides])


# ---- every recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_recipe_becomes_a_small_one_that_can_run(path: Path, tmp_path: Path) -> None:
    needs = ["data.path='nowhere'"] if path.name == "gsm8k-tiny.toml" else []
    asked, found = first_recipe(path, overrides=needs), small(path, tmp_path, *needs)
    check(found, load_task(found))
    assert list(plan(found)) == list(plan(asked))
    for key, most in AT_MOST.items():
        section, _, name = key.rpartition(".")
        holder = found
        for part in section.split("."):
            holder = getattr(holder, part)
        value = getattr(holder, name)
        assert value is None or value <= most, key
    # What chooses the code that runs is the recipe's.
    assert found.policy.adapter == asked.policy.adapter
    assert (found.reward.head, found.reward.spec) == (asked.reward.head, asked.reward.spec)
    assert (found.reward.shares_backbone, found.data.format) == (asked.reward.shares_backbone, asked.data.format)
    assert found.critic.corruption_packs == asked.critic.corruption_packs
    assert (found.critic.objective, found.adversarial.credit) == (asked.critic.objective, asked.adversarial.credit)


def test_there_is_a_recipe_for_each_set_and_model_of_the_paper() -> None:
    for data in ("gsm8k", "mmlu-pro", "medreason"):
        for model in ("qwen2.5-7b", "llama-3.1-8b", "qwen3-4b"):
            found = load_recipe(RECIPES / "paper" / f"{data}-{model}.toml")
            assert (found.data.task, found.run.name) == (data, f"{data}-{model}")
            assert shape(found.policy.path) is not None
            assert found.adversarial.clip == (2.0 if data == "mmlu-pro" else 5.0)
            assert found.adversarial.rollouts == 128
            assert found.policy.adapter.scale == found.reward.adapter.scale == 512


# ---- stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reach(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], RunDirectory]:
    """Runs a stage of a dry run and what it waits for, once."""
    runs: dict[tuple[str, str], RunDirectory] = {}

    def to(family: str, form: str, stage: str) -> RunDirectory:
        if (family, form) not in runs:
            room = tmp_path_factory.mktemp(f"{family}-{form}")
            hub = f"policy.path={HUB[family]}"
            runs[family, form] = RunDirectory.create(room / "run", small(RECIPES / "paper" / FORMS[form], room, hub))
        run = runs[family, form]
        for first in plan(run.recipe())[stage]:
            to(family, form, first)
        if run.part(part_name(stage)) is None:
            do_stage(run, stage)
        return run

    return to


# TRL still says it in the words that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("stage", ["sft", "reward", "outcome", "adversarial", "judge"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", HUB)
def test_every_stage_runs_on_every_architecture(
    reach: Callable[[str, str, str], RunDirectory], family: str, form: str, stage: str
) -> None:
    run = reach(family, form, stage)
    place = {"reward": "reward/model", "judge": "reward/model"}.get(stage, f"policies/{stage}")
    assert (run.path / place / "adapter_config.json").exists() is (form == "adapters")
    found = run.part(stage)
    assert found is not None
    if stage in ("outcome", "adversarial"):
        assert [row["step"] for row in found["curve"]] == [0, 1, 2]
        assert found["pass_at"] == {"1": found["pass_at_1"]}


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B-Instruct", *HUB.values()])
def test_a_stand_in_is_its_architecture_shrunk(name: str, tmp_path: Path) -> None:
    said = stand_in(name, TEXTS, tmp_path)
    large, tiny = shape(name), config_here(tmp_path)
    assert large is not None
    assert tiny is not None
    assert said.startswith(f"a random {large.model_type} of 2 layers")
    assert (tiny.model_type, tiny.tie_word_embeddings) == (large.model_type, large.tie_word_embeddings)
    assert tiny.rope_parameters == large.rope_parameters
    assert (tiny.num_attention_heads > tiny.num_key_value_heads) is True
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (model.model.layers[0].self_attn.q_proj.bias is not None) is (large.model_type == "qwen2")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template
    assert tiny.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_model_on_disk_keeps_its_tokenizer(policy: Path, tmp_path: Path) -> None:
    stand_in(str(policy), TEXTS, tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(policy).get_vocab()


def test_a_model_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be on disk, or of a family that is known .* got 'some/where'"):
        stand_in("some/where", TEXTS, tmp_path)


def test_other_kinds_of_model_are_told() -> None:
    class Other(Qwen3Config):  # type: ignore[misc]
        def to_dict(self) -> dict[str, object]:
            return {"model_type": "other", "hidden_size": 8}

    with pytest.raises(ConfigError, match="got qwen3 without intermediate_size, num_attention_heads, num_hidden"):
        shrunk(Other(), load_tokenizer(TOKENIZER))


# ---- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["gsm8k", "mmlu-pro", "medreason", "math", "jsonl"])
def test_rows_of_ours_stand_in_for_sets_that_are_not_there(task: str, tmp_path: Path) -> None:
    found = small(RECIPES / "one-gpu" / "qwen2.5-0.5b.toml", tmp_path, f"data.task={task}")
    given = load_task(found)
    assert (len(given.demonstrations), len(given.validation), len(given.test)) == (6, 2, 2)
    for item in (*given.demonstrations, *given.test):
        assert given.judge(item.problem, item.trace).correct
    assert ("Options:" in given.test[0].problem.question) is (task in ("mmlu-pro", "medreason"))


def test_the_rows_of_ours_are_whole() -> None:
    assert {path.name for path in ROWS.iterdir()} == {"gsm8k", "mmlu-pro", "medreason"}


def test_data_on_disk_are_read_whole_and_used_in_part(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "steps": [f"{n} + 1 = {n + 1}"], "answer": str(n + 1)} for n in range(40)]
    data = tmp_path / "mine"
    data.mkdir()
    write_jsonl(data / "train.jsonl", rows[:30])
    write_jsonl(data / "test.jsonl", rows[30:])
    recipe, asked = RECIPES / "one-gpu" / "qwen2.5-0.5b.toml", ["data.task=jsonl", f"data.path={str(data)!r}"]
    made = dry_run(first_recipe(recipe, overrides=[*asked, "data.demonstrations=20"]), tmp_path / "room")
    assert f"data.path: 20 demonstrations of {data} were read, a few are used" in made.notes
    given = load_task(first_recipe(recipe, overrides=[*asked, *made.overrides]))
    assert (len(given.demonstrations), len(given.test)) == (6, 2)
    assert {d.problem.question for d in given.demonstrations} <= {row["question"] for row in rows[:30]}
    write_jsonl(data / "train.jsonl", [*rows[:30], {"question": "Why?"}])
    with pytest.raises(DataError, match=r"train\.jsonl"):
        dry_run(first_recipe(recipe, overrides=asked), tmp_path / "other")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "work", lambda *_, **__: None)
    monkeypatch.setattr(cli.learn, "page_of", lambda *_: tmp_path / "report.html")
    recipe = RECIPES / "paper" / "medreason-qwen3-4b.toml"
    code = cli.run(["train", str(recipe), "--dry-run", "--out", str(tmp_path), "--set", "reward.granularity=dense"])
    told = capsys.readouterr()
    assert code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == "dry run: every stage runs once, and no figure means anything"
    assert "a random qwen3 of 2 layers" in told.out
    assert "skipped: weights in 4 bit; they are bfloat16 here" in lines
    assert lines[-1].startswith("dry run: all stages ran, in ")
    found = RunDirectory(tmp_path / "run").recipe()
    assert found.run.name == "medreason-qwen3-4b-dry-run"
    assert found.reward.granularity == "dense"


def test_a_grid_is_tried_cell_by_cell(tmp_path: Path) -> None:
    path = RECIPES / "paper" / "granularity.toml"
    assert is_grid(path)
    assert small(path, tmp_path).reward.granularity == "sparse"
