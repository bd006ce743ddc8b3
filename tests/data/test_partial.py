"""Rows of a job that may be killed: whole blocks stay, nothing else does."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from traceward.data.partial import PartialRows
from traceward.errors import DataError, RunError

JOB = {"input": "a", "too_long": "error"}
ROWS = [{"id": number, "text": "ü\u2028"} for number in range(7)]


def add(target: Path, upto: int, job: dict[str, str] = JOB) -> None:
    """Blocks of two rows up to `upto`, and an end before the last."""
    with PartialRows(target, job, block=2) as kept:
        for start in range(kept.done, upto, 2):
            kept.append(ROWS[start : start + 2])


def whole(target: Path, job: dict[str, str] = JOB) -> int:
    """All rows; how many of them were there before."""
    with PartialRows(target, job, block=2) as kept:
        before = kept.done
        assert list(kept.rows()) == ROWS[:before]
        for start in range(before, len(ROWS), 2):
            kept.append(ROWS[start : start + 2])
        kept.finish()
    return before


def test_a_job_goes_on_behind_its_last_whole_block(tmp_path: Path) -> None:
    assert whole(tmp_path / "plain.jsonl") == 0
    expected = (tmp_path / "plain.jsonl").read_bytes()
    assert expected.count(b"\n") == 7
    target = tmp_path / "out.jsonl"
    target.write_text("old\n")
    add(target, 4)
    (partial,) = tmp_path.glob(".out.jsonl.*.partial")
    with partial.open("ab") as stream:  # killed while it wrote a third block
        stream.write(b'{"id": 4, "text": "a"}\n{"id": 5, "te')
    assert target.read_text() == "old\n"
    assert whole(target) == 4
    assert target.read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "plain.jsonl"]


def test_the_short_last_block_is_done_again(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    add(target, 7)  # all rows are written, the end is missing
    assert whole(target) == 6


def test_another_job_neither_takes_nor_loses_what_is_done(tmp_path: Path) -> None:
    target, other = tmp_path / "out.jsonl", {**JOB, "input": "b"}
    add(target, 4)
    add(target, 2, other)
    assert len(list(tmp_path.iterdir())) == 2
    assert whole(target, other) == 2
    assert whole(target) == 4


def test_a_job_that_has_done_nothing_leaves_nothing(tmp_path: Path) -> None:
    add(tmp_path / "out.jsonl", 0)
    assert list(tmp_path.iterdir()) == []
    with PartialRows(tmp_path / "out.jsonl", JOB, block=2) as kept, pytest.raises(DataError, match=r"out\.jsonl:2"):
        kept.append([{"a": 1.0}, {"a": float("nan")}])
    assert list(tmp_path.iterdir()) == []


def test_a_packed_target_has_the_same_bytes_too(tmp_path: Path) -> None:
    whole(tmp_path / "one.jsonl.gz")
    add(tmp_path / "two.jsonl.gz", 4)
    assert whole(tmp_path / "two.jsonl.gz") == 4
    assert (tmp_path / "two.jsonl.gz").read_bytes() == (tmp_path / "one.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.jsonl.gz").read_bytes()).count(b"\n") == 7
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real" / "out.jsonl")
    whole(tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real" / "out.jsonl").is_file()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    with PartialRows(target, JOB, block=2) as kept:
        kept.append(ROWS[:2])
        with pytest.raises(RunError, match="must be written by one process"), PartialRows(target, JOB, block=2):
            pass
        kept.append(ROWS[2:4])
    assert whole(target) == 4


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    target = tmp_path / "none" / "out.jsonl"
    with pytest.raises(RunError, match=r"none/out.jsonl must be writable: got No such file"):
        add(target, 2)


FULL = """
import resource, sys
from pathlib import Path
from traceward.data.partial import PartialRows
from traceward.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with PartialRows(Path(sys.argv[1]), {"input": "a", "too_long": "error"}, block=2) as kept:
    try:
        for start in range(0, 6, 2):
            kept.append([{"id": number, "text": "ü\\u2028"} for number in (start, start + 1)])
    except RunError as error:
        print(error)
"""


def test_a_full_disk_keeps_the_blocks_that_fitted(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert "the same command goes on behind 2 rows" in done.stdout
    assert whole(target) == 2
