"""Every error traceward raises on purpose.

    TracewardError
    ├── DataError        a file or a record breaks a rule; names file, line and field
    ├── ConfigError      a recipe or an option breaks a rule; names the key
    ├── RewardFileError  a saved reward is missing, torn or of another version
    └── RunError         a run directory cannot be used or continued
        └── PausedError  a guard paused the run; its state is saved

The command line prints `str(error)` on one line and exits with code 2 (3 for a paused run); nothing else is caught
there, so a traceback always means a bug of ours. Messages read `<what> must <rule>: got <value>; <what to do>`.
"""

from __future__ import annotations

from pathlib import Path


class TracewardError(Exception):
    """Base of all errors that a user can mend."""


class DataError(TracewardError):
    """Input data break a rule. `problems` holds every broken place, so one run names them all."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems

    @staticmethod
    def at(path: str | Path, line: int, field: str, rule: str) -> str:
        """The one spelling of a place in a file: `demos.jsonl:7: answer: must …`."""
        return f"{path}:{line}: {field}: {rule}"


class ConfigError(TracewardError):
    """A recipe, an override or an option breaks a rule."""


class RewardFileError(TracewardError):
    """A reward directory cannot be loaded."""


class RunError(TracewardError):
    """A run directory cannot be used or continued."""


class PausedError(RunError):
    """A guard paused the run; the same command goes on. `run` is its directory, once a whole run knows of it."""

    def __init__(self, message: str, *, run: Path | None = None) -> None:
        super().__init__(message)
        self.run = run
