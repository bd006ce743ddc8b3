"""`traceward data` from the command line to a recipe that takes what it wrote."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from traceward import cli
from traceward.config import load_recipe
from traceward.data.demonstrations import fingerprint, read_demonstrations, read_questions
from traceward.data.jsonl import fingerprint_file, write_jsonl
from traceward.workflows.inputs import load_task

OFFICIAL = {
    "gsm8k": lambda n: {
        "question": f"Ann has {n} pens and gets 3. How many has she?",
        "answer": f"Ann has {n} pens.\nShe has {n} + 3 = <<{n}+3={n + 3}>>{n + 3} pens.\n#### {n + 3}",
    },
    "mmlu-pro": lambda n: {
        "question_id": n, "question": f"Which of these is {n} pens?", "options": ["none", f"{n} pens", "all of them"],
        "answer": "B", "cot_content": f"A: Let's think step by step. We count {n} pens. The answer is (B).",
        "category": "other",
    },
    "medreason": lambda n: {
        "dataset_name": "ward", "id_in_dataset": n, "question": f"Patient {n} is weak. What is low?",
        "options": "Answer Choices:\nA. Sodium\nB. Potassium\nC. Calcium\nD. Chloride",
        "answer": "Potassium. Explanation: made up.", "reasoning": f"Patient {n} is weak.\nSo potassium is low.",
    },
    "math": lambda n: {
        "problem": f"What is ${n} + 3$?", "type": "Algebra", "level": "Level 1",
        "solution": f"We add: \\[\n{n} + 3 = {n + 3}.\n\\] So it is $\\boxed{{{n + 3}}}$.",
    },
    "jsonl": lambda n: {"prompt": f"What is {n} + 3?", "completion": f"<think>{n} + 3 = {n + 3}.</think>{n + 3}"},
}  # fmt: skip


def official(name: str, *numbers: int) -> list[dict[str, Any]]:
    return [OFFICIAL[name](n) for n in numbers]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "raw"
    place.mkdir()
    return place


def run(*arguments: object) -> int:
    return cli.run(["data", *map(str, arguments)])


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_recipe_takes_what_was_written(name: str, source: Path, tmp_path: Path) -> None:
    write_jsonl(source / "train.jsonl.gz", official(name, *range(40)))
    write_jsonl(source / "test.jsonl", official(name, *range(100, 110)))
    out, numbers = tmp_path / "ready", tmp_path / "data.json"
    assert run(name, source, "--out", out, "--json", numbers) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip
    recipe = tmp_path / "run.toml"
    recipe.write_text(f"[data]\ntask = '{name}'\npath = '{out}'\nvalidation = 50\n", encoding="utf-8")
    task = load_task(load_recipe(recipe))
    assert len(task.demonstrations) + len(task.validation) == 40
    assert len(task.test) == 10
    assert all(task.judge(item.problem, item.trace).correct for item in task.test)
    found, manifest = (json.loads(path.read_text(encoding="utf-8")) for path in (numbers, out / "manifest.json"))
    assert (found["rows"], found["kept"], found["refused"], found["reasons"]) == (50, 50, 0, {})
    assert found["seconds"] >= 0
    assert manifest["written"]["test"]["fingerprint"] == fingerprint(task.test)
    assert manifest["written"]["test"]["sha256"] == fingerprint_file(out / "test.jsonl")
    assert manifest["sources"][0]["sha256"] == fingerprint_file(manifest["sources"][0]["source"])
    # What is prepared once may be prepared again, and stays what it is.
    assert run(name, out, "--out", tmp_path / "again") == 0
    for split in ("train", "validation", "test"):
        file = f"{split}.jsonl"
        assert (tmp_path / "again" / file).read_bytes() == (out / file).read_bytes()


def test_every_refused_row_is_named_in_a_file_and_counted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = official("gsm8k", *range(30), 7, 101)
    rows[3]["answer"] = "No hashes."
    rows[4]["question"] = ""
    write_jsonl(source / "train.jsonl", rows)
    text = (source / "train.jsonl").read_text(encoding="utf-8")
    (source / "train.jsonl").write_text(text + "{broken\n", encoding="utf-8")
    write_jsonl(source / "test.jsonl", official("gsm8k", 100, 101))
    (source / "notes.txt").write_text("mine")
    out = tmp_path / "ready"
    assert run("gsm8k", source, "--out", out, "--json", tmp_path / "data.json") == 0
    places = [json.loads(line) for line in (out / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {place["source"] for place in places} == {str(source / "train.jsonl")}
    assert sorted(place["line"] for place in places) == [4, 5, 31, 32, 33]
    found = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert found["reasons"] == {
        "answer must be a solution that ends with a line '#### number'": 1,
        "question must be a non-blank string": 1,
        "question must be unique": 1,
        "question must be in one split, once": 1,
        "line must be JSON": 1,
    }
    assert (found["rows"], found["kept"], found["refused"]) == (35, 30, 5)
    assert found["left_alone"] == ["notes.txt"]
    shown = capsys.readouterr().out
    assert f"{source / 'train.jsonl'}:4: answer: must be a solution that ends with a line '#### number'" in shown
    assert f"all of them: {out / 'refused.jsonl'}" in shown
    assert "not read: notes.txt" in shown


def test_one_prints_what_it_understood_of_my_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "my_sft.jsonl"
    write_jsonl(mine, official("jsonl", *range(60)))
    assert run("jsonl", mine, "--out", tmp_path / "ready", "--json", tmp_path / "data.json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Understood as prompt/completion with <think>"
    assert [" ".join(line.split()) for line in shown[2:5]] == [
        "question prompt What is 0 + 3?",
        "steps completion, inside <think> 0 + 3 = 3.",
        "answer completion, after </think> 3",
    ]
    found = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert found["understood"]["shape"] == "prompt/completion with <think>"
    assert sum(found["written"].values()) == found["kept"] == 60


def test_questions_without_solutions_go_to_files_of_their_own(source: Path, tmp_path: Path) -> None:
    write_jsonl(source / "validation.jsonl", official("mmlu-pro", *range(60)))
    write_jsonl(source / "test.jsonl", [{**row, "cot_content": ""} for row in official("mmlu-pro", *range(100, 120))])
    assert run("mmlu-pro", source, "--out", tmp_path / "ready") == 0
    asked = read_questions(tmp_path / "ready" / "test-questions.jsonl")
    assert len(asked) == 20
    assert {problem.answer for problem in asked} == {"B"}
    assert run("mmlu-pro", tmp_path / "ready", "--out", tmp_path / "again") == 0
    kept = [(tmp_path / place / "test-questions.jsonl").read_bytes() for place in ("ready", "again")]
    assert kept[0] == kept[1]
    parts = [read_demonstrations(tmp_path / "ready", split=split) for split in ("train", "validation", "test")]
    assert sum(len(part.demonstrations) for part in parts) == 60


def test_a_file_of_questions_beside_my_own_demonstrations(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    write_jsonl(mine / "train.jsonl", official("jsonl", *range(60)))
    write_jsonl(mine / "test.jsonl", official("jsonl", *range(100, 120)))
    rows = [{"question": f"What is {n} + 3?", "answer": str(n + 3)} for n in (5, 300, 301)]
    write_jsonl(mine / "questions.jsonl", [*rows, {"question": "Why?"}])
    assert run("jsonl", mine, "--out", tmp_path / "ready", "--json", tmp_path / "data.json") == 0
    asked = read_questions(tmp_path / "ready" / "questions.jsonl")
    assert [(problem.question, problem.answer) for problem in asked] == [
        *((row["question"], row["answer"]) for row in rows[1:]),
        ("Why?", None),
    ]
    found = json.loads((tmp_path / "data.json").read_text(encoding="utf-8"))
    assert (found["known"], found["understood"]["shape"]) == (1, "prompt/completion with <think>")
    assert run("jsonl", mine / "questions.jsonl", "--out", tmp_path / "alone") == 2


def test_rows_too_long_for_a_tokenizer_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*official("gsm8k", *range(60)), {"question": "Why " * 80, "answer": "So.\n#### 1"},
            {"question": "What?", "answer": "So " * 80 + "\n#### 1"}]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    limits = ("--tokenizer", "builtin:stories", "--max-prompt", "70", "--max-completion", "60", "--format", "think")
    assert (
        run("gsm8k", tmp_path / "rows.jsonl", "--out", tmp_path / "plain", *limits[:-2], "--json", tmp_path / "n.json")
        == 0
    )
    found = json.loads((tmp_path / "n.json").read_text(encoding="utf-8"))
    assert found["reasons"] == {
        "question must make a prompt of at most 70 tokens": 1,
        "steps must make a completion of at most 60 tokens": 1,
    }
    assert found["tokens"]["prompt"]["largest"] <= 70
    assert 0 < found["tokens"]["completion"]["median"] <= found["tokens"]["completion"]["p95"] <= 60
    assert "Tokens of kept rows" in capsys.readouterr().out
    # The same rows with an instruction before each question do not fit any more.
    assert run("gsm8k", tmp_path / "rows.jsonl", "--out", tmp_path / "think", *limits) == 2
    assert not (tmp_path / "think").exists()
    assert "must make a prompt of at most 70 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gsm8k", "SOURCE", "--max-prompt", "9"), "tokenizer must be given with --max-prompt or --max-completion"),
        (("gsm8k", "SOURCE/nowhere"), "source must be a file, a directory or hub:NAME: got '"),
        (("gsm8k", "SOURCE/empty"), "must hold train.jsonl, test.jsonl or so: got nothing"),
        (("gsm8k", "hub:openai/gsm8k"), "hub:openai/gsm8k must be a data set that can be read from here"),
        (("jsonl", "SOURCE/mixed.jsonl"), "mixed.jsonl:2: row: must be of the shape of line 1"),
        (("jsonl", "SOURCE/torn.jsonl.gz"), "torn.jsonl.gz:1: file: must be whole gzip"),
        (("jsonl", "SOURCE/few.jsonl"), "must give at least 4 demonstrations and 1 test problem: got 2 and 0"),
        (("math", "SOURCE/few.jsonl"), "few.jsonl:1: question: must be a non-blank string: got None"),
    ],
)
def test_bad_input_is_told_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "empty").mkdir()
    write_jsonl(source / "train.jsonl", official("gsm8k", *range(9)))
    write_jsonl(source / "mixed.jsonl", official("jsonl", 1) + official("gsm8k", 2))
    write_jsonl(source / "few.jsonl", official("jsonl", 1, 2))
    (source / "torn.jsonl.gz").write_bytes(gzip.compress(b"{}" * 999)[:20])
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "ready"
    assert run(*(word.replace("SOURCE", str(source)) for word in arguments), "--out", out) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("traceward: error: ")
    assert message in told.err
    assert "Traceback" not in told.err
    assert list(out.parent.iterdir()) == []


def test_an_out_that_is_there_is_left_alone(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(source / "train.jsonl", official("gsm8k", *range(90)))
    out = tmp_path / "ready"
    out.mkdir()
    assert run("gsm8k", source / "train.jsonl", "--out", out) == 0  # an empty one may be filled
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run("gsm8k", source / "train.jsonl", "--out", out) == 2
    assert "out must be a new directory: got" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert run("gsm8k", source / "train.jsonl", "--out", tmp_path / "no" / "where") == 2
    assert "output must go to an existing directory" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    write_jsonl(source / "train.jsonl", official("gsm8k", *range(400)))
    (tmp_path / "out").mkdir()
    program = "from traceward.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "data", "gsm8k", source / "train.jsonl", "--out", tmp_path / "out" / "ready"],
        capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []
