from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from traceward.adapters import is_adapted
from traceward.data.demonstrations import read_demonstrations
from traceward.data.formats import Format, encode
from traceward.errors import ConfigError
from traceward.loading import load_causal_lm
from traceward.records import Trace
from traceward.rewards.model import RewardModel
from traceward.training.settings import CriticSettings, RewardSettings
from traceward.workflows.fit import fit_reward, read_rollouts


def _rollouts(verb: Any, demonstrations: Path, path: Path) -> Path:
    """Two wrong traces a question: as steps, and as text with the question worded a little differently."""
    rows = []
    for number, row in enumerate(verb.read(demonstrations)):
        steps, question = ["Ann has 1 + 1 = 3 pens."], row["question"]
        rows.append({"id": f"x{number}", "question": question, "steps": steps, "model_answer": "3"})
        rows.append({"id": f"y{number}", "question": question.upper(), "completion": "It is 4.\nAnswer: 4"})
    return verb.write(path, rows)


def test_fit_on_given_rollouts_learns_to_tell_them_from_experts(
    verb: Any, demonstrations: Path, policy: Path, tmp_path: Path
) -> None:
    rollouts = _rollouts(verb, demonstrations, tmp_path / "rollouts.jsonl")
    out = tmp_path / "reward"
    text = verb(
        "fit", demonstrations, "--policy", policy, "--rollouts", rollouts, "--out", out, "--updates", "20",
        "--seed", "3", "--learning-rate", "0.001", "--corruption-pack", "general", "--corruption-pack", "arithmetic",
    )  # fmt: skip
    card = json.loads((out / "card.json").read_text())
    assert card["data"]["demonstrations"] == read_demonstrations(demonstrations).fingerprint
    assert len(card["data"]["rollouts"]) == 64
    assert (card["label_source"], card["demonstrations"], card["rollouts"]) == ("demonstrations", 6, 12)
    assert (card["training"]["seed"], card["training"]["warmup_updates"]) == (3, 20)
    assert card["training"]["updates"] in (5, 10, 15, 20)
    assert card["training"]["corruption_packs"] == ["general", "arithmetic"]
    # 12 pairs: both experts above all four rollouts. The two corruptions are beyond a random model of this size.
    assert card["metrics"]["held_out_auroc"] >= 8 / 12
    assert "torch" in card["versions"]
    assert "held-out AUROC" in text
    # The traces of one text: experts above rollouts.
    first = verb.read(demonstrations)[0]
    expert_row = {"question": first["question"], "steps": first["steps"], "model_answer": first["answer"]}
    rows = [expert_row, {**expert_row, "steps": ["It is 4."], "model_answer": "4"}]
    path = verb.write(tmp_path / "pair.jsonl", rows)
    expert, rollout = (
        sum(json.loads(line)["step_scores"]) for line in verb("score", path, "--reward", out).splitlines()
    )
    assert expert > rollout


def test_fit_reads_every_setting_of_a_reward_or_refuses_it(
    verb: Any, demonstrations: Path, policy: Path, tmp_path: Path
) -> None:
    rollouts, out = _rollouts(verb, demonstrations, tmp_path / "rollouts.jsonl"), tmp_path / "reward"

    def fit(**reward: Any) -> None:
        critic = CriticSettings(warmup_updates=1, held_out=0)
        chosen = RewardSettings.model_validate(reward)
        fit_reward(demonstrations, policy=str(policy), out=out, rollouts=rollouts, reward=chosen, critic=critic)

    for reward in ({"start": "sft"}, {"path": "x"}, {"shares_backbone": True}):
        with pytest.raises(ConfigError, match=f"reward.{next(iter(reward))} must be left out in fit"):
            fit(**reward)
    fit(adapter={"rank": 2}, gradient_checkpointing=True)
    assert is_adapted(RewardModel.load(out).backbone)


def test_fit_samples_the_policy_and_the_same_seed_gives_the_same_reward(
    verb: Any, demonstrations: Path, policy: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        verb(
            "fit", demonstrations, "--policy", policy, "--out", tmp_path / name, "--updates", "2", "--seed", seed,
            "--head", "scalar", "--granularity", "sparse", "--rollouts-per-question", "2", "--max-new-tokens", "8",
        )  # fmt: skip
    one, two, three = (json.loads((tmp_path / name / "card.json").read_text()) for name in ("one", "two", "three"))
    assert one == two
    assert one["files"]["model/model.safetensors"] != three["files"]["model/model.safetensors"]
    assert (one["rollouts"], one["head"], one["granularity"]) == (12, "scalar", "sparse")
    assert RewardModel.load(tmp_path / "one").spec.granularity == "sparse"


def test_rollouts_that_come_as_text_are_encoded_as_demonstrations_are(
    verb: Any, demonstrations: Path, policy: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    found = read_demonstrations(demonstrations)
    path = _rollouts(verb, demonstrations, tmp_path / "rollouts.jsonl")
    rollouts = read_rollouts(path, found, load_causal_lm(policy), tokenizer, Format.PLAIN)
    assert [r.problem_id for r in rollouts[::2]] == [r.problem_id for r in rollouts[1::2]]
    problem = found.demonstrations[2].problem
    steps = encode(problem, Trace(("Ann has 1 + 1 = 3 pens.",), "3"), Format.PLAIN, tokenizer)
    text = encode(problem, Trace(("It is 4.",), "4"), Format.PLAIN, tokenizer)
    assert [(r.problem_id, r.prompt_ids, r.completion_ids) for r in rollouts[4:6]] == [
        (problem.id, steps.prompt_ids, steps.completion_ids),
        (problem.id, text.prompt_ids, text.completion_ids),
    ]


def test_rollouts_of_other_questions_name_their_lines(
    verb: Any, demonstrations: Path, policy: Path, tmp_path: Path
) -> None:
    rollouts = _rollouts(verb, demonstrations, tmp_path / "rollouts.jsonl")
    rows = verb.read(rollouts)
    rows[3]["question"] = "How many moons has Mars?"
    out = tmp_path / "reward"
    common = ("fit", demonstrations, "--policy", policy, "--out", out, "--rollouts")
    err = verb.fails(*common, verb.write(rollouts, rows))
    assert "rollouts.jsonl:4: question: must be a question of" in err
    assert "Mars" in err
    del rows[3]["question"]  # and no id of a demonstration either
    assert "rollouts.jsonl:4: question: must be in the row" in verb.fails(*common, verb.write(rollouts, rows))
    rows[3] = {"qid": read_demonstrations(demonstrations).demonstrations[1].problem.id, "completion": "It is 4."}
    verb(*common, verb.write(rollouts, rows), "--updates", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--learning-rate -1", "learning_rate input should be greater than 0: got -1.0; mend it"),
        ("--corruption-pack medical", "error: corruption_packs must name packs among "),
        ("--granularity dense --interval 3", "interval must belong"),
        ("--max-new-tokens 150", "demonstrations.jsonl:1: question: must leave room for 150 new tokens"),
    ],
)
def test_wrong_settings_are_told_before_any_work(
    demonstrations: Path, policy: Path, options: str, message: str, request: pytest.FixtureRequest
) -> None:
    out = policy.parent / "never-made"
    command = ("fit", demonstrations, "--policy", policy, "--out", out, *options.split())
    assert message in request.getfixturevalue("verb").fails(*command)
    assert not out.exists()


def test_a_directory_with_other_files_is_left_alone(
    verb: Any, demonstrations: Path, policy: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    err = verb.fails("fit", demonstrations, "--policy", policy, "--out", tmp_path / "thesis", "--updates", "0")
    assert "with other files" in err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
