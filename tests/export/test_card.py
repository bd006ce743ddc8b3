"""The model card: its front matter, and numbers that stand in the files of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import PreTrainedTokenizerBase

from traceward.config import resolve
from traceward.data.jsonl import write_json
from traceward.export.card import Contents, hub_name, model_card
from traceward.export.provenance import Provenance
from traceward.records import CalibrationMethod, Head, ModelForm, UnitSpec
from traceward.rewards.calibration import Calibration, ProbabilityMap
from traceward.training.run_directory import RunDirectory
from traceward.workflows.export import export_model

Making = Any  # conftest's
RESULTS = {
    "label_source": "demonstrations",
    "uses_final_answers": {"reward": "no", "consensus": "yes", "outcome_reward": "no"},
    "data": {"task": "stories", "demonstrations": 20, "test_problems": 300, "samples_per_problem": 8},
    "calibration": {"auroc": 0.7123, "auroc_low": 0.69, "auroc_high": 0.73, "auroc_length_control": 0.8042,
                    "length_correlation": -0.7317, "probabilities": {"trace": {"ece": 0.0432, "brier": 0.1987}}},
    "rerank": {"n": 8, "reward": 0.691, "shortest": 0.3251, "majority": None},
    "rerank_intervals": {"reward": [0.637, 0.743], "shortest": [0.279, 0.371]},
    "localise_hit_at_1": {"reward": 0.765, "chance": 0.252},
    "policy_pass_at_1": {"base": 0.3075, "sft": 0.7475, "adversarial": 0.8158},
    "policy_pass_at_1_intervals": {"adversarial": [0.79, 0.84]},
    "alarms": [{"stage": "adversarial", "step": 9, "alarm": "length", "message": "rollouts grew"}],
}  # fmt: skip
NUMBERS = ("0.712 [0.690, 0.730]", "0.804", "-0.732", "69.1 % [63.7, 74.3]", "32.5 % [27.9, 37.1]", "76.5 %", "0.043")


@pytest.fixture(scope="module")
def finished(making: Making) -> Path:
    """A run with a calibrated reward, the same one later on, and a policy."""
    run = RunDirectory.create(making.room / "run", resolve({"policy": {"path": "builtin:stories"}}, where="test"))
    manifest = {"versions": {"torch": "2.0"}, "commit": "abc123", "data": {"test": "f00d", "generator_seed": 0}}
    write_json(run.path / "manifest.json", manifest)
    write_json(run.path / "results.json", RESULTS)
    reward, _ = making.reward("in-a-run", Head.LOG_RATIO, UnitSpec())
    reward.calibration = Calibration(
        ProbabilityMap(CalibrationMethod.TEMPERATURE, (0.5, 1.0)), None, 0.3, ("key-one", "key-two")
    )
    for name in ("reward", "reward-after"):
        reward.save(run.path / name)
    shutil.copytree(making.policy("base-in-a-run"), run.path / "policies" / "adversarial")
    return run.path


def test_a_reward_brings_the_numbers_of_its_run(finished: Path, tmp_path: Path) -> None:
    export_model(finished / "reward", out=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for number in (*NUMBERS, "| demonstrations | 20 |", "f00d", "abc123", "rollouts grew", "temperature"):
        assert number in text
    assert "majority" not in text  # it was not measured
    assert "generator_seed" not in text
    record = json.loads((tmp_path / "out" / "traceward.json").read_text(encoding="utf-8"))
    assert record["calibration"] == {
        "trace": {"method": "temperature", "numbers": [0.5, 1.0]}, "step": None, "threshold": 0.3
    }  # fmt: skip
    assert "key-one" not in json.dumps(record)


def test_a_reward_that_learned_on_does_not_bring_them(finished: Path, tmp_path: Path) -> None:
    export_model(finished / "reward-after", out=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert [number for number in NUMBERS if number in text] == []
    assert "It learned on beside a policy" in text


def test_a_policy_brings_its_own_row(finished: Path, tmp_path: Path) -> None:
    export_model(finished / "policies" / "adversarial", out=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for row in ("| this policy | 81.6 % [79.0, 84.0] |", "| base | 30.8 % |", "| credit | consensus |",
                "| final answers used, consensus | yes |"):  # fmt: skip
        assert row in text
    assert "Calibration" not in text


def test_a_reward_without_a_run_says_what_is_not_known(making: Making, tmp_path: Path) -> None:
    export_model(making.reward("lonely", Head.SCALAR, UnitSpec())[1], out=tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for sentence in ("Nothing that its files know of.", "is not known here", "It is not calibrated", "Not stated"):
        assert sentence in text
    assert "Steps are lines here" in text


@pytest.mark.parametrize(
    ("form", "adapter", "tag", "library"),
    [
        (ModelForm.TOKEN, None, "token-classification", "transformers"),
        (ModelForm.SEQUENCE, None, "text-classification", "transformers"),
        (ModelForm.CAUSAL_LM, "Qwen/Qwen2.5-7B", "text-generation", "peft"),
    ],
)
def test_the_front_matter_is_what_the_hub_reads(
    making: Making, tmp_path: Path, *, form: ModelForm, adapter: str | None, tag: str, library: str
) -> None:
    tokenizer: PreTrainedTokenizerBase = making.tokenizer("base")
    card = {"head": "scalar", "granularity": "sparse", "interval": None, "format": "plain", "label_source": None}
    contents = Contents(form, adapter, "Qwen/Qwen2.5-7B", "AutoTokenizer")
    found = model_card("name", Provenance("reward", card, None, {}, {}), contents, tokenizer, None)
    found.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert (data["pipeline_tag"], data["library_name"], data["base_model"]) == (tag, library, "Qwen/Qwen2.5-7B")
    assert data["base_model_relation"] == ("adapter" if adapter else "finetune")
    assert "traceward" in data["tags"]
    assert "license" not in data


def test_only_names_of_the_hub_are_base_models(tmp_path: Path) -> None:
    assert hub_name("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"
    for place in (None, "scratch", "builtin:stories", str(tmp_path), "/models/gone", "a/b/c"):
        assert hub_name(place) is None
