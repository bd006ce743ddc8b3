"""README and docs against the code: names, settings, commands, links and Python blocks must be real."""

from __future__ import annotations

import inspect
import json
import random
import re
import shlex
from collections.abc import Iterator
from enum import Enum
from itertools import pairwise
from pathlib import Path

import pytest
import transformers
import typer
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from traceward.builtin import STORIES_BASE
from traceward.cli import app, run
from traceward.config import Recipe, load_recipe
from traceward.data import corruptions
from traceward.data.corruptions import registry
from traceward.data.formats import Format, completion_text, parse_completion
from traceward.data.jsonl import write_jsonl
from traceward.data.shapes import KNOWN
from traceward.data.tasks import stories
from traceward.data.tasks.registry import world_task
from traceward.data.tasks.sets import SETS
from traceward.data.tasks.worlds import WORLDS
from traceward.loading import load_causal_lm
from traceward.objectives import advantages, discriminator, wasserstein
from traceward.records import Head, Problem, Trace, UnitSpec, Verdict
from traceward.rewards.model import new_reward
from traceward.training.run_directory import RunDirectory
from traceward.training.section import Section
from traceward.workflows.dry_run import dry_run, first_recipe
from traceward.workflows.inputs import load_task
from traceward.workflows.results import write_results
from traceward.workflows.train import check

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [
    ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
]}  # fmt: skip
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TREES = ("src", "docs", "recipes", "tests", "benchmarks")
_STAND_INS = ("PATH/", "STAGE", "NAME", "…")


def blocks(page: str, language: str) -> list[str]:
    return [text for name, text in _FENCE.findall(PAGES[page]) if name == language]


def rows(text: str) -> dict[str, list[str]]:
    """Table rows by their first cell, in code font there."""
    found = re.findall(r"^\| `([^|`]+)` \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# ---- settings --------------------------------------------------------------------------------------------------------


def sections(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        if isinstance(field.default, Section):
            yield prefix + key, type(field.default)
            yield from sections(type(field.default), f"{prefix}{key}.")


def spelt(value: object) -> set[object]:
    """The ways in which a table may write a default."""
    if value is None:
        return {"–"}
    if isinstance(value, str | Enum):
        return {f'`"{value}"`'}
    if isinstance(value, tuple):
        return {f"`[{', '.join(json.dumps(str(item)) for item in value)}]`"}
    return {f"`{value}`"}


@pytest.mark.parametrize(("name", "model"), list(sections()), ids=str)
def test_every_setting_is_on_the_page_with_its_default(name: str, model: type[BaseModel]) -> None:
    parts = re.split(r"^## \[(.+)\]$", PAGES["docs/recipes.md"], flags=re.MULTILINE)
    table = rows(dict(zip(parts[1::2], parts[2::2], strict=True))[name])
    keys = {key: field.default for key, field in model.model_fields.items() if not isinstance(field.default, Section)}
    assert list(table) == list(keys)
    for key, default in keys.items():
        assert table[key][0] in spelt(default), key
        assert len(table[key][1]) > 3, key


def test_the_recipe_on_the_page_and_its_overrides_are_good(tmp_path: Path) -> None:
    (text,) = blocks("docs/recipes.md", "toml")
    recipe = tmp_path / "my-run.toml"
    recipe.write_text(text, encoding="utf-8")
    assert load_recipe(recipe, ["adversarial.steps=100", "reward.head=scalar"]).reward.head is Head.SCALAR


# ---- names and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", PAGES[page])):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_code_font_exist(page: str) -> None:
    for word in re.findall(r"(?<!`)`([\w./-]+/[\w.-]*)`", PAGES[page]):
        if word.split("/")[0] in _TREES:
            assert (ROOT / word).exists(), word
        elif word.endswith(".py"):
            assert (ROOT / "src/traceward" / word).exists(), word


def commands(page: str) -> Iterator[list[str]]:
    text = PAGES[page]
    lines = [line.removeprefix("$ ") for name, block in _FENCE.findall(text) if not name for line in block.split("\n")]
    lines += re.findall(r"(?<!`)`((?:traceward|make|python) [^`]+)`", text)
    for line in lines:
        if re.match(r"(traceward (?!\[)[a-z]|make [a-z]|python [\w/-])", line) and "error:" not in line:
            yield shlex.split(line.split("  #")[0])


def set_words(command: list[str], *, data: bool = True) -> list[str]:
    """What a command changes in its recipe."""
    places = [f"data.path={after!r}" for flag, after in pairwise(command) if flag == "--data" and data]
    return [*places, *(after for flag, after in pairwise(command) if flag == "--set")]


def recipe_of(command: list[str]) -> str:
    """The recipe that a command runs; for one of the reader's own the demo's."""
    given = [word for word in command if word.startswith("recipes/")]
    return given[0] if given and command[1] == "train" else "recipes/demo.toml"


@pytest.mark.parametrize("page", ["docs/paper.md", "docs/one-gpu.md", "docs/many-gpus.md"])
def test_the_recipes_on_the_page_run_dry(page: str, tmp_path: Path) -> None:
    trained = [command for command in commands(page) if command[:2] == ["traceward", "train"]]
    assert trained
    for at, command in enumerate(trained):
        recipe, asked = ROOT / recipe_of(command), set_words(command)
        made = dry_run(first_recipe(recipe, overrides=asked), tmp_path / str(at))
        found = first_recipe(recipe, overrides=[*asked, *made.overrides])
        check(found, load_task(found))


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_options(page: str, tmp_path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, verb, *rest in commands(page):
        if program == "make":
            assert verb in targets
        elif program == "python":
            assert (ROOT / verb).is_file()
        elif verb == "scor":  # shown for its message
            continue
        else:
            options = {option for parameter in VERBS[verb].params for option in parameter.opts} | {"--help"}
            assert {word for word in rest if word.startswith("--")} <= options, (verb, rest)
            for word in (word for word in rest if word.startswith("recipes/")):
                assert (ROOT / word).is_file()
            trained = verb == "train"
            changed = [
                word for word in set_words(rest, data=trained) if "smooting" not in word
            ]  # shown for its message
            if changed:
                first_recipe(ROOT / recipe_of([program, verb, *rest]), overrides=changed)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_and_option_is_on_the_page(verb: str) -> None:
    parts = re.split(r"^## ([a-z]+)$", PAGES["docs/command-line.md"], flags=re.MULTILINE)
    text = dict(zip(parts[1::2], parts[2::2], strict=True))[verb]
    assert f"$ traceward {verb} " in text
    for parameter in VERBS[verb].params:
        if parameter.name != "help":
            assert f"| `{parameter.opts[0]}" in text or f"| `{parameter.name.upper()}" in text, parameter.name


def test_every_equation_is_on_its_page() -> None:
    for module in (advantages, discriminator, wasserstein):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                assert f"`{name}`" in PAGES["docs/objectives.md"], name


def test_every_key_of_the_results_is_on_its_page(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", Recipe())
    write_results(
        run, world_task(stories.world(), demonstrations=4, questions=0, validation=0, test=1, seed=0), seconds=1.0
    )
    found = json.loads((run.path / "results.json").read_text(encoding="utf-8"))
    named = set(re.findall(r"`([\w.]+)`", PAGES["docs/results.md"]))
    inner = {key for name in ("rerank", "localise_hit_at_1", "policy_pass_at_1") for key in found[name]}
    assert {*found, *inner} <= named


def shown_traces(page: str) -> list[tuple[Problem, Trace]]:
    """Traces of a page: a question, a blank line, numbered lines."""
    found = re.findall(r"^```\n((?:(?!\d ).+\n)+)\n((?:\d .*\n)+)```", PAGES[page], re.MULTILINE)
    return [
        (Problem("shown", question.strip()), parse_completion(re.sub(r"(?m)^\d ", "", lines), Format.PLAIN))
        for question, lines in found
    ]


def test_the_traces_on_the_pages_are_right() -> None:
    shown = [*shown_traces("docs/data.md")[:1], *shown_traces("docs/worlds.md")]
    assert len(shown) == len(WORLDS)
    for (problem, trace), world in zip(shown, WORLDS.values(), strict=True):
        assert world.judge(problem, trace) == Verdict(True, -1)


def test_the_table_of_corruptions_is_what_they_do() -> None:
    table = rows(PAGES["docs/data.md"])
    shown = [*shown_traces("docs/data.md"), *shown_traces("docs/worlds.md")]
    for kind, function in corruptions.REGISTRY.items():
        made = ((trace, function(problem, trace, random.Random(1))) for problem, trace in shown)
        trace, found = next((trace, found) for trace, found in made if found is not None)
        before, after = (completion_text(one, Format.PLAIN).split("\n") for one in (trace, found.trace))
        cells = table[kind]
        assert cells[2] == str(found.first_error), kind
        lines = re.findall(r"`([^`]+)`", cells[1])
        assert lines == [line for line in after if line not in before or (kind == "steps-swap" and line in lines)], kind


def test_the_table_of_packs_is_what_they_hold() -> None:
    table = rows(PAGES["docs/data.md"].partition("### Packs")[2])
    assert {pack: re.findall(r"`([^`]+)`", cells[0]) for pack, cells in table.items()} == {
        pack: corruptions.kinds_of([pack]) for pack in corruptions.PACKS
    }


def test_every_public_set_is_on_its_page_with_its_hub_name() -> None:
    table = rows(PAGES["docs/data.md"])
    for name, public in SETS.items():
        assert table[name][0] == f"`{public.hub}`"


# ---- Python blocks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A directory with what the pages take for granted: a reward, and traces."""
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))  # a page may register a kind of its own
    base = load_causal_lm(STORIES_BASE)
    new_reward(base, tokenizer, head=Head.LOG_RATIO, spec=UnitSpec(), style=Format.PLAIN).save(tmp_path / "reward")
    item = stories.demonstrations(1, seed=1)[0]
    write_jsonl("traces.jsonl", [{"question": item.problem.question, "steps": list(item.trace.steps)}] * 201)
    return tmp_path


# TRL still says it in the words that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for source, shown in re.findall(r"^```python\n(.*?)^```$(?:\n\n```\n([^$].*?)^```$)?", PAGES[page], re.S | re.M):
        capsys.readouterr()
        exec(compile(source, page, "exec"), names)
        printed = capsys.readouterr().out
        if shown and page == "docs/extending.md":  # elsewhere figures depend on a trained reward
            assert printed == shown
        elif shown:
            assert printed.count("\n") == shown.count("\n")


def test_the_pages_leave_files_that_the_verbs_can_read(desk: Path) -> None:
    for source in blocks("docs/command-line.md", "python"):
        exec(compile(source, "command-line", "exec"), {})
    for name, fields in {"demonstrations": {"question", "steps", "answer"}, "labelled": {"first_error"}}.items():
        first = json.loads((desk / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[0])
        assert fields <= set(first)


def test_the_transcripts_of_own_data_are_what_is_printed(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = "docs/own-data.md"
    names: dict[str, object] = {}
    for source in blocks(page, "python"):
        exec(compile(source, page, "exec"), names)
    shown = [block for block in blocks(page, "") if block.startswith("$ ")]
    assert len(shown) == 2
    for block in shown:
        command, expected = block.removeprefix("$ traceward ").split("\n", 1)
        run(shlex.split(command))
        told = capsys.readouterr()
        lines = [line.rstrip() for line in (told.out or told.err).rstrip().splitlines()]
        assert [line for line in lines if not line.startswith("seconds")] == [
            line for line in expected.rstrip().splitlines() if not line.startswith("seconds")
        ]
    (text,) = blocks(page, "toml")
    (desk / "mine.toml").write_text(text, encoding="utf-8")
    task = load_task(load_recipe(desk / "mine.toml"))
    assert (len(task.demonstrations), len(task.validation), len(task.test)) == (85, 7, 8)


def test_the_shapes_of_own_data_are_those_that_are_known() -> None:
    table = re.findall(r"^\| ([\w/]+) \| [`a]", PAGES["docs/own-data.md"], re.MULTILINE)
    assert sorted(table) == sorted(KNOWN)
