"""Published shapes against the parameter counts that the models' pages state."""

from __future__ import annotations

import pytest

from traceward.planning.architecture import Architecture
from traceward.planning.shapes import SHAPES, shape

PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
}


def test_every_shape_is_checked() -> None:
    assert len(PUBLISHED) == len(SHAPES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_has_the_published_parameters(name: str) -> None:
    assert Architecture.of(name).size().parameters == PUBLISHED[name]


def test_other_names_have_none() -> None:
    assert shape("Qwen/Qwen2.5-Coder-7B") is None
    assert shape("somebody/qwen2.5-7b-instruct") is not None
