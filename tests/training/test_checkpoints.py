"""Checkpoints: whole or not there, kept to a number, torn ones passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from traceward.errors import RunError
from traceward.training import checkpoints as module
from traceward.training.checkpoints import MARKER, Checkpoints, Stateful


class Count:
    """A state of one number and one tensor."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "tensor": torch.arange(self.value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
        assert torch.equal(state["tensor"], torch.arange(self.value))


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    """Checkpoints of steps 1, 2 and 3; two are kept."""
    found = Checkpoints(tmp_path / "stage", every=1, keep=2)
    for step in (1, 2, 3):
        found.save(step, {"count": Count(10 * step)})
    return found


def names(found: Checkpoints) -> set[str]:
    return {path.name for path in found.directory.iterdir()}


def restored(found: Checkpoints) -> int | None:
    count = Count()
    return count.value if found.load({"count": count}) else None


def test_the_newest_is_used_and_a_stated_number_is_kept(kept: Checkpoints) -> None:
    assert names(kept) == {"checkpoint-2", "checkpoint-3"}
    assert restored(kept) == 30
    kept.save(10, {"count": Count(100)})  # 10 comes after 3, although "10" comes before "3"
    assert restored(kept) == 100


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert restored(Checkpoints(tmp_path / "none", every=1)) is None


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_every_says_when(tmp_path: Path, every: int, steps: list[int]) -> None:
    found = Checkpoints(tmp_path, every=every)
    assert [step for step in range(7) if found.due(step)] == steps


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget(path: Path) -> None:
    marker = json.loads(path.read_text(encoding="utf-8"))
    del marker["files"]
    path.write_text(json.dumps(marker), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "harm", "fault"),
    [
        ("parts-0.pt", cut, "a missing or changed parts-0.pt"),
        ("parts-0.pt", flip, "a missing or changed parts-0.pt"),
        ("parts-0.pt", Path.unlink, "a missing or changed parts-0.pt"),
        (MARKER, Path.unlink, f"no {MARKER}"),
        (MARKER, cut, f"a broken {MARKER}"),
        (MARKER, forget, f"a broken {MARKER}"),
    ],
)
def test_a_torn_one_is_passed_over_with_a_warning(
    kept: Checkpoints, caplog: pytest.LogCaptureFixture, name: str, harm: Callable[[Path], None], fault: str
) -> None:
    harm(kept.directory / "checkpoint-3" / name)
    assert restored(kept) == 20
    (row,) = caplog.records
    assert row.levelname == "WARNING"
    assert row.getMessage().startswith(f"checkpoint must be whole: got {fault} in ")
    assert row.getMessage().endswith("checkpoint-3; the one before it is used")


def test_steps_that_are_done_again_replace_what_they_left(kept: Checkpoints) -> None:
    cut(kept.directory / "checkpoint-3" / "parts-0.pt")
    kept.keep = 1
    kept.save(2, {"count": Count(21)})  # the torn one is newer by number, and must not push this one out
    assert names(kept) == {"checkpoint-2"}
    assert restored(kept) == 21


@pytest.mark.parametrize("last", ["save_parts", "_flush", "write_json"])
def test_one_that_is_not_finished_counts_for_nothing(
    kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    def stop(*_: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(module, last, stop)
        with pytest.raises(OSError, match="the power went"):
            kept.save(4, {"count": Count(40)})
    assert restored(kept) == 30
    kept.save(4, {"count": Count(41)})
    assert restored(kept) == 41


def test_other_parts_than_were_saved_are_refused(kept: Checkpoints) -> None:
    with pytest.raises(RunError, match=r"must hold the state of count, guards: got count in .*parts-0.pt; use the ver"):
        kept.load({"count": Count(), "guards": Count()})
    with pytest.raises(RunError, match="must hold the state of guards: got count"):
        kept.load({"guards": Count()})


def test_what_has_both_methods_is_stateful() -> None:
    assert isinstance(Count(), Stateful)
    assert not isinstance(object(), Stateful)


@pytest.mark.parametrize("wrong", [{"every": -1}, {"every": 1, "keep": 0}])
def test_senseless_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="every must be at least 0 and keep at least 1"):
        Checkpoints(tmp_path, **wrong)
