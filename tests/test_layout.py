"""The import rules of CONTRIBUTING.md, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import traceward

ROOT = Path(traceward.__file__).parent
MODEL_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "safetensors")
OPTIONAL_PACKAGES = ("vllm", "fastapi", "starlette", "uvicorn", "wandb", "bitsandbytes", "deepspeed")
FILE_LINES, FUNCTION_LINES = 350, 60


@dataclass(frozen=True)
class Source:
    """One file: its dotted name and everything it imports at run time, late imports included."""

    path: Path
    module: str
    imports: frozenset[str]

    def inside(self, *packages: str) -> bool:
        return any(_within(self.module, f"traceward.{package}") for package in packages)

    def uses(self, *packages: str) -> set[str]:
        return {name for name in self.imports for package in packages if _within(name, package)}


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run; what stands under `if TYPE_CHECKING` does not."""
    yield tree
    if _is_type_checking(tree):
        assert isinstance(tree, ast.If)
        children: Iterator[ast.AST] = iter(tree.orelse)
    else:
        children = ast.iter_child_nodes(tree)
    for child in children:
        yield from _nodes(child)


def imports_of(text: str, module: str) -> frozenset[str]:
    """Dotted names of modules and of names taken from them; relative ones are resolved from `module`."""
    found: set[str] = set()
    for node in _nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
            "import_module",
            "__import__",
        }:
            found.update(
                item.value for item in node.args if isinstance(item, ast.Constant) and isinstance(item.value, str)
            )
    return frozenset(found)


def _sources() -> list[Source]:
    sources = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("traceward", *path.relative_to(ROOT).with_suffix("").parts)
        # A package keeps its last part "__init__", so that one dot always drops one part.
        found = imports_of(path.read_text(encoding="utf-8"), ".".join(parts))
        sources.append(Source(path, ".".join(parts).removesuffix(".__init__"), found))
    return sources


SOURCES = _sources()


def _broken(packages: tuple[str, ...], forbidden: tuple[str, ...]) -> dict[str, set[str]]:
    """The files inside `packages` that import something of `forbidden`."""
    return {s.module: s.uses(*forbidden) for s in SOURCES if s.inside(*packages) and s.uses(*forbidden)}


def test_the_reader_of_imports_sees_late_and_relative_ones_and_skips_types() -> None:
    text = """
from typing import TYPE_CHECKING
from ..data import formats
if TYPE_CHECKING:
    import torch
else:
    import json
def late():
    try:
        from vllm import LLM
    except ImportError:
        import_module("wandb")
"""
    assert imports_of(text, "traceward.rewards.model") == {
        *("typing", "typing.TYPE_CHECKING", "traceward.data", "traceward.data.formats"),
        *("json", "vllm", "vllm.LLM", "wandb"),
    }


def test_nothing_imports_the_command_line() -> None:
    users = {s.module for s in SOURCES if s.uses("traceward.cli") and not s.inside("cli")}
    assert users == {"traceward.__main__"}


@pytest.mark.parametrize("package", ["serve", "report"])
def test_only_the_command_line_imports(package: str) -> None:
    users = {s.module for s in SOURCES if s.uses(f"traceward.{package}") and not s.inside("cli", package)}
    assert users == set()


def test_objectives_import_torch_and_records_only() -> None:
    allowed = ("torch", "traceward.records", "traceward.objectives", *sorted(sys.stdlib_module_names))
    for source in SOURCES:
        if source.inside("objectives"):
            assert source.imports == source.uses(*allowed), source.module


def test_training_and_evaluation_never_import_each_other() -> None:
    assert _broken(("training",), ("traceward.evaluation",)) == {}
    assert _broken(("evaluation",), ("traceward.training",)) == {}


def test_data_import_no_models() -> None:
    ours = tuple(
        f"traceward.{name}" for name in ("loading", "rewards", "training", "evaluation", "sampling", "builtin")
    )
    assert _broken(("data",), (*MODEL_PACKAGES, *ours)) == {}


def test_report_imports_no_models() -> None:
    assert _broken(("report",), MODEL_PACKAGES) == {}


def test_only_rewards_and_the_loader_open_pretrained_files() -> None:
    users = {
        source.module
        for source in SOURCES
        for node in ast.walk(ast.parse(source.path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "from_pretrained"
        and not source.inside("rewards", "loading")
    }
    assert users == set()


@pytest.mark.parametrize("package", OPTIONAL_PACKAGES)
def test_an_optional_package_is_imported_in_one_file_at_most(package: str) -> None:
    assert len([source.module for source in SOURCES if source.uses(package)]) <= 1


def test_there_is_no_drawer_for_everything() -> None:
    names = {"utils", "util", "helpers", "misc", "common"}
    assert [s.module for s in SOURCES if names & set(s.module.split("."))] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module)
def test_files_and_functions_stay_short(source: Source) -> None:
    text = source.path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{source.module}.{node.name}"


def test_no_file_names_a_directory_of_somebodys_machine() -> None:
    for source in SOURCES:
        text = source.path.read_text(encoding="utf-8")
        assert not [place for place in ("/home/", "/Users/", "/root/", "/tmp/") if place in text], source.module


def _imported_without_torch(modules: list[str]) -> None:
    lines = [f"import {module}" for module in modules]
    check = "import sys; found = {'torch', 'transformers'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*lines, check])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_traceward_imports_no_torch() -> None:
    _imported_without_torch(["traceward"])


@pytest.mark.parametrize("package", ["data", "report"])
def test_importing_a_light_package_imports_no_torch(package: str) -> None:
    modules = [source.module for source in SOURCES if source.inside(package)]
    _imported_without_torch(modules)
