"""Our worlds beside the traces that people marked: representable, cut into the same steps, read by the same checkers.

Skipped unless TRACEWARD_BIG_BENCH_MISTAKE names a file of rows in the schema of docs/data.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.builtin import WORLDS_TOKENIZER
from traceward.data.formats import Format, completion_text, prompt_text
from traceward.data.segmentation import Segmenter, split_steps
from traceward.data.tasks.worlds import WORLDS
from traceward.data.traces import TraceRecord, read_traces
from traceward.loading import load_tokenizer
from traceward.records import UnitSpec

FILE = Path(os.environ.get("TRACEWARD_BIG_BENCH_MISTAKE", "not given"))
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="TRACEWARD_BIG_BENCH_MISTAKE names no file")
TASKS = {"swaps": "tracking_shuffled_objects", "arithmetic": "multistep_arithmetic", "sorting": "word_sorting"}
EACH = pytest.mark.parametrize("name", TASKS)


def records(name: str) -> list[TraceRecord]:
    return [r for r in read_traces(FILE) if r.raw["source"] == f"BIG-Bench-Mistake/{TASKS[name]}"]


@pytest.fixture(scope="module")
def spelling() -> PreTrainedTokenizerBase:
    return load_tokenizer(WORLDS_TOKENIZER)


@EACH
def test_questions_are_of_the_world(name: str) -> None:
    for record in records(name):
        found = WORLDS[name].judge(record.problem, record.trace)
        assert found.correct is record.final_correct or record.final_correct is None, record.id


@EACH
def test_every_sign_is_representable(name: str, spelling: PreTrainedTokenizerBase) -> None:
    """And where words are not the matter, nearly all of them are tokens of their own."""
    pieces = letters = 0
    for record in records(name):
        text = prompt_text(record.problem, Format.PLAIN) + completion_text(record.trace, Format.PLAIN)
        ids = spelling(text)["input_ids"]
        assert spelling.decode(ids) == text
        shown = [spelling.decode([token]) for token in ids]
        pieces += len(shown)
        letters += sum(len(token) == 1 and token.islower() for token in shown)
    assert letters / pieces < 0.03 or name == "sorting"


@EACH
def test_a_listed_step_is_a_step_and_a_unit(name: str, spelling: PreTrainedTokenizerBase) -> None:
    segmenter = Segmenter(spelling)
    for record in records(name):
        listed = [step.strip() for step in record.raw["steps"]]
        text = completion_text(record.trace, Format.PLAIN)
        assert split_steps(text)[: len(listed)] == listed
        ends = segmenter.unit_ends(spelling(text)["input_ids"], UnitSpec())
        assert len(ends) == len(listed) + (record.trace.answer is not None)


@EACH
def test_people_and_checkers_mostly_agree(name: str) -> None:
    """A wrong reading of the format would show here; the rest is where people missed an error or let one pass."""
    wrong = [record for record in records(name) if record.first_error != -1]
    same = sum(WORLDS[name].judge(r.problem, r.trace).first_error == r.first_error for r in wrong)
    assert same / len(wrong) > 0.85
