"""`traceward data`: a public set or somebody's own file into the JSONL that recipes take."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceward import __version__
from traceward.data.demonstrations import FieldError, fingerprint
from traceward.data.formats import Format, completion_text, encode_completion, encode_prompt
from traceward.data.jsonl import Faults, Row, fingerprint_file, write_json, write_jsonl
from traceward.data.prepare import Prepared, convert_with, prepare, refuse_longer, rows_of
from traceward.data.shapes import QUESTION, Understood, understand
from traceward.data.sources import find_sources
from traceward.data.tasks.registry import SALT
from traceward.data.tasks.sets import SETS
from traceward.errors import ConfigError, DataError, RunError
from traceward.records import Demonstration, Problem
from traceward.workflows import DataSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REFUSED, MANIFEST = "refused.jsonl", "manifest.json"


@dataclass(frozen=True, slots=True)
class DataResult:
    """What was read, kept and written.

    written: file stem -> rows.   tokens: of every kept row, where they were counted.   understood: the first row of
    one's own file, and how it was read.
    """

    name: DataSet
    out: Path
    prepared: Prepared
    written: Mapping[str, int]
    left_alone: tuple[str, ...]
    tokens: Mapping[str, Sequence[int]]
    understood: Understood | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The numbers, and where rows were refused for what."""
        counts = self.prepared.counts
        reasons: Counter[str] = Counter()
        for count in counts:
            reasons.update(count.refused)
        found: dict[str, Any] = {
            "set": str(self.name),
            "rows": sum(count.rows for count in counts),
            "kept": sum(count.kept for count in counts),
            "known": sum(count.known for count in counts),
            "refused": reasons.total(),
            "reasons": dict(reasons.most_common()),
            "written": dict(self.written),
            "seconds": round(self.seconds, 3),
            "sources": [source_json(self.prepared, at) for at in range(len(counts))],
            "left_alone": list(self.left_alone),
        }
        if self.tokens:
            found["tokens"] = {what: spread(lengths) for what, lengths in self.tokens.items()}
        if self.understood is not None:
            found["understood"] = {"shape": self.understood.shape, "taken": dict(self.understood.taken)}
        return found


def source_json(prepared: Prepared, at: int) -> dict[str, Any]:
    """What became of one source."""
    count = prepared.counts[at]
    return {
        "source": count.path,
        "split": count.split or None,
        "sha256": count.fingerprint,
        "rows": count.rows,
        "kept": count.kept,
        "known": count.known,
        "refused": dict(count.refused),
    }


def spread(lengths: Sequence[int]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    if len(lengths) < 2:
        return {name: float(sum(lengths)) for name in ("median", "p95", "largest")}
    cuts = statistics.quantiles(lengths, n=20, method="inclusive")
    return {"median": statistics.median(lengths), "p95": cuts[-1], "largest": float(max(lengths))}


def prepare_set(
    name: DataSet,
    source: str,
    *,
    out: Path,
    tokenizer: str | None = None,
    max_prompt: int | None = None,
    max_completion: int | None = None,
    style: Format = Format.PLAIN,
) -> DataResult:
    """Read `source`, write the directory `out`, and say what was kept. `out` is there whole or not at all.

    Raises DataError for what cannot be read and where too little is left, ConfigError for limits without a tokenizer,
    RunError for an `out` that is there already.
    """
    started = time.perf_counter()
    if tokenizer is None and (max_prompt, max_completion) != (None, None):
        raise ConfigError("tokenizer must be given with --max-prompt or --max-completion: got none; add --tokenizer")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"out must be a new directory: got '{out}', which is there; remove it or choose another")
    first: list[Understood] = []

    def shaped(rows: Iterator[tuple[int, Row]], faults: Faults, questions: bool) -> Iterator[tuple[int, Row]]:
        for line, found in understand(rows, faults, questions=questions):
            if not first and found.shape != QUESTION:
                first.append(found)
            yield line, found.row

    known = SETS.get(str(name))
    sources = find_sources(source, known.configs if known else ())
    lengths = Lengths(tokenizer, style, {"prompt": max_prompt, "completion": max_completion}) if tokenizer else None
    prepared = prepare(
        sources.found,
        convert_with(known.convert) if known else shaped,
        questions=known is not None and known.questions,
        limit=lengths.check if lengths else None,
    )
    written: dict[str, Sequence[Demonstration | Problem]] = {**prepared.parts, **prepared.questions}
    written = {stem: items for stem, items in written.items() if items}
    _write(out, str(name), prepared, written, lengths)
    return DataResult(
        name,
        out,
        prepared,
        {stem: len(items) for stem, items in written.items()},
        sources.left_alone,
        lengths.kept if lengths else {},
        first[0] if first else None,
        time.perf_counter() - started,
    )


class Lengths:
    """Prompt and completion in tokens, as training would encode them, held against their limits."""

    def __init__(self, tokenizer: str, style: Format, most: Mapping[str, int | None]) -> None:
        from traceward.loading import load_tokenizer
        from traceward.workflows.inputs import places_of

        self.name, self.style, self.most = tokenizer, style, most
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(places_of(tokenizer)[1])
        self.kept: dict[str, list[int]] = {"prompt": [], "completion": []}

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return {"name": self.name, "format": str(self.style), "most": dict(self.most)}

    def check(self, item: Demonstration | Problem) -> None:
        """Raises FieldError for an item that is too long, or that its tokenizer cannot take; else it is counted."""
        problem = item if isinstance(item, Problem) else item.problem
        found = {"prompt": len(encode_prompt(problem, self.style, self.tokenizer))}
        if isinstance(item, Demonstration):
            try:
                ids = encode_completion(completion_text(item.trace, self.style), self.tokenizer)
            except DataError as error:
                raise FieldError("steps", str(error).removeprefix("completion ")) from error
            found["completion"] = len(ids)
        refuse_longer(found, self.most)
        for what, length in found.items():
            self.kept[what].append(length)


def _write(
    out: Path,
    name: str,
    prepared: Prepared,
    written: Mapping[str, Sequence[Demonstration | Problem]],
    lengths: Lengths | None,
) -> None:
    """All files into a directory beside `out`, which then takes its name."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.absolute().parent) as room:
            whole = Path(room) / out.name
            whole.mkdir()
            for stem, items in written.items():
                write_jsonl(whole / f"{stem}.jsonl", rows_of(items))
            if prepared.refused:
                write_jsonl(
                    whole / REFUSED,
                    (
                        {"source": path, "line": fault.line, "field": fault.field, "rule": fault.rule}
                        for path, fault in prepared.refused
                    ),
                )
            manifest = {
                "traceward": __version__,
                "set": name,
                "sources": [source_json(prepared, at) for at in range(len(prepared.counts))],
                "divided": {"rule": "sha256(salt, question)", "salt": SALT, "fractions": dict(prepared.divided)},
                "tokenizer": lengths.record if lengths else None,
                "written": {
                    stem: {
                        "rows": len(items),
                        "sha256": fingerprint_file(whole / f"{stem}.jsonl"),
                        "fingerprint": _fingerprint(items),
                    }
                    for stem, items in written.items()
                },
            }
            write_json(whole / MANIFEST, manifest)
            whole.replace(out)  # also onto an empty directory
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{out} must be writable: got {reason}; free some space, or write elsewhere") from error


def _fingerprint(items: Sequence[Demonstration | Problem]) -> str | None:
    experts = [item for item in items if isinstance(item, Demonstration)]
    return fingerprint(experts) if experts else None
