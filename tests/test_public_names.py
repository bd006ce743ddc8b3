from __future__ import annotations

import ast
from pathlib import Path

import pytest

import traceward


def test_public_names_are_frozen() -> None:
    assert traceward.__all__ == [
        "AdversarialConfig",
        "AdversarialTrainer",
        "RewardModel",
        "__version__",
        "localise",
        "rerank",
        "search",
    ]


@pytest.mark.parametrize("name", [name for name in traceward.__all__ if name != "__version__"])
def test_every_public_name_loads_from_its_home(name: str) -> None:
    value = getattr(traceward, name)
    assert value.__name__ == name
    assert value.__module__ == traceward._HOMES[name]


def test_type_checkers_see_the_same_homes() -> None:
    tree = ast.parse(Path(traceward.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == traceward._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rerankk'"):
        traceward.rerankk  # noqa: B018
