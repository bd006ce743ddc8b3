"""Checkpoints of one stage: directories that are whole or not there.

checkpoint-N/ is filled as unfinished/checkpoint-N. Its files are flushed to the disk and listed with size and sha256
in its marker; only then it is renamed into place, and older ones beyond `keep` go. A checkpoint whose files differ
from its marker is torn: it is passed over with a warning, and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from traceward.data.jsonl import fingerprint_file, write_json
from traceward.errors import RunError
from traceward.training.distribution import everyone, on_main, place

MARKER = "whole.json"
PREFIX = "checkpoint-"  # transformers' own, so that its trainers fill and read these directories

logger = logging.getLogger(__name__)


@runtime_checkable
class Stateful(Protocol):
    """Something that changes while a stage runs. Its state holds tensors, numbers, strings, None, and lists, tuples
    and dicts of them; after `load_state_dict` it goes on as if it had never stopped."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on and that the recipe does not give again."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        ...


class Checkpoints:
    """Every `every` steps one (0: never), the newest `keep` of them stay."""

    def __init__(self, directory: str | Path, *, every: int, keep: int = 2) -> None:
        if every < 0 or keep < 1:
            raise ValueError(f"every must be at least 0 and keep at least 1: got {every} and {keep}; mend them")
        self.directory = Path(directory)
        self.every = every
        self.keep = keep

    @property
    def unfinished(self) -> Path:
        """Where checkpoints are filled."""
        return self.directory / "unfinished"

    def due(self, step: int) -> bool:
        """Whether `step` ends with a checkpoint."""
        return self.every > 0 and step > 0 and step % self.every == 0

    def room(self, step: int) -> Path:
        """Where the checkpoint of `step` is filled."""
        return self.unfinished / f"{PREFIX}{step}"

    @on_main
    def clear_room(self) -> None:
        """Remove what a process that was killed left half-filled."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def seal(self, step: int) -> None:
        """Make what all processes put into `room(step)` the newest checkpoint. Later ones belong to steps that are
        done again."""
        everyone([step])  # not before each has written its own
        self._seal(step)

    @on_main
    def _seal(self, step: int) -> None:
        room, target = self.room(step), self.directory / f"{PREFIX}{step}"
        files = sorted(path for path in room.rglob("*") if path.is_file())
        for path in files:
            _flush(path)
        sizes = {str(p.relative_to(room)): [p.stat().st_size, fingerprint_file(p)] for p in files}
        write_json(room / MARKER, {"step": step, "processes": place()[1], "files": sizes})
        _flush(room)
        shutil.rmtree(target, ignore_errors=True)
        room.replace(target)
        _flush(self.directory)
        shutil.rmtree(self.unfinished)
        found = self._found()
        kept = sorted(other for other in found if other <= step)[-self.keep :]
        for other in found.keys() - kept:
            shutil.rmtree(found[other])

    def newest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        for _, path in sorted(self._found().items(), reverse=True):
            fault = _fault(path)
            if fault is None:
                _refuse_other_processes(path)
                return path
            logger.warning("checkpoint must be whole: got %s in %s; the one before it is used", fault, path)
        return None

    def _found(self) -> dict[int, Path]:
        """Step -> directory, whole or torn."""
        numbers = {path: path.name.removeprefix(PREFIX) for path in self.directory.glob(f"{PREFIX}*")}
        return {int(number): path for path, number in numbers.items() if number.isdigit()}

    def save(self, step: int, parts: Mapping[str, Stateful]) -> None:
        """A checkpoint of `parts` alone."""
        self.clear_room()
        self.room(step).mkdir(parents=True, exist_ok=True)
        save_parts(self.room(step), parts)
        self.seal(step)

    def load(self, parts: Mapping[str, Stateful]) -> bool:
        """Put `parts` back to the newest whole checkpoint that `save` made; False where there is none."""
        found = self.newest()
        if found is not None:
            load_parts(found, parts)
        return found is not None


def _parts_file(checkpoint: Path) -> Path:
    """Of this process: what it sampled is its own."""
    return checkpoint / f"parts-{place()[0]}.pt"


def save_parts(checkpoint: Path, parts: Mapping[str, Stateful]) -> None:
    """Write the state of every part, by name."""
    import torch

    torch.save({name: part.state_dict() for name, part in parts.items()}, _parts_file(checkpoint))


def load_parts(checkpoint: Path, parts: Mapping[str, Stateful]) -> None:
    """Put every part back. Raises RunError where the checkpoint holds others: another version wrote it."""
    import torch

    file = _parts_file(checkpoint)
    states = torch.load(file, map_location="cpu", weights_only=True) if file.exists() else {}
    if states.keys() != parts.keys():
        raise RunError(
            f"checkpoint must hold the state of {', '.join(sorted(parts))}: got {', '.join(sorted(states)) or 'none'} "
            f"in {file}; use the version that wrote it and as many processes, or remove {checkpoint.parent} to begin "
            "the stage again"
        )
    for name, part in parts.items():
        part.load_state_dict(states[name])


def _refuse_other_processes(checkpoint: Path) -> None:
    """What each process sampled, and its random states, are its own."""
    wrote = json.loads((checkpoint / MARKER).read_text(encoding="utf-8")).get("processes", 1)
    if wrote != place()[1]:
        raise RunError(
            f"checkpoint must be gone on from by as many processes as wrote it: got {place()[1]} for {wrote} in "
            f"{checkpoint}; start {wrote}, or remove {checkpoint.parent} to begin the stage again"
        )


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
        files = {name: (int(size), str(digest)) for name, (size, digest) in marker["files"].items()}
    except FileNotFoundError:
        return f"no {MARKER}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"a broken {MARKER}"
    for name, (size, digest) in files.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size or fingerprint_file(path) != digest:
            return f"a missing or changed {name}"
    return None


def _flush(path: Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
