"""Rewards on disk: whole or not there, and the same scores after loading."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from traceward.data.formats import EncodedTrace, Format
from traceward.errors import RewardFileError, RunError
from traceward.records import Granularity, Head, UnitSpec
from traceward.rewards.model import RewardModel

MakeReward = Callable[..., RewardModel]
SPARSE, STEPS, DENSE = (UnitSpec(granularity) for granularity in Granularity)


@pytest.fixture
def saved(make_reward: MakeReward, tmp_path: Path) -> Path:
    make_reward(Head.LOG_RATIO).save(tmp_path / "reward")
    return tmp_path / "reward"


def edit_card(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    change(card)
    path.write_text(json.dumps(card), encoding="utf-8")


def refusal(directory: Path) -> str:
    """The message of a load that must fail: one line that names the place."""
    with pytest.raises(RewardFileError) as caught:
        RewardModel.load(directory)
    text = str(caught.value)
    assert "\n" not in text
    assert str(directory) in text
    assert " must " in text
    return text


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("spec", [SPARSE, UnitSpec(every=7), DENSE])
@pytest.mark.parametrize("head", list(Head))
def test_scores_are_bit_identical_after_loading(
    make_reward: MakeReward, traces: list[EncodedTrace], tmp_path: Path, *, head: Head, spec: UnitSpec, family: str
) -> None:
    # Fault 9: the trained body and the trained last layer both come back.
    reward = make_reward(head, spec, family=family, beta=0.25, dropout=0.3)
    reward.style = Format.THINK
    reward.save(tmp_path / "reward")
    again = RewardModel.load(tmp_path / "reward")
    assert (again.head, again.spec, again.style, again.beta) == (head, spec, Format.THINK, 0.25)
    assert not again.training
    assert again.score_encoded(traces) == reward.score_encoded(traces)
    assert again.score_encoded(traces, spec=spec) == reward.score_encoded(traces, spec=spec)


def test_the_directories_are_plain_transformers_models(
    make_reward: MakeReward, traces: list[EncodedTrace], tmp_path: Path
) -> None:
    ids = torch.tensor([[*traces[0].prompt_ids, *traces[0].completion_ids]])
    for head, auto in ((Head.LOG_RATIO, AutoModelForCausalLM), (Head.SCALAR, AutoModelForTokenClassification)):
        reward = make_reward(head).eval()
        reward.save(tmp_path / head)
        model = auto.from_pretrained(tmp_path / head / "model").eval()
        ours = reward.backbone.state_dict()
        assert all(torch.equal(weight, ours[name]) for name, weight in model.state_dict().items())
        # Not to the last bit: weights that stay in a mapped file are not aligned as ours are.
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=ids).logits, reward.backbone(input_ids=ids).logits)


def test_the_card_says_what_the_reward_is(make_reward: MakeReward, tmp_path: Path) -> None:
    reward = make_reward(Head.SCALAR, UnitSpec(every=7))
    reward.card = {"task": "stories", "metrics": {"held_out_auroc": 0.75}}
    reward.save(tmp_path / "reward")
    card = json.loads((tmp_path / "reward" / "card.json").read_text(encoding="utf-8"))
    assert (card["traceward_reward"], card["head"], card["granularity"], card["interval"]) == (
        1,
        "scalar",
        "interval",
        7,
    )
    assert (card["format"], card["beta"], card["sign"]) == ("plain", 1.0, "high = expert")
    assert card["readouts"]["exported"] == "mean logit over trained units"
    on_disk = {p.relative_to(tmp_path / "reward").as_posix() for p in (tmp_path / "reward").rglob("*") if p.is_file()}
    assert set(card["files"]) == on_disk - {"card.json"}
    assert {"model/model.safetensors", "model/config.json", "model/tokenizer.json"} <= on_disk
    assert RewardModel.load(tmp_path / "reward").card == reward.card


def test_the_log_ratio_card_names_its_export(saved: Path) -> None:
    card = json.loads((saved / "card.json").read_text(encoding="utf-8"))
    assert (card["head"], card["interval"], card["readouts"]["exported"]) == ("log-ratio", None, "sum log p_phi")
    assert "reference/model.safetensors" in card["files"]


def test_a_saved_reward_can_be_read_by_others(saved: Path) -> None:
    # A server often runs as another user: the mode follows the umask, as for any new directory.
    (saved.parent / "plain").mkdir()
    assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def test_a_reward_is_replaced_whole(make_reward: MakeReward, traces: list[EncodedTrace], saved: Path) -> None:
    other = make_reward(Head.SCALAR)
    other.save(saved)
    assert not (saved / "reference").exists()
    assert RewardModel.load(saved).score_encoded(traces) == other.score_encoded(traces)
    assert [path.name for path in saved.parent.iterdir()] == ["reward"]


def test_other_files_are_not_overwritten(make_reward: MakeReward, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(RunError, match="new or empty directory"):
        make_reward().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}-*"))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert "must be a directory with card.json" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model/model.safetensors", "reference/config.json", "model/tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    assert f"must hold {name}" in refusal(saved)


@pytest.mark.parametrize("name", ["model/model.safetensors", "reference/model.safetensors"])
def test_a_torn_file_is_named(saved: Path, name: str) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: len(data) // 2])
    assert f"{name} must be as it was saved" in refusal(saved)


def test_a_changed_byte_is_seen(saved: Path) -> None:
    path = saved / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert "got other bytes" in refusal(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"files"', "{}", '{"traceward_reward": 1, "files": 4}', "\xff"])
def test_a_broken_card_is_one_line(saved: Path, text: str) -> None:
    (saved / "card.json").write_bytes(text.encode("latin-1"))
    assert "must be a whole reward card" in refusal(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [("head", "tail"), ("granularity", "fine"), ("interval", 0), ("interval", "x"), ("format", 7), ("beta", "much")],
)
def test_a_card_with_a_wrong_value_is_one_line(saved: Path, key: str, value: object) -> None:
    edit_card(saved, lambda card: card.update({key: value}))
    assert "must be a whole reward card" in refusal(saved)


@pytest.mark.parametrize("key", ["head", "granularity", "interval", "format", "beta", "files", "traceward_reward"])
def test_a_card_without_a_key_names_it(saved: Path, key: str) -> None:
    edit_card(saved, lambda card: card.pop(key))
    assert key in refusal(saved)


def test_another_version_is_refused(saved: Path) -> None:
    edit_card(saved, lambda card: card.update(traceward_reward=2))
    assert "must be of version 1: got 2" in refusal(saved)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes past `size` bytes of a file fail, as on a full disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [500, 60_000])  # fails in config.json, and in the weights
def test_a_full_disk_leaves_nothing_behind(make_reward: MakeReward, tmp_path: Path, size: int) -> None:
    reward = make_reward()
    with largest_file(size), pytest.raises(RunError, match="must be written whole"):
        reward.save(tmp_path / "reward")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_old_reward(make_reward: MakeReward, traces: list[EncodedTrace], tmp_path: Path) -> None:
    old = make_reward(Head.LOG_RATIO)
    old.save(tmp_path / "reward")
    with largest_file(60_000), pytest.raises(RunError, match="free space"):
        make_reward(Head.SCALAR).save(tmp_path / "reward")
    assert [path.name for path in tmp_path.iterdir()] == ["reward"]
    assert RewardModel.load(tmp_path / "reward").score_encoded(traces) == old.score_encoded(traces)


def test_a_place_that_cannot_be_written_is_named(make_reward: MakeReward, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="must be written whole"):
        make_reward().save(tmp_path / "file" / "reward")
