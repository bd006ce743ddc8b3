from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer

from traceward import __version__, cli, environment, tables
from traceward.errors import ConfigError, DataError
from traceward.evaluation.statistics import Estimate
from traceward.workflows.pool import in_worker
from traceward.workflows.stream import ScoreSummary

VERBS = (
    *("demo", "data", "plan", "train", "fit", "score", "rerank"),
    *("search", "localise", "calibrate", "evaluate", "report", "export"),
)
HEAVY = ("torch", "transformers", "trl", "datasets", "numpy", "scipy", "sklearn", "peft", "accelerate")
LIMIT = 0.5  # seconds
SLACK = 4  # for machines under load; the list of modules below is the sharp test


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def _planted(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    module = ModuleType(name)
    for key, value in functions.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def _planted_report(monkeypatch: pytest.MonkeyPatch) -> None:
    _planted(monkeypatch, "traceward.report.build", build_report=lambda runs, _out: runs[0] / "report.html")


@pytest.mark.parametrize("arguments", [("--help",), (), *((verb, "--help") for verb in VERBS)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys, traceward.cli as cli; early = 'pydantic' in sys.modules; code = cli.run(sys.argv[1:]); "
        f"print(code, early, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    done = _python(program, *arguments)
    seconds = time.monotonic() - started
    assert done.stderr == "0 False []\n"
    assert "Usage: traceward" in done.stdout
    assert seconds < LIMIT * SLACK


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert [verb for verb in VERBS if f"\n  {verb} " not in out] == []
    assert "..." not in out.split("Commands:")[1]  # each verb's first sentence fits


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"traceward {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sing"], "No such command 'sing'; see traceward --help"),
        (["score", "t.jsonl", "--reward", "r", "--loud"], "No such option: --loud"),
        (["score", "t.jsonl"], "Missing option '--reward'"),
        (["fit", "d.jsonl", "--policy", "p", "--out", "o", "--head", "hydra"], "'hydra' is not one of 'scalar'"),
        (["localise", "t.jsonl", "--reward", "r", "--too-long", "cry"], "'cry' is not one of 'error', 'skip'"),
        (["rerank", "t.jsonl", "--reward", "r", "--n", "0"], "--n"),
        (["evaluate", "q.jsonl", "--policy", "p", "--n", "many"], "'--n'"),
    ],
)  # fmt: skip
def test_misuse_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("traceward: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert err.endswith("--help\n")


def test_demo_names_its_report_and_results(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def run_demo(out: Path, seed: int, quick: bool) -> Path:
        calls.append((out, seed, quick))
        return Path("somewhere")

    _planted(monkeypatch, "traceward.workflows.demo", run_demo=run_demo)
    _planted_report(monkeypatch)
    assert cli.run(["demo", "--out", "here", "--seed", "4", "--quick"]) == 0
    assert calls == [(Path("here"), 4, True)]
    assert capsys.readouterr().out == "report: somewhere/report.html\nresults: somewhere/results.json\n"


def test_train_hands_on_what_was_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def run_recipe(recipe: Path, **options: Any) -> Path:
        calls.append((recipe, options))
        return Path("runs/one")

    _planted(monkeypatch, "traceward.ablation.grid", is_grid=lambda path: path.name == "grid.toml")
    _planted(monkeypatch, "traceward.transfer.matrix", is_matrix=lambda path: path.name == "matrix.toml")
    _planted(monkeypatch, "traceward.workflows.train", run_recipe=run_recipe)
    _planted_report(monkeypatch)
    assert cli.run(["train", "a.toml", "--set", "data.test=5", "--set", "run.name=x", "--seed", "2"]) == 0
    overrides = ["data.test=5", "run.name=x"]
    assert calls == [(Path("a.toml"), {"data": None, "out": None, "seed": 2, "overrides": overrides})]
    out = capsys.readouterr().out
    assert out == "run: runs/one\nreport: runs/one/report.html\nresults: runs/one/results.json\n"


def test_report_hands_on_what_was_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def build_report(runs: list[Path], out: Path | None) -> Path:
        calls.append((list(runs), out))
        return Path("page.html")

    _planted(monkeypatch, "traceward.report.build", build_report=build_report)
    assert cli.run(["report", "a", "b", "--out", "page.html"]) == 0
    assert calls == [([Path("a"), Path("b")], Path("page.html"))]
    assert capsys.readouterr().out == "report: page.html\n"


def _fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def build_report(*_: object) -> Path:
        raise error

    _planted(monkeypatch, "traceward.report.build", build_report=build_report)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_interrupted(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    _fails_with(monkeypatch, error)
    assert cli.run(["report", "a"]) == 130


def test_a_reader_of_rows_may_leave_early() -> None:
    program = "from traceward.tables import finish; finish([{'row': 'x' * 500}] * 2000, None, [])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b'{"row'
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    _fails_with(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.run(["report", "a"])


def test_an_error_lists_ten_places_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = tuple(f"a.jsonl:{line}: answer: must be there" for line in range(1, 14))
    _fails_with(monkeypatch, DataError("a.jsonl must be mended", problems=places))
    assert cli.run(["report", "a"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "traceward: error: a.jsonl must be mended"
    assert lines[1:11] == [f"  {place}" for place in places[:10]]
    assert lines[11:] == ["  … and 3 more"]


def test_an_error_with_one_place_is_one_line() -> None:
    place = "a.jsonl:7: answer: must be there"
    assert tables.error_text(DataError(place, problems=(place,))) == place
    assert tables.error_text(ConfigError("recipe must be TOML")) == "recipe must be TOML"


@pytest.mark.parametrize(("value", "calls"), [(None, []), ("3", [3])])
def test_threads_are_set_only_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str | None, calls: list[int]
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    environment.pin_threads()
    assert seen == calls


def test_the_process_that_orders_a_run_stays_without_torch() -> None:
    code = (
        "import sys, traceward.workflows.demo, traceward.ablation.run; from traceward import cli, environment; "
        "environment.threads(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_wrong_number_of_threads_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    assert cli.run(["demo"]) == 2
    assert "OMP_NUM_THREADS must be a whole number from 1: got 'all'" in capsys.readouterr().err


def test_outputs_must_have_a_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for option in ("--out", "--json"):
        assert cli.run(["rerank", "t.jsonl", "--reward", "r", option, str(tmp_path / "no" / "such.jsonl")]) == 2
        assert "output must go to an existing directory" in capsys.readouterr().err


def test_percent() -> None:
    assert tables.percent(Estimate(0.62549, 0.5, 0.7, 10)) == "62.5 % [50.0, 70.0]"
    assert tables.percent(None) == "not given"


def test_plain_tables_have_no_lines_and_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"score": value} for value in (3.0, 1.0, 2.0, 5.0)] + [{"skipped": "long"}]
    summary = ScoreSummary()
    assert list(summary.see(rows)) == rows
    tables.show([tables.score_table(summary)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["traces", "4"] in lines
    assert ["skipped", "(too", "long)", "1"] in lines
    assert ["lowest", "1.000"] in lines
    assert ["highest", "5.000"] in lines
    assert lines[0] == ["Scores", "(high", "=", "expert)"]


def test_rows_without_an_output_go_to_stdout_and_tables_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "a\u2028b é", "score": 1.0}]
    tables.finish(rows, None, [tables.facts_table("Scores", {"lowest": 1.0})])
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == rows
    assert "lowest" in err


def test_nothing_is_drawn_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with tables.bars() as progress:
        progress("scoring", 0, 10)
        progress("scoring", 10, 10)
    assert capsys.readouterr() == ("", "")


def test_workers_are_as_quiet_as_the_command() -> None:
    loud = "import logging; assert logging.getLogger('bitsandbytes').level == logging.ERROR"
    in_worker(exec, loud)
    with pytest.raises(AssertionError):
        in_worker(exec, loud.replace("==", "!="))
