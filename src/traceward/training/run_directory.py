"""The run directory: resolved configuration, manifest, metrics and finished parts. Plain files, each written whole.

config.json  manifest.json      what was asked for; with what, from what
data/                           demonstrations, questions and test problems as used
checkpoints/STAGE/              where an unfinished stage goes on
metrics/STAGE.jsonl             a row per update while a stage runs; gathered into metrics.jsonl at the end
parts/STAGE.json                what a finished stage found; a stage with a part is not run again
policies/ reward/               the models
results.json  examples.jsonl  report.html
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from traceward.config import Recipe, resolve
from traceward.data.jsonl import write_json
from traceward.errors import RunError
from traceward.training.checkpoints import Checkpoints
from traceward.training.distribution import is_main, on_main, place

PARTS = ("checkpoints", "data", "metrics", "parts", "policies")  # directories that are always there
PACKAGES = ("traceward", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
# How a run is carried out, not what it makes: these may differ when it goes on.
FREE = {"workers", "checkpoint_every", "keep_checkpoints", "report_to"}

logger = logging.getLogger(__name__)


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe) -> RunDirectory:
        """A new run, or the same one again: it goes on when the recipe is the same.

        Raises RunError for a directory that holds other files, or another recipe's run.
        """
        run = cls(path)
        resolved = recipe.model_dump(mode="json")
        config = run.path / "config.json"
        if config.exists():
            if _binding(run.recipe()) != _binding(recipe):
                raise RunError(
                    f"run directory must be of the same recipe: got another one in {path}; choose a new --out"
                )
        elif run.path.exists() and any(run.path.iterdir()):
            raise RunError(f"run directory must be new or empty: got {path} with other files; choose a new --out")
        try:
            for part in PARTS:
                (run.path / part).mkdir(parents=True, exist_ok=True)
            run.tidy()
        except OSError as error:
            raise RunError(f"run directory must be writable: got '{error}'; choose another --out") from error
        write_json(config, resolved)
        return run

    def tidy(self) -> None:
        """Remove what a process that was killed left: half-written files, and checkpoints of finished stages. No stage
        may be running."""
        left = [path for path in self.path.rglob(".*.tmp") if path.exists()]
        left += [path for path in (self.path / "checkpoints").iterdir() if self.part(path.name) is not None]
        for path in left:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def recipe(self) -> Recipe:
        """The resolved recipe the run was made with."""
        return resolve(self._read("config.json"), where=str(self.path / "config.json"))

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("no object")
        except FileNotFoundError as error:
            raise RunError(f"run directory must hold {name}: got none in {self.path}; check the path") from error
        except ValueError as error:
            raise RunError(f"run directory must hold a whole {name}: got '{error}' in {path}; mend it") from error
        return found

    def part(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote, or None."""
        path = self.path / "parts" / f"{stage}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @on_main
    def finish(self, stage: str, found: dict[str, Any]) -> None:
        """Mark a stage as done; its files must be complete before. Its checkpoints have served."""
        write_json(self.path / "parts" / f"{stage}.json", found)
        shutil.rmtree(self.path / "checkpoints" / stage, ignore_errors=True)

    def checkpoints(self, stage: str) -> Checkpoints:
        """Where an unfinished stage goes on. `stage` is the name of the part that it leaves."""
        settings = self.recipe().run
        place = self.path / "checkpoints" / stage
        return Checkpoints(place, every=settings.checkpoint_every, keep=settings.keep_checkpoints)

    def metrics(self, stage: str) -> Metrics:
        """The metrics file of a stage that starts or goes on."""
        return Metrics(self.path / "metrics" / f"{stage}.jsonl", stage) if is_main() else Unwritten(stage)

    def write_manifest(self, *, command: str, data: dict[str, Any], seed: int) -> None:
        """With what the run was made: versions, commit, platform, seed, data hashes.

        A run that goes on keeps its manifest. Raises RunError when its data are others now; other versions are noted
        there, and told: they may give other numbers.
        """
        path = self.path / "manifest.json"
        made_with = {
            "version": installed_version("traceward"),
            "commit": source_commit(),
            "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
            "platform": platform.platform(),
        }
        if not path.exists():
            started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            write_json(
                path,
                {
                    "command": command,
                    **made_with,
                    "seeds": [seed],
                    "processes": place()[1],
                    "data": data,
                    "started": started,
                },
            )
            return
        first = self._read("manifest.json")
        now = json.loads(json.dumps(data))
        others = sorted(key for key in {**first["data"], **now} if first["data"].get(key) != now.get(key))
        if others:
            raise RunError(
                f"run must go on with the data it began with: got other {', '.join(others)} than {path} names; bring "
                "those back, or choose a new --out"
            )
        continued = first.get("continued_with", [])
        before = continued[-1] if continued else first
        changed = [key for key, value in made_with.items() if before[key] != value]
        if changed:
            logger.warning(
                "run must go on with the code it began with to stay exact: got another %s in %s; it goes on",
                ", ".join(changed),
                self.path,
            )
            write_json(path, {**first, "continued_with": [*continued, made_with]})


def _binding(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide what a run makes; guards only watch it."""
    return recipe.model_dump(mode="json", exclude={"run": FREE, "guards": True})


class Metrics:
    """Rows of one stage, a line each, flushed as they come. Rows of an earlier start are cut away: all of them, or
    those after the checkpoint that the stage goes on from."""

    def __init__(self, path: Path, stage: str) -> None:
        self.stage = stage
        self.started = time.monotonic()
        self._stream = path.open("ab")
        self._kept: int | None = 0  # bytes; None once the file has been cut

    def _cut(self) -> None:
        if self._kept is not None:
            self._stream.truncate(self._kept)
            self._kept = None

    def log(self, row: dict[str, Any]) -> None:
        """Write a row; `step` must be in it. Raises RunError for a value that is no finite number."""
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RunError(
                    f"{self.stage} must stay finite: got {name} = {value} at step {row['step']}; the same command goes "
                    "on from the newest checkpoint; if it happens again, lower the learning rate"
                )
        seconds = round(time.monotonic() - self.started, 3)
        line = json.dumps({"stage": self.stage, "seconds": seconds, **row}, allow_nan=False) + "\n"
        self._cut()
        self._stream.write(line.encode("utf-8"))
        self._stream.flush()

    def state_dict(self) -> dict[str, Any]:
        """Bytes in the file, which are on the disk then, and seconds since the stage began."""
        self._cut()
        os.fsync(self._stream.fileno())
        return {"bytes": os.fstat(self._stream.fileno()).st_size, "seconds": time.monotonic() - self.started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the file back to what it held then."""
        found = os.fstat(self._stream.fileno()).st_size
        if found < state["bytes"]:
            raise RunError(
                f"{self._stream.name} must hold the {state['bytes']} bytes that its checkpoint knows: got {found}; "
                "bring it back, or remove the stage's checkpoints to begin it again"
            )
        self._kept = state["bytes"]
        self._cut()
        self.started = time.monotonic() - state["seconds"]

    def close(self) -> None:
        """Close the file; every row is already on disk."""
        self._stream.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Unwritten(Metrics):
    """The metrics of a process beside the main one, which logs the same."""

    def __init__(self, stage: str) -> None:
        """Opens nothing."""
        self.stage = stage

    def log(self, row: dict[str, Any]) -> None:
        """Leave it to the main process."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to go on from."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to cut."""

    def close(self) -> None:
        """Nothing is open."""


def installed_version(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def source_commit() -> str | None:
    """The commit of a checkout, with a mark where files differ from it; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match", ""],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def command_line() -> str:
    """The command as it was typed, with the program's own name."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
