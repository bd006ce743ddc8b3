"""Pre-training: the first updates of the shipped base against literal losses, other tasks, and going on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.builtin import WORLDS_TOKENIZER
from traceward.builtin.pretrain import PLANS, build, make_base, plan_of, student_traces
from traceward.data.formats import Format, encode
from traceward.data.tasks.worlds import WORLDS
from traceward.loading import load_policy, load_tokenizer
from traceward.records import Problem
from traceward.training.checkpoints import Checkpoints

# Printed by: python -c "from pathlib import Path; from tempfile import mkdtemp as d; from traceward.builtin.pretrain
# import *; print(build(Path(d()), Path(d()), PLANS['stories'], stop=8, problems=256))" with OMP_NUM_THREADS=1.
LOSSES = [6.8828, 6.8674, 6.8635, 6.8558, 6.8313, 6.8328, 6.8271, 6.8067]


# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
TINY = replace(PLANS["arithmetic"], steps=4, hidden=16, heads=2, layers=1)


def test_the_first_losses_are_these(tmp_path: Path) -> None:
    """Locks tokenizer, traces, batch order, architecture, start and schedule at once: a change of any shows here.

    2e-3: kernels of other machines and versions of torch sum in another order.
    """
    losses = build(tmp_path / "model", tmp_path / "trainer", PLANS["stories"], stop=8, problems=256)
    assert losses == pytest.approx(LOSSES, abs=2e-3)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_tasks_take_turns_in_one_stream(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random("students-3")
    for index, trace in enumerate(student_traces(6, tokenizer, ["swaps", "stories"], seed=3)):
        question, written = WORLDS["stories" if index % 2 else "swaps"].student(rng)
        again = encode(Problem("again", question), written, Format.PLAIN, tokenizer)
        assert (trace.prompt_ids, trace.completion_ids) == (again.prompt_ids, again.completion_ids)


def test_a_plan_of_several_tasks_holds_all_of_them() -> None:
    plan = plan_of(["stories", "swaps", "sorting"])
    assert plan.steps == sum(PLANS[task].steps for task in ("stories", "swaps", "sorting"))
    assert (plan.context, plan.tokenizer) == (PLANS["sorting"].context, WORLDS_TOKENIZER)
    assert plan_of(["stories"]) == PLANS["stories"]


@pytest.mark.parametrize("task", [task for task in WORLDS if task != "stories"])
def test_students_fit_the_context_nearly_always(task: str) -> None:
    traces = student_traces(60, load_tokenizer(WORLDS_TOKENIZER), [task])
    lengths = [len(trace.prompt_ids) + len(trace.completion_ids) for trace in traces]
    assert max(lengths) <= PLANS[task].context


def test_what_was_stopped_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", tmp_path / "trainer", TINY, tasks=["arithmetic"])
    kept = Checkpoints(tmp_path / "checkpoints", every=1)
    build(tmp_path / "part", tmp_path / "trainer", TINY, tasks=["arithmetic"], stop=2, checkpoints=kept)
    resumed = build(tmp_path / "part", tmp_path / "trainer", TINY, tasks=["arithmetic"], checkpoints=kept)
    assert resumed == whole
    assert (tmp_path / "part" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_base_of_several_tasks_loads_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceward.builtin.pretrain.plan_of", lambda _tasks: TINY)
    losses = make_base(["swaps", "arithmetic"], tmp_path / "base", steps=2)
    assert len(losses) == 2
    model, tokenizer = load_policy(tmp_path / "base", tmp_path / "base")
    assert len(tokenizer) == model.config.vocab_size
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
