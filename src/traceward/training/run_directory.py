"""The run directory: resolved configuration, manifest, metrics and finished parts. Plain files, each written whole.

config.json  manifest.json      what was asked for; with what, from what
data/                           demonstrations, questions and test problems as used
metrics/STAGE.jsonl             a row per update while a stage runs; gathered into metrics.jsonl at the end
parts/STAGE.json                what a finished stage found; a stage with a part is not run again
policies/ reward/               the models
results.json  examples.jsonl  report.html
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from traceward.config import Recipe, resolve
from traceward.data.jsonl import write_json
from traceward.errors import RunError

PARTS = ("data", "metrics", "parts", "policies")  # directories that are always there
PACKAGES = ("traceward", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")


class RunDirectory:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe) -> RunDirectory:
        """A new run, or the same one again: finished stages are kept when the recipe is the same.

        Raises RunError for a directory that holds other files, or another recipe's run.
        """
        run = cls(path)
        resolved = recipe.model_dump(mode="json")
        config = run.path / "config.json"
        if config.exists():
            if run._config() != resolved:
                raise RunError(
                    f"run directory must be of the same recipe: got another one in {path}; choose a new --out"
                )
        elif run.path.exists() and any(run.path.iterdir()):
            raise RunError(f"run directory must be new or empty: got {path} with other files; choose a new --out")
        try:
            for part in PARTS:
                (run.path / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run directory must be writable: got '{error}'; choose another --out") from error
        write_json(config, resolved)
        return run

    def recipe(self) -> Recipe:
        """The resolved recipe the run was made with."""
        return resolve(self._config(), where=str(self.path / "config.json"))

    def _config(self) -> dict[str, Any]:
        path = self.path / "config.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(f"run directory must hold config.json: got none in {self.path}; check the path") from error
        except ValueError as error:
            raise RunError(f"run directory must hold a whole config.json: got '{error}' in {path}; mend it") from error
        return found

    def part(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage wrote, or None."""
        path = self.path / "parts" / f"{stage}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def finish(self, stage: str, found: dict[str, Any]) -> None:
        """Mark a stage as done; its files must be complete before."""
        write_json(self.path / "parts" / f"{stage}.json", found)

    def metrics(self, stage: str) -> Metrics:
        """A new metrics file for a stage that starts."""
        return Metrics(self.path / "metrics" / f"{stage}.jsonl", stage)

    def write_manifest(self, *, command: str, data: dict[str, Any], seed: int) -> None:
        """With what the run was made: versions, commit, platform, seed, data hashes."""
        write_json(
            self.path / "manifest.json",
            {
                "command": command,
                "version": installed_version("traceward"),
                "commit": source_commit(),
                "seeds": [seed],
                "versions": {
                    "python": platform.python_version(),
                    **{name: installed_version(name) for name in PACKAGES},
                },
                "platform": platform.platform(),
                "data": data,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )


class Metrics:
    """Rows of one stage, a line each, flushed as they come; a stage that starts again starts its file again."""

    def __init__(self, path: Path, stage: str) -> None:
        self.stage = stage
        self.started = time.monotonic()
        self._stream = path.open("w", encoding="utf-8")

    def log(self, row: dict[str, Any]) -> None:
        """Write a row; `step` must be in it."""
        seconds = round(time.monotonic() - self.started, 3)
        self._stream.write(json.dumps({"stage": self.stage, "seconds": seconds, **row}, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file; every row is already on disk."""
        self._stream.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
