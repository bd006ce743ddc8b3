from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.data.jsonl import Faults, fingerprint_file, read_jsonl, write_json, write_jsonl, write_text
from traceward.errors import DataError, RunError

GOOD = b'{"a": 1}\n'


def written(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_only_a_newline_ends_a_line(tmp_path: Path, name: str) -> None:
    text = '{"a": "one\u2028two\u0085three"}\n{"a": 2}'
    packed = text.encode()
    path = written(tmp_path, gzip.compress(packed) if name.endswith(".gz") else packed, name)
    assert list(read_jsonl(path)) == [(1, {"a": "one\u2028two\u0085three"}), (2, {"a": 2})]


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    assert list(read_jsonl(written(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n'))) == [
        (1, {"a": 1}),
        (2, {"a": 2}),
    ]


def test_gzip_is_told_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    assert list(read_jsonl(written(tmp_path, gzip.compress(GOOD), "packed.jsonl"))) == [(1, {"a": 1})]
    assert list(read_jsonl(written(tmp_path, GOOD, "plain.jsonl.gz"))) == [(1, {"a": 1})]


@pytest.mark.parametrize(
    ("content", "place", "rule"),
    [
        (GOOD + b'{"a": \n', ":2: line: ", "must be JSON: got 'Expecting value' at column 7"),
        (
            b'[\n{"a": 1},\n{"a": 2}\n]\n',
            ":1: file: ",
            "must be one JSON object per line: got a document of many lines",
        ),
        (b'{\n"a": 1\n}\n', ":1: file: ", "must be one JSON object per line: got a document of many lines"),
        (GOOD + b"[1]\n", ":2: line: ", "must be a JSON object: got list"),
        (GOOD + b'{"a": NaN}\n', ":2: line: ", "NaN is no JSON number"),
        (GOOD + b'{"a": "\xff"}\n', ":2: line: ", "must be UTF-8: got byte 0xff at column 7"),
        (GOOD + b'{"a": "\\ud800"}\n', ":2: line: ", "half a surrogate pair"),
        (GOOD + b"\n" + GOOD, ":2: line: ", "must not be blank"),
        (GOOD + b"[" * 200_000 + b"\n", ":2: line: ", "nested"),
        (GOOD + b'{"a": ' + b"9" * 5000 + b"}\n", ":2: line: ", "must be JSON"),
        (b"", "", "must hold at least one row"),
        (b"\n\n", "", "must hold at least one row"),
        (gzip.compress(os.urandom(9_000).hex().encode())[:3_000], ":1: file: ", "must be whole gzip"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, content: bytes, place: str, rule: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert f"{path}{place}" in str(caught.value)
    assert rule in str(caught.value)


def test_a_torn_gzip_still_gives_its_whole_lines_and_names_the_next_one(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD * 3)
    path = written(tmp_path, whole[:-4], "torn.jsonl.gz")
    found = []
    with pytest.raises(DataError, match=r"torn\.jsonl\.gz:\d: file: must be whole gzip"):
        found.extend(read_jsonl(path))


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_missing_file_and_a_directory_are_data_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="must be a readable file"):
        list(read_jsonl(tmp_path / name))
    with pytest.raises(DataError, match="must be a readable file"):
        fingerprint_file(tmp_path / name)


def test_blank_lines_at_the_very_end_are_fine(tmp_path: Path) -> None:
    assert list(read_jsonl(written(tmp_path, GOOD + b"\n  \n"))) == [(1, {"a": 1})]


def test_faults_collect_every_line_and_show_ten(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + b"oops\n" * 12 + GOOD)
    faults = Faults(path)
    assert [line for line, _ in read_jsonl(path, faults)] == [1, 14]
    with pytest.raises(DataError) as caught:
        faults.raise_if_any()
    assert len(caught.value.problems) == 12
    lines = str(caught.value).splitlines()
    assert "12 places" in lines[0]
    assert len(lines) == 1 + 10 + 1
    assert lines[-1].strip() == "… and 2 more"


ROWS = st.dictionaries(st.text(max_size=4), st.text() | st.integers() | st.lists(st.text(max_size=9)), max_size=3)


@given(rows=st.lists(ROWS, min_size=1, max_size=4), packed=st.booleans())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], packed: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / ("r.jsonl.gz" if packed else "r.jsonl")
    write_jsonl(path, rows)
    assert [row for _, row in read_jsonl(path)] == rows
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert len(raw.decode().splitlines()) == len(rows)  # other readers see the same lines


def test_a_packed_file_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        write_jsonl(tmp_path / name, [{"a": 1}])
    assert fingerprint_file(tmp_path / "one.jsonl.gz") == fingerprint_file(tmp_path / "two.jsonl.gz")


def test_json_text_and_fingerprint(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, "é"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": [1, "é"]}
    write_text(tmp_path / "a.txt", "é\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
    assert fingerprint_file(tmp_path / "a.txt") == hashlib.sha256("é\n".encode()).hexdigest()


def test_nan_is_refused_with_its_row_and_the_old_file_stays(tmp_path: Path) -> None:
    path = written(tmp_path, b"old")
    with pytest.raises(DataError, match=r"rows\.jsonl:2 must be valid JSON"):
        write_jsonl(path, [{"score": 1.0}, {"score": float("nan")}])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_fail_midway_leave_the_old_file(tmp_path: Path) -> None:
    path = written(tmp_path, b"old")

    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


LIMITED = """
import resource, sys
from traceward.data.jsonl import write_jsonl
from traceward.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_jsonl(sys.argv[1], ({"a": "x" * 1000, "n": n} for n in range(100)))
except RunError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_a_size_limit_is_one_clear_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = written(tmp_path, b"old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"{path} must be writable: got File too large; free some space, or write to an existing directory of yours"
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_is_a_run_error() -> None:
    with pytest.raises(RunError, match="must be writable: got No space left on device"):
        write_text("/dev/full", "x")


def test_bytes_are_on_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, b"old")
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.read_bytes()))
    write_text(path, "new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_a_missing_directory_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="write to an existing directory"):
        write_text(tmp_path / "no" / "a.txt", "x")


def test_a_link_keeps_its_target_and_modes_follow_the_umask(tmp_path: Path) -> None:
    target = written(tmp_path, b"old", "target.txt")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    before = os.umask(0o022)
    try:
        write_text(link, "new")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
