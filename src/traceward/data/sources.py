"""Where rows come from: a file, a directory with one file for each split, or a data set of the hub.

Files are .jsonl, .jsonl.gz or .parquet. In a directory, `train`, `validation` (or `dev`, `val`), `test`, `questions`
and `test-questions` are read, also as `demonstrations_train` and so on, and in numbered parts as the hub stores them;
all other files are left alone and named. The hub is asked only for a source that is called `hub:NAME` or
`hub:NAME@REVISION`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traceward.data.jsonl import Faults, Row, fingerprint_file, read_jsonl
from traceward.errors import ConfigError, DataError

HUB = "hub:"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
QUESTIONS, TEST_QUESTIONS = "questions", "test-questions"  # without worked solutions
_SPLITS = {"train": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION}
_SPLITS |= {"test": TEST, "questions": QUESTIONS, "test-questions": TEST_QUESTIONS}
_ENDS = (".jsonl", ".jsonl.gz", ".parquet")
_PART = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True, slots=True)
class Source:
    """The rows of one split. `split` is empty where the source does not say; `path` is what messages call it."""

    path: str
    split: str
    rows: Path | Sequence[Row] = field(repr=False)

    def read(self, faults: Faults) -> Iterator[tuple[int, Row]]:
        """Numbered rows from 1 on; broken lines go to `faults`."""
        if not isinstance(self.rows, Path):
            yield from enumerate(self.rows, start=1)
        elif self.rows.suffix == ".parquet":
            yield from enumerate(_parquet(self.rows), start=1)
        else:
            yield from read_jsonl(self.rows, faults)

    @property
    def fingerprint(self) -> str | None:
        """sha256 of the file's bytes; None for rows of the hub."""
        return fingerprint_file(self.rows) if isinstance(self.rows, Path) else None


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read, and the files or splits beside it that are not."""

    found: tuple[Source, ...]
    left_alone: tuple[str, ...] = ()


def find_sources(source: str, configs: Sequence[str] = ()) -> Sources:
    """The sources that a path or a `hub:` name means. Raises DataError or ConfigError where there are none."""
    if source.startswith(HUB):
        return _from_hub(source.removeprefix(HUB), configs)
    path = Path(source)
    if not path.is_dir():
        if not path.exists():
            raise DataError(f"source must be a file, a directory or hub:NAME: got '{source}'; check the path")
        return Sources((Source(source, "", path),))
    found: dict[str, list[Path]] = {}
    left = []
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        end = next((end for end in _ENDS if file.name.endswith(end)), None)
        stem = _PART.sub("", file.name.removesuffix(end or "")).removeprefix("demonstrations_")
        split = _SPLITS.get(stem) if end else None
        if split is None:
            left.append(file.name)
        else:
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        parts = {_PART.sub("", file.name.split(".")[0]) + "".join(file.suffixes) for file in files}
        if len(parts) > 1:
            raise DataError(f"{path} must hold one file of {split}: got {', '.join(f.name for f in files)}; remove one")
    if not found.keys() - {QUESTIONS, TEST_QUESTIONS}:
        got = ", ".join(left) or "nothing"
        raise DataError(f"{path} must hold train.jsonl, test.jsonl or so: got {got}; name a file, or rename it")
    sources = (Source(str(file), split, file) for split, files in found.items() for file in files)
    return Sources(tuple(sources), tuple(left))


def _parquet(file: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{file} must be whole parquet: got {reason}; fetch the file again") from error
    if not rows:
        raise DataError(f"{file} must hold at least one row: got an empty file; check how it was made")
    return rows


def _from_hub(name: str, configs: Sequence[str]) -> Sources:
    """Every split of a data set. Of several configurations those of `configs` are read, one after the other."""
    name, _, revision = name.partition("@")
    if not name:
        raise ConfigError("source must name a data set of the hub: got 'hub:'; write hub:OWNER/NAME")
    splits: dict[str, list[Row]] = {}
    left = []
    for config, tables in _download(name, revision or None, configs).items():
        for split, rows in tables.items():
            if split in _SPLITS:
                splits.setdefault(_SPLITS[split], []).extend(rows)
            else:
                left.append(f"{config}/{split}")
    if not splits:
        raise DataError(
            f"hub:{name} must have a split train, validation or test: got {', '.join(left)}; save one as a file"
        )
    return Sources(tuple(Source(f"{HUB}{name}/{split}", split, rows) for split, rows in splits.items()), tuple(left))


def _download(name: str, revision: str | None, wanted: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Configuration -> split -> rows."""
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what it ends with is told below
    try:
        offered = datasets.get_dataset_config_names(name, revision=revision)
        chosen = [config for config in offered if config in wanted] if len(offered) > 1 else offered
        if not chosen:
            raise ConfigError(
                f"hub:{name} must have a configuration {' or '.join(wanted) or 'only'}: got {', '.join(offered)}; "
                "save the one you want as a file"
            )
        return {config: datasets.load_dataset(name, config, revision=revision) for config in chosen}
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"hub:{name} must be a data set that can be read from here: got '{reason}'; check name and network, or "
            "download it elsewhere and give the directory"
        ) from error
