"""The rows of a long job, kept while they come: a job that is killed goes on behind the last whole block.

Blocks of rows are flushed to a hidden file beside the target, which gets its name when all of them are there; until
then an older target stays as it is. The hidden file is named after the job, all that its rows depend on. So the same
job finds what it has done, and another one to the same target neither takes nor loses it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from traceward.data.jsonl import Row, dump_row, write_pieces
from traceward.errors import RunError


class PartialRows:
    """Blocks of `block` rows, the last one shorter; a context that keeps what is whole and leaves no empty file.

    job: what the rows depend on, as JSON values.   done: rows of whole blocks, those of an earlier attempt included.
    Raises RunError where the place cannot be written, or another process is at work there.
    """

    def __init__(self, target: Path, job: Mapping[str, Any], *, block: int) -> None:
        self.target = target.resolve()  # a link keeps pointing where it did
        name = hashlib.sha256(json.dumps({**job, "block": block}, sort_keys=True).encode()).hexdigest()[:16]
        self.place = self.target.with_name(f".{self.target.name}.{name}.partial")
        self.block = block
        self.done = 0
        self._end = 0  # bytes of the whole blocks
        self._stream: FileIO

    def __enter__(self) -> PartialRows:
        with self._told():
            self._stream = self.place.open("ab", buffering=0)  # what could not be written is not tried again at its end
            self._lock()
            at = 0
            with self.place.open("rb") as lines:
                for count, line in enumerate(lines, start=1):
                    at += len(line)
                    if count % self.block == 0 and line.endswith(b"\n"):
                        self.done, self._end = count, at
            self._stream.truncate(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        if self.place.exists():
            self._stream.truncate(self._end)
            if not self.done:
                self.place.unlink()
        self._stream.close()

    def _lock(self) -> None:
        """Released by the system when the process ends, in whatever way."""
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise RunError(
                f"{self.target} must be written by one process: got another that does the same; wait for it"
            ) from None

    def rows(self) -> Iterator[Row]:
        """The rows that are done."""
        with self.place.open("rb") as stream:
            yield from map(json.loads, stream)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a block, and wait until it is on the disk."""
        lines = [dump_row(row, f"{self.target}:{self.done + at}") for at, row in enumerate(rows, start=1)]
        left = memoryview("".join(lines).encode("utf-8"))
        end = self._end + len(left)
        with self._told():
            while left:
                left = left[self._stream.write(left) :]
            os.fsync(self._stream.fileno())
        self.done, self._end = self.done + len(rows), end

    def finish(self) -> None:
        """Give the target all rows, gzipped where its name ends in .gz."""
        if self.target.suffix == ".gz":
            with self.place.open(encoding="utf-8", newline="\n") as lines:
                write_pieces(self.target, lines)
            self.place.unlink()
            return
        with self._told():
            self.place.replace(self.target)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f"the same command goes on behind {self.done} rows" if self.done else "then try again"
            advice = f"free some space, or write to an existing directory of yours; {kept}"
            raise RunError(f"{self.target} must be writable: got {error.strerror or error}; {advice}") from error
