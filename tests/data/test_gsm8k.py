from __future__ import annotations

from pathlib import Path

import pytest

from traceward.data.demonstrations import DemonstrationSet, read_demonstrations
from traceward.data.tasks import gsm8k
from traceward.errors import DataError

FIXTURES = Path(__file__).parent.parent / "fixtures"


def load(path: Path, split: str | None = None) -> DemonstrationSet:
    return read_demonstrations(path, split=split, convert=gsm8k.convert)


def test_the_official_form_loses_its_notes_and_keeps_its_lines() -> None:
    first, second, *_ = load(FIXTURES / "gsm8k_official.jsonl").demonstrations
    assert first.trace.steps == ("Mia bakes 4*12=48 rolls.", "She has 48-9=39 rolls left.")
    assert first.trace.answer == first.problem.answer == "39"
    assert first.source == "GSM8K"
    assert second.trace.steps[1] == "Together they cost $1,250+$180=$1,430."
    assert second.trace.answer == "1430"


def test_both_forms_say_the_same() -> None:
    official = load(FIXTURES / "gsm8k_official.jsonl").demonstrations
    own = load(FIXTURES / "gsm8k_own.jsonl").demonstrations
    assert len(official) == 6
    assert [item.trace for item in official] == [item.trace for item in own]
    assert [item.problem.question for item in official] == [item.problem.question for item in own]


def test_a_file_may_mix_the_forms_and_a_directory_has_splits(tmp_path: Path) -> None:
    lines = [
        (FIXTURES / f"gsm8k_{form}.jsonl").read_text(encoding="utf-8").splitlines() for form in ("official", "own")
    ]
    (tmp_path / "train.jsonl").write_text("\n".join([lines[0][0], lines[1][1]]), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(lines[0][2], encoding="utf-8")
    assert [item.trace.answer for item in load(tmp_path, "train").demonstrations] == ["39", "1430"]
    assert [item.trace.answer for item in load(tmp_path, "test").demonstrations] == ["45"]


def test_an_official_answer_without_its_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Why?", "answer": "Because 1+1=2."}\n', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: answer: must be a solution that ends with a line '#### number'"
    ):
        load(path)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("1,080", "1080"), ("-1,000,000", "-1000000"), ("$2,000.50", "$2000.50"), ("1,2", "1,2"), ("12,3456", "12,3456")],
)
def test_only_real_thousands_separators_go(answer: str, expected: str) -> None:
    assert gsm8k.plain_number(answer) == expected
