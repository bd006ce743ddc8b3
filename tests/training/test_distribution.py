"""Two processes against one: real ones, that talk over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from traceward.errors import ConfigError
from traceward.training import distribution
from traceward.training.settings import AdversarialConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
CASES = (
    "gail:log-ratio:consensus",
    "airl:scalar:trace-mean",
    "wgan-gp:scalar:reward-to-go",
    "pairwise:log-ratio:step-local",
)


def run(*command: str | Path, **variables: str) -> str:
    """stdout of a command that must succeed."""
    alone = {key: value for key, value in os.environ.items() if key not in {"WORLD_SIZE", "RANK", "LOCAL_RANK"}}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, env={**alone, **variables}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


# ---- one round, recorded ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Three rounds of each case on the same rollouts: by one process, and by two."""
    room = tmp_path_factory.mktemp("rounds")
    run(sys.executable, BENCHMARKS / "_injected.py", room / "one.pt", "--only", *CASES)
    run(*TORCHRUN, BENCHMARKS / "_injected.py", room / "two.pt", "--only", *CASES)
    one, two = torch.load(room / "one.pt"), torch.load(room / "two.pt")
    assert (one["processes"], two["processes"]) == (1, 2)
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_updates_of_one(rounds: tuple[dict[str, Any], dict[str, Any]], case: str) -> None:
    one, two = (found[case] for found in rounds)
    assert one["moved"] > 5e-3
    for model in ("policy", "critic"):
        for ours, theirs in zip(one[model], two[model], strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=2e-5), model
    # Rounding grows with what is paid: by airl some 7 nats a token, to an untrained policy.
    assert two["advantages"] == pytest.approx(one["advantages"], abs=1e-4)
    for ours, theirs in zip(one["metrics"], two["metrics"], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-5)
    assert two["same_everywhere"]


@pytest.mark.slow
def test_credit_and_critic_did_something(rounds: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for case in CASES:
        assert len(set(rounds[1][case]["advantages"])) > 10
        assert sum("critic/loss" in row for row in rounds[1][case]["metrics"]) == 3


# ---- sharded ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a discriminator in one process learns, scores and saves."""
    room = tmp_path_factory.mktemp("plain")
    run(sys.executable, BENCHMARKS / "_sharded.py", "plain", room)
    return room


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp2", "zero2", "zero3"])
def test_a_sharded_discriminator_learns_scores_and_saves_alike(plain: Path, tmp_path: Path, kind: str) -> None:
    if kind != "fsdp2":
        pytest.importorskip("deepspeed")
    run(*TORCHRUN, BENCHMARKS / "_sharded.py", kind, tmp_path)
    one, two = (json.loads((room / "figures.json").read_text(encoding="utf-8")) for room in (plain, tmp_path))
    for head, expected in one.items():
        found = two[head]
        assert (expected["pieces"], found["pieces"]) == (False, kind != "zero2")
        for ours, theirs in zip(expected["updates"], found["updates"], strict=True):
            assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)
        assert found["look"] == pytest.approx(expected["look"], rel=1e-4)
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5, abs=1e-6)
        ours, theirs = (load_file(room / head / "model" / "model.safetensors") for room in (plain, tmp_path))
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(weight, theirs[name], rtol=0, atol=2e-5) for name, weight in ours.items())
        if kind == "fsdp2":  # an update, its checkpoint taken back, and the same update again
            assert found["again"][0] == found["again"][1]
            assert found["again"][0] == pytest.approx(expected["again"][0], rel=1e-4, abs=1e-6)


# ---- work divided ----------------------------------------------------------------------------------------------------

DIVIDED = """
import atexit, gc, json, sys
from pathlib import Path
import torch

def end():
    tasks = Path("/proc/self/task")  # Linux alone lists threads
    threads = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.exists() else []
    left = [torch.distributed.is_initialized(), threads.count("pt_gloo_runloop"), threads.count("gloo_tcp_loop")]
    json.dump(left, open(f"{sys.argv[1]}-{me}", "x"))

atexit.register(end)
from traceward.training.distribution import everyone, is_main, join, on_main, place, share, shared
join()
me, all = place()
gc.disable()  # what is in a cycle, as a trainer and its callbacks are, lives to the end
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
model(torch.ones(1, 2)).sum().backward()
model.trainer = [model]
del model
calls = []
found = shared(range(5), lambda item: (calls.append(item), item * item)[1])
few = shared(["only"], lambda item: (calls.append(item), f"{item} of {me}")[1])
on_main(lambda: open(sys.argv[1], "x").write(f"{me}"))()
read = open(sys.argv[1]).read()
try:
    on_main(lambda: open(sys.argv[1], "x"))()
    error = None
except Exception as caught:
    error = type(caught).__name__
row = [me, all, found, few, calls, everyone([me, "x"]), read, error, [own for _, own in share(range(5))]]
json.dump(row, open(f"{sys.argv[1]}-row-{me}", "x"))  # lines of two processes on one pipe may mix
"""


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each of two processes made of the same work, main process first."""
    room = tmp_path_factory.mktemp("divided")
    (room / "work.py").write_text(DIVIDED, encoding="utf-8")
    run(*TORCHRUN, room / "work.py", room / "written")
    found = [json.loads((room / f"written-row-{me}").read_text(encoding="utf-8")) for me in (0, 1)]
    # An interpreter that ends beside the threads of a process group is aborted now and then.
    ends = [json.loads((room / f"written-{me}").read_text(encoding="utf-8")) for me in (0, 1)]
    assert ends == [[False, 0, 0], [False, 0, 0]]
    return found


def test_each_item_is_worked_on_by_one_process_and_known_to_all(divided: list[list[Any]]) -> None:
    assert [row[:2] for row in divided] == [[0, 2], [1, 2]]
    assert all(row[2] == [0, 1, 4, 9, 16] for row in divided)
    assert all(row[3] == ["only of 0"] for row in divided)
    assert all(row[5] == [0, "x", 1, "x"] for row in divided)


def test_all_processes_make_the_same_number_of_calls(divided: list[list[Any]]) -> None:
    # A pass through sharded weights waits for all processes: one that had less to do would leave the others waiting.
    assert [row[4] for row in divided] == [[0, 2, 4, "only"], [1, 3, 4, "only"]]
    assert [row[8] for row in divided] == [[True, True, True], [True, True, False]]


def test_the_main_process_writes_and_the_others_find_the_file_or_the_failure(divided: list[list[Any]]) -> None:
    assert all(row[6] == "0" for row in divided)
    assert [row[7] for row in divided] == ["FileExistsError", "RunError"]


HELD = """
import time
from torch import distributed
from traceward.training import distribution
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
held, time.sleep = distributed.group.WORLD, print
distribution._leave()
distribution._leave()
"""


def test_the_threads_of_a_group_that_a_global_holds_are_given_time() -> None:
    assert run(sys.executable, "-c", HELD).split() == [str(distribution.LET_GO)]


def test_alone_everything_is_done_here() -> None:
    assert distribution.place() == (0, 1)
    assert distribution.share("abc") == [("a", True), ("b", True), ("c", True)]
    assert distribution.shared([3, 1, 2], lambda item: -item) == [-3, -1, -2]
    assert distribution.everyone([5]) == [5]
    assert not distribution.launched()


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 8, 12, 24])
@pytest.mark.parametrize("limit", [1, 5, 48])
def test_every_process_gets_equally_many_rollouts_in_equal_parts(processes: int, limit: int) -> None:
    config = AdversarialConfig(questions_per_step=6, group=4, rollouts_per_backward=limit)
    parts = config.parts(processes)
    assert config.rollouts % (parts * processes) == 0
    assert config.rollouts // (parts * processes) <= limit


def test_rollouts_that_cannot_be_divided_are_refused() -> None:
    config = AdversarialConfig(questions_per_step=3, group=4)
    for processes in (5, 8, 24):
        with pytest.raises(ConfigError, match=f"must be a multiple of the processes: got 12 for {processes}"):
            config.parts(processes)
    assert all(config.parts(processes) for processes in (1, 2, 3, 4, 6, 12))
