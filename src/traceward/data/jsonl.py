"""The one place that reads and writes JSONL, JSON and text files.

Reading: a line ends at "\\n" and nowhere else, so U+2028 or U+0085 inside a JSON string stays inside it. gzip is told
by its first two bytes, not by the name. Writing: to a temporary file in the same directory, fsync, rename; a failure
leaves the old file untouched and no temporary file behind.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from traceward.errors import DataError, RunError

Row = dict[str, Any]
SHOWN = 10  # broken places printed; `DataError.problems` holds them all


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken place of a file; `rule` reads `must …: got …; what to do`."""

    line: int
    field: str
    rule: str

    @property
    def reason(self) -> str:
        """The rule without what was got: what faults are counted by."""
        return f"{self.field} {self.rule.partition(': got')[0]}"


class Faults:
    """Collects every broken place of a file, so that one run names them all."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.found: list[Fault] = []

    def add(self, line: int, field: str, rule: str) -> None:
        """Note one place; see `Fault`."""
        self.found.append(Fault(line, field, rule))

    @property
    def places(self) -> list[str]:
        """Every place as messages name it."""
        return [DataError.at(self.path, fault.line, fault.field, fault.rule) for fault in self.found]

    def raise_if_any(self) -> None:
        """Raise DataError with the first places and the count, if there is any."""
        places = self.places
        if not places:
            return
        if len(places) == 1:
            raise DataError(places[0], problems=tuple(places))
        lines = [f"{self.path} must be mended in {len(places)} places; nothing was read", *places[:SHOWN]]
        if len(places) > SHOWN:
            lines.append(f"… and {len(places) - SHOWN} more")
        raise DataError("\n  ".join(lines), problems=tuple(places))


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _parse(raw: bytes) -> Row:
    """One line as an object; ValueError says what is wrong with it."""
    try:
        found = json.loads(raw.decode("utf-8").rstrip("\r\n"), parse_constant=_reject_constant)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"must be UTF-8: got byte {raw[error.start]:#04x} at column {error.start}; save it as UTF-8"
        ) from None
    except RecursionError:
        raise ValueError("must not be nested this deeply: got a runaway bracket; mend or remove the line") from None
    except json.JSONDecodeError as error:
        rule = f"must be JSON: got '{error.msg}' at column {error.colno}; mend or remove the line"
        raise ValueError(rule) from None
    except ValueError as error:
        raise ValueError(f"must be JSON: got {error}; mend or remove the line") from None
    if not isinstance(found, dict):
        raise ValueError(f"must be a JSON object: got {type(found).__name__}; write one {{…}} per line")
    # "\ud800" is legal JSON and no character: it would fail much later, when it is tokenised or written.
    if b"\\ud" in raw.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("must hold whole characters: got half a surrogate pair; mend the escape") from None
    return found


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a file, unpacked where it is gzip."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered raw lines; unreadable and torn files raise DataError at the line where reading stopped."""
    number = 0
    try:
        with _open(path) as stream:
            for number, raw in enumerate(stream, start=1):
                yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        rule = f"must be whole gzip: got {error}; fetch or pack the file again"
        raise DataError(DataError.at(path, number + 1, "file", rule)) from error
    except OSError as error:
        raise DataError(f"{path} must be a readable file: got {error.strerror or error}; check the path") from error


def read_jsonl(path: str | Path, faults: Faults | None = None) -> Iterator[tuple[int, Row]]:
    """Yield (line number, object) of a .jsonl or .jsonl.gz file; blank lines are allowed at its very end only.

    faults: broken lines are added there and passed over; without it the first one raises.
    Raises DataError naming path and line for a broken line; always for an empty, missing, unreadable or torn file, and
    for a document of many lines.
    """
    blank = 0
    number = 0
    mine = faults or Faults(path)
    for number, raw in _lines(Path(path)):
        if number == 1 and raw.strip() in (b"[", b"{"):
            rule = "must be one JSON object per line: got a document of many lines; write each row on a line of its own"
            raise DataError(DataError.at(path, number, "file", rule))
        if not raw.strip():
            blank = blank or number
            continue
        if blank:
            mine.add(blank, "line", "must not be blank: got an empty line before more rows; remove it")
            blank = 0
        row = None
        try:
            row = _parse(raw)
        except ValueError as error:
            mine.add(number, "line", str(error))
        if faults is None:
            mine.raise_if_any()
        if row is not None:
            yield number, row
    if number == 0 or blank == 1:
        raise DataError(f"{path} must hold at least one row: got an empty file; check how it was made")


# These end a line for str.splitlines and for some readers of other people; as escapes they are the same JSON.
_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\u0085\u2028\u2029"}


def _dump(value: object, where: str, indent: int | None = None) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        text.encode("utf-8")
    except ValueError as error:
        raise DataError(f"{where} must be valid JSON: got {error}; find where the value came from") from error
    return text.translate(_ESCAPES)


def dump_row(row: Mapping[str, Any], where: str) -> str:
    """A row as one line. Raises DataError naming `where` for NaN."""
    return _dump(row, where) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one object per line, gzipped where the name ends in .gz. Errors: see `write_text`; NaN is a DataError."""
    write_pieces(path, (dump_row(row, f"{path}:{number}") for number, row in enumerate(rows, start=1)))


def write_json(path: str | Path, value: object) -> None:
    """Write one indented JSON document."""
    write_pieces(path, [_dump(value, str(path), indent=2) + "\n"])


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text. Raises RunError where the disk is full, a size limit is met or the place is not writable."""
    write_pieces(path, [text])


def _fill(stream: IO[bytes], pieces: Iterable[str], packed: bool) -> None:
    if packed:
        # No name and no time in the header: the same rows make the same bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as inner:
            inner.writelines(piece.encode("utf-8") for piece in pieces)
    else:
        stream.writelines(piece.encode("utf-8") for piece in pieces)
    stream.flush()


def write_pieces(path: str | Path, pieces: Iterable[str]) -> None:
    """Write a text piece by piece; see `write_text`."""
    target = Path(path).resolve()  # a link keeps pointing where it did
    packed = target.suffix == ".gz"
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.exists() and not target.is_file():  # a pipe or a device such as /dev/stdout cannot be renamed onto
            with target.open("wb") as stream:
                _fill(stream, pieces, packed)
            return
        try:
            with temporary.open("xb") as stream:
                _fill(stream, pieces, packed)
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        advice = "free some space, or write to an existing directory of yours"
        raise RunError(f"{path} must be writable: got {error.strerror or error}; {advice}") from error


def fingerprint_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} must be a readable file: got {error.strerror or error}; check the path") from error


def is_unwritable(error: Exception) -> bool:
    """Whether an error is a disk that takes no more. safetensors has a type of its own for that: the text decides."""
    return any(text in str(error) for text in ("No space left", "File too large", "quota exceeded", "Read-only file"))
