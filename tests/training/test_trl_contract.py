"""The seams of TRL that training/adversarial.py and training/resume.py stand on, by name, signature and order of calls.

When a test here fails after an upgrade of TRL: read AdversarialTrainer and BufferedRollouts beside the new GRPOTrainer,
mend the wrapper, then this file. Nothing else in the package knows TRL's internals.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOTrainer

from traceward.data.formats import Format, encode_prompt
from traceward.records import Problem
from traceward.training.adversarial import AdversarialTrainer
from traceward.training.grpo import grpo_arguments, question_rows
from traceward.training.settings import AdversarialConfig

# TRL still says it in the words that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
LOOK = "TRL changed: look at GRPOTrainer.{} and at what AdversarialTrainer makes of it"
SEAMS: dict[str, list[Any]] = {
    "_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep", ...],
    "_generate": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_log_metric": ["self", "name", "value"],
}
PROMPTS = ["Ann has 5 pens.\n", "Ben has 12 apples and 3 pens.\n"]


@pytest.mark.parametrize("name", SEAMS)
def test_the_wrapped_methods_have_these_parameters(name: str) -> None:
    found = getattr(GRPOTrainer, name, None)
    assert found is not None, LOOK.format(name)
    parameters, wanted = list(inspect.signature(found).parameters), SEAMS[name]
    if ... in wanted:  # the wrapper hands the rest through
        parameters, wanted = parameters[: wanted.index(...)], wanted[: wanted.index(...)]
    assert parameters == wanted, LOOK.format(name)


def test_only_the_named_methods_are_wrapped() -> None:
    # A further override of something of TRL's must be added to SEAMS.
    own = {name for name, value in vars(AdversarialTrainer).items() if inspect.isfunction(value)}
    assert {name for name in own if hasattr(GRPOTrainer, name)} - {"__init__"} <= SEAMS.keys()


class Recorder(GRPOTrainer):  # type: ignore[misc]
    """Plain TRL that notes its own calls."""

    def __init__(self, **options: Any) -> None:
        self.calls: list[tuple[str, Any]] = []
        super().__init__(**options)

    def _generate(self, prompts: Any) -> Any:
        out = super()._generate(prompts)
        self.calls.append(("_generate", out))
        return out

    def _calculate_rewards(self, inputs: Any, *rest: Any) -> Any:
        out = super()._calculate_rewards(inputs, *rest)
        self.calls.append(("_calculate_rewards", (inputs, rest, out)))
        return out

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        out = super()._generate_and_score_completions(inputs)
        # Distinct advantages per token: the loss must take them.
        out["advantages"] = torch.linspace(-1, 1, out["completion_ids"].numel()).view_as(out["completion_ids"])
        self.calls.append(("_generate_and_score_completions", out))
        return out

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.calls.append(("_compute_loss", inputs))
        return super()._compute_loss(model, inputs)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    make_policy: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
) -> Recorder:
    """One step of plain TRL with our arguments."""
    directory: Path = tmp_path_factory.mktemp("trl")
    policy = make_policy()
    policy.save_pretrained(directory / "start")
    tokenizer.save_pretrained(directory / "start")
    policy.config._name_or_path = str(directory / "start")
    config = AdversarialConfig(steps=1, questions_per_step=2, group=2, max_new_tokens=6, kl=0.1)
    trainer = Recorder(
        model=policy,
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.5] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": p, "problem_id": f"q{i}"} for i, p in enumerate(PROMPTS)]),
        args=grpo_arguments(config, directory, seed=0),
    )
    trainer.train()
    return trainer


def test_calls_come_in_this_order(trained: Recorder) -> None:
    names = [name for name, _ in trained.calls]
    assert names == ["_generate", "_calculate_rewards", "_generate_and_score_completions", "_compute_loss"], (
        "TRL changed: token ids are kept in _generate, read in _calculate_rewards, and the advantages replaced last"
    )


def test_generate_returns_prompt_ids_and_completion_ids_first(
    trained: Recorder, tokenizer: PreTrainedTokenizerBase
) -> None:
    out = dict(trained.calls)["_generate"]
    scored = dict(trained.calls)["_generate_and_score_completions"]
    prompts = [tokenizer(p)["input_ids"] for p in PROMPTS]
    assert all(list(ids) in prompts for ids in out[0]), LOOK.format("_generate (position 0: prompt ids)")
    for row, ids in enumerate(out[1]):
        optimised = scored["completion_ids"][row][scored["completion_mask"][row].bool()].tolist()
        assert list(ids) == optimised, LOOK.format("_generate (position 1: completion ids)")


def test_rewards_get_the_rows_of_the_data_set_in_groups(trained: Recorder) -> None:
    inputs, rest, out = dict(trained.calls)["_calculate_rewards"]
    ids = [row["problem_id"] for row in inputs]
    assert (ids[0], ids[2]) == (ids[1], ids[3]), LOOK.format("_calculate_rewards: rows of a group are neighbours")
    assert set(ids) == {"q0", "q1"}
    assert len(rest) == 3, LOOK.format("_calculate_rewards")
    assert out.shape == (4, 1), LOOK.format("_calculate_rewards: (rollouts, reward functions)")


def test_the_scored_batch_has_these_keys(trained: Recorder) -> None:
    out = dict(trained.calls)["_generate_and_score_completions"]
    keys = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "ref_per_token_logps"}
    assert keys <= out.keys(), LOOK.format("_generate_and_score_completions")


def test_the_loss_takes_advantages_per_token(trained: Recorder) -> None:
    given = dict(trained.calls)["_compute_loss"]
    assert given["advantages"].shape == given["completion_ids"].shape, LOOK.format("_compute_loss")
    made = dict(trained.calls)["_generate_and_score_completions"]
    order = [
        next(i for i, row in enumerate(made["completion_ids"]) if torch.equal(row, ids))
        for ids in given["completion_ids"]
    ]
    assert torch.equal(given["advantages"], made["advantages"][order]), LOOK.format(
        "_prepare_inputs: shuffled together"
    )


def test_the_reference_model_and_the_ends_have_these_names(
    trained: Recorder, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert isinstance(trained.ref_model, PreTrainedModel), LOOK.format("ref_model")
    assert tokenizer.eos_token_id in trained.eos_token_ids, LOOK.format("eos_token_ids")


def test_rollouts_and_the_count_of_passes_are_kept_under_these_names(trained: Recorder) -> None:
    assert trained._step == 1, LOOK.format("_step")
    (inputs,) = trained._buffered_inputs
    assert {"completion_ids", "advantages"} <= inputs.keys(), LOOK.format("_buffered_inputs")
    assert trained.num_iterations == trained.args.num_iterations == 1, LOOK.format("num_iterations")


def test_a_logged_metric_is_kept_under_its_name(trained: Recorder) -> None:
    trained._log_metric("critic/loss", 0.25)
    assert trained._pending_metrics["critic/loss"] == [0.25], LOOK.format("_log_metric")


def test_our_arguments_leave_nothing_to_a_default_that_matters(tmp_path: Path) -> None:
    config = AdversarialConfig(steps=7, questions_per_step=3, group=4, kl=0.02, temperature=0.8, max_new_tokens=11)
    found = grpo_arguments(config, tmp_path, seed=5)
    assert (found.max_steps, found.per_device_train_batch_size, found.num_generations) == (7, 12, 4)
    assert (found.generation_batch_size, found.gradient_accumulation_steps, found.num_iterations) == (12, 1, 1)
    assert (found.beta, found.temperature, found.max_completion_length, found.seed) == (0.02, 0.8, 11, 5)
    assert (found.loss_type, found.scale_rewards, found.top_p, found.top_k) == ("dapo", "batch", 1.0, 0)
    assert (found.repetition_penalty, found.mask_truncated_completions, found.use_vllm) == (1.0, False, False)


@pytest.mark.parametrize("style", list(Format))
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llama-3", "base"])
def test_a_policy_reads_the_prompt_that_the_experts_stand_behind(
    family_tokenizer: Callable[[str], PreTrainedTokenizerBase], tmp_path: Path, family: str, style: Format
) -> None:
    tokenizer = family_tokenizer(family)
    config = AdversarialConfig(questions_per_step=2, group=2)
    problems = [Problem("p1", "Ann has 1 + 2 pens. How many?"), Problem("p2", " Why?")]
    rows = question_rows(problems, config, style, tokenizer)
    trainer = SimpleNamespace(
        processing_class=tokenizer,
        tools=None,
        chat_template=None,
        chat_template_kwargs=grpo_arguments(config, tmp_path, seed=0, style=style).chat_template_kwargs,
        environment_factories=None,
        _is_vlm=False,
    )
    found, *_ = GRPOTrainer._tokenize_prompts(trainer, rows["prompt"][:])
    expected = [list(encode_prompt(problem, style, tokenizer)) for problem in problems]
    assert found == expected, LOOK.format("_tokenize_prompts")
