"""A matrix that really runs: two policies from nothing, each with a tokenizer of its own, in a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traceward import cli
from traceward.errors import ConfigError, RunError
from traceward.training.run_directory import RunDirectory
from traceward.transfer.run import run_matrix
from traceward.workflows import pool

SMALL = """
[run]
name = "small"
[data]
demonstrations = 6
validation = 3
test = 4
[policy]
path = "scratch"
scratch = { vocabulary = 320, hidden = 16, layers = 1, heads = 2, steps = 4, batch = 4 }
[sft]
steps = 2
batch = 2
[critic]
warmup_updates = 2
warmup_at_least = 1
check_every = 1
rollouts_per_question = 2
positives = 2
rollouts = 4
[adversarial]
max_new_tokens = 12
[evaluation]
samples = 2
[learn.small]
[learn.wide]
policy.scratch.vocabulary = 340
policy.scratch.hidden = 24
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix that ran to its end without a stop."""
    room = tmp_path_factory.mktemp("matrix")
    (room / "small.toml").write_text(SMALL, encoding="utf-8")
    assert cli.run(["transfer", str(room / "small.toml"), "--out", str(room / "whole")]) == 0
    return room / "whole"


def table(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "transfer.json").read_text(encoding="utf-8"))
    return found


def stamps(directory: Path) -> dict[str, int]:
    """When each stage left its part; links count for nothing."""
    parts = directory.glob("shared/*/parts/*.json")
    return {path.parents[1].name: path.stat().st_mtime_ns for path in parts if not path.is_symlink()}


def test_every_pair_is_measured_from_work_that_is_done_once(finished: Path) -> None:
    found = table(finished)
    assert (found["schema"], found["finished"], found["wanted"], found["failed"]) == (1, 4, 4, [])
    counted = [name.rpartition("-")[0] for name in stamps(finished)]
    assert {name: counted.count(name) for name in counted} == {
        **dict.fromkeys(("pretrain", "rollouts", "sft", "reward", "samples"), 2),
        "transfer": 4,
    }
    cells = {(cell["learn"], cell["use"]): cell for cell in found["cells"]}
    assert [pair for pair, cell in cells.items() if cell["through_text"]] == [("small", "wide"), ("wide", "small")]
    for cell in cells.values():
        assert {"reward", "sft_logprob", "sft_log_ratio", "base_logprob", "majority", "oracle"} <= {*cell["rerank"]}
        assert {"reward", "sft_logprob", "base_logprob", "chance"} <= {*cell["localise"]}
        assert cell["problems"] == 4
    # What the policy thinks of its own samples does not depend on where the reward comes from.
    for use in ("small", "wide"):
        own = [cells[learn, use]["rerank"]["base_logprob"]["by_seed"] for learn in ("small", "wide")]
        assert own[0] == own[1]


def test_pairs_read_run_directories_that_stay_apart(finished: Path) -> None:
    for place in (finished / "shared").glob("transfer-*"):
        assert {path.name for path in place.iterdir() if path.is_symlink()} == {"learned", "tuned", "used"}
        learned = RunDirectory(place / "learned")
        assert (learned.path / "reward" / "card.json").is_file()
        assert RunDirectory(place / "used").part("samples") is not None


def test_the_page_and_the_numbers_beside_it(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "2 rewards, used at 2 places" in page
    assert "Read through text" in page
    assert "http://" not in page
    assert json.loads((finished / "report.json").read_text(encoding="utf-8"))["cells"] == table(finished)["cells"]


def test_the_same_command_runs_nothing_and_another_place_only_its_own(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, file = stamps(finished), finished.parent / "small.toml"
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    first = table(finished)
    run_matrix(file, out=finished)
    assert (stamps(finished), table(finished)) == (before, first)
    monkeypatch.undo()
    more = tmp_path / "more.toml"
    more.write_text(SMALL + "[use.small]\n[use.wide]\n[use.more]\nevaluation.samples = 3\n", encoding="utf-8")
    run_matrix(more, out=finished)
    after = stamps(finished)
    assert {name: after[name] for name in before} == before
    new = sorted(name.rpartition("-")[0] for name in after if name not in before)
    assert new == ["samples", "transfer", "transfer"]


def test_a_stage_that_fails_is_named_by_its_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(jobs: dict[str, pool.Job], *_: Any, failed: Any, **__: Any) -> None:
        name = [name for name, job in jobs.items() if job.stage == "transfer"][1]
        failed(name, ConfigError("by hand"))

    monkeypatch.setattr("traceward.ablation.work.work", work)
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    with pytest.raises(RunError, match=r"got 1 that failed, first transfer-\w+ \(small → wide · seed 0\): by hand"):
        run_matrix(tmp_path / "small.toml", out=tmp_path / "out")
    assert "(small → wide · seed 0): by hand" in capsys.readouterr().err
    (failed,) = table(tmp_path / "out")["failed"]
    assert (failed["pair"], failed["reason"]) == ("small → wide, seed 0", "by hand")


def test_another_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    with pytest.raises(RunError, match="matrix directory must be new, empty or a matrix's"):
        run_matrix(tmp_path / "small.toml", out=tmp_path / "mine")


def test_questions_that_no_reward_could_read_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    text = '[data]\ntest = 3\n[learn.a]\n[use.long]\ndata.shift = "longer"\nadversarial.max_new_tokens = 450\n'
    (tmp_path / "long.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        run_matrix(tmp_path / "long.toml", out=tmp_path / "out")
    assert (
        "use.long: questions must leave room for 450 new tokens in the context of 512 tokens of the policy of "
        in str(caught.value)
    )
    assert stamps(tmp_path / "out") == {}
