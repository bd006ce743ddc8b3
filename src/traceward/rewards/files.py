"""A reward on disk: `model/` and `reference/` as plain Hugging Face directories, and `card.json` that signs them. Of a
reward that is an adapter, `model/` holds that alone, as PEFT writes it, and the card names the base.

`potential.safetensors` holds h of objective airl, with which training goes on; no score needs it. `calibration.json`
holds what turns scores into probabilities, where the reward was calibrated.

The directory is written under a temporary name and renamed, so a reward is either whole or not there.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from traceward.adapters import is_adapted, save_adapter
from traceward.data.formats import Format
from traceward.data.jsonl import fingerprint_file, is_unwritable, write_json
from traceward.errors import ConfigError, RewardFileError, RunError
from traceward.records import Granularity, Head, UnitSpec
from traceward.rewards.adapted import describe_base, load_adapted
from traceward.rewards.calibration import Calibration
from traceward.rewards.heads import new_potential

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from traceward.rewards.model import RewardModel

CARD = "card.json"
POTENTIAL = "potential.safetensors"
CALIBRATION = "calibration.json"
VERSION = 1


def save_reward(reward: RewardModel, directory: Path, weights: dict[str, Any] | None = None) -> None:
    """Write `reward`; an existing reward of that name is replaced only when the new one is whole.

    Raises RunError when the disk is full or the place cannot be written.
    """
    scratch = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.tmp")
    try:
        scratch.mkdir(parents=True)
        if is_adapted(reward.backbone):
            save_adapter(reward.backbone, scratch / "model", weights)
        else:
            reward.backbone.save_pretrained(scratch / "model", state_dict=weights)
            if reward.reference is not None:
                reward.reference.save_pretrained(scratch / "reference")
        reward.tokenizer.save_pretrained(scratch / "model")
        if reward.potential is not None:
            save_file(reward.potential.state_dict(), scratch / POTENTIAL)
        if reward.calibration is not None:
            write_json(scratch / CALIBRATION, reward.calibration.as_json())
        write_json(scratch / CARD, _card(reward, scratch))
        _swap(scratch, directory)
    except Exception as error:
        shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(error, OSError) or is_unwritable(error):
            raise RunError(
                f"reward must be written whole: got '{error}' at {directory}; free space or choose another place"
            ) from error
        raise


def save_calibration(directory: Path, calibration: Calibration) -> None:
    """Put `calibration` beside a saved reward, in place of an earlier one; nothing else changes.

    The card is written without and then with it, so that a reader finds a whole reward at every moment.
    """
    card = read_card(directory)
    card["files"].pop(CALIBRATION, None)
    write_json(directory / CARD, card)
    write_json(directory / CALIBRATION, calibration.as_json())
    card["files"][CALIBRATION] = fingerprint_file(directory / CALIBRATION)
    write_json(directory / CARD, card)


def _card(reward: RewardModel, scratch: Path) -> dict[str, Any]:
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    return {
        **reward.card,
        "traceward_reward": VERSION,
        "head": str(reward.head),
        "granularity": str(reward.spec.granularity),
        "interval": reward.spec.every,
        "format": str(reward.style),
        "beta": reward.beta,
        "reference_share": reward.reference_share,
        "dtype": str(reward.backbone.dtype).removeprefix("torch."),
        **({"base": describe_base(reward.backbone)} if is_adapted(reward.backbone) else {}),
        "sign": "high = expert",
        "readouts": {
            "unit_logits": "localises",
            "exported": _exported(reward),
            "policy_rewards": _policy_rewards(reward),
        },
        "files": {str(path.relative_to(scratch)): fingerprint_file(path) for path in files},
    }


def _exported(reward: RewardModel) -> str:
    if reward.head is Head.SCALAR:
        return "mean logit over trained units"
    return f"sum log p_phi - {reward.reference_share:g} log p_ref" if reward.reference_share else "sum log p_phi"


def _policy_rewards(reward: RewardModel) -> str:
    if reward.head is Head.LOG_RATIO:
        return "unit sums of beta * (log p_phi - log pi), pi as it is when it is rewarded"
    return "unit logits" if reward.potential is None else "unit logits less mean log pi, pi as it is when rewarded"


def _swap(scratch: Path, directory: Path) -> None:
    if directory.exists():
        if not (directory / CARD).exists() and any(directory.iterdir()):
            raise RunError(
                f"reward must go to a new or empty directory: got {directory} with other files; choose another"
            )
        old = scratch.with_suffix(".old.tmp")
        directory.replace(old)
        scratch.replace(directory)
        shutil.rmtree(old)
    else:
        scratch.replace(directory)


def read_card(directory: Path) -> dict[str, Any]:
    """The card of a reward directory, with every file it names checked against its sha256."""
    path = directory / CARD
    if not path.is_file():
        raise RewardFileError(f"reward must be a directory with {CARD}: got '{directory}'; check the path")
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, files = card["traceward_reward"], dict(card["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from error
    if version != VERSION:
        raise RewardFileError(f"{path} must be of version {VERSION}: got {version}; use the traceward that wrote it")
    for name, expected in files.items():
        if not (directory / name).is_file():
            raise RewardFileError(f"reward must hold {name}: got none in {directory}; copy the directory again")
        if fingerprint_file(directory / name) != expected:
            raise RewardFileError(
                f"{directory / name} must be as it was saved: got other bytes; copy the directory again"
            )
    return card


def _broken(path: Path, error: Exception) -> RewardFileError:
    return RewardFileError(f"{path} must be a whole reward card: got a broken one ({error}); save the reward again")


def _load_potential(path: Path, backbone: PreTrainedModel) -> nn.Linear:
    weights = load_file(path)
    potential = new_potential(backbone)
    potential.load_state_dict(weights)
    return potential


def saved_calibration(directory: Path, card: Mapping[str, Any]) -> Calibration | None:
    """What a reward was calibrated with; None where it was not.   card: `read_card`'s, which has checked the file."""
    path = directory / CALIBRATION
    if CALIBRATION not in card["files"]:
        return None
    try:
        return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise RewardFileError(
            f"{path} must be a whole calibration: got a broken one ({error}); calibrate again"
        ) from error


def _load_models(
    directory: Path,
    head: Head,
    described: dict[str, Any] | None,
    dtype: torch.dtype,
    base: PreTrainedModel | None,
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """Backbone and reference; `described` is what the card says of an adapter's base."""
    from traceward.loading import load_causal_lm, load_token_classifier

    if described is not None:
        return load_adapted(directory / "model", head, described, dtype, base)
    if base is not None:
        raise ConfigError(f"reward must be an adapter to take a base: got one with whole weights in {directory}")
    if head is Head.LOG_RATIO:
        return load_causal_lm(directory / "model", dtype), load_causal_lm(directory / "reference", dtype)
    return load_token_classifier(directory / "model", dtype), None


def load_reward(directory: Path, dtype: torch.dtype | None = None, base: PreTrainedModel | None = None) -> RewardModel:
    """Read a reward; see RewardModel.load."""
    import torch

    from traceward.loading import load_tokenizer
    from traceward.rewards.model import RewardModel

    card = read_card(directory)
    try:
        head, style, beta = Head(card["head"]), Format(card["format"]), float(card["beta"])
        share = float(card.get("reference_share", 0.0))  # a card without it is of a reward that exported log p_phi
        dtype = dtype or getattr(torch, card.get("dtype", "float32"))  # a card without it is of a reward in float32
        spec = UnitSpec(Granularity(card["granularity"]), card["interval"])
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise _broken(directory / CARD, error) from error
    try:
        tokenizer = load_tokenizer(directory / "model")
        backbone, reference = _load_models(directory, head, card.get("base"), dtype, base)
        potential = _load_potential(directory / POTENTIAL, backbone) if POTENTIAL in card["files"] else None
    except ConfigError as error:
        raise RewardFileError(str(error)) from error
    own = {"traceward_reward", "head", "granularity", "interval", "format", "beta", "reference_share", "sign"}
    own |= {"readouts", "files", "base", "dtype"}
    return RewardModel(
        backbone=backbone,
        reference=reference,
        potential=potential,
        tokenizer=tokenizer,
        head=head,
        spec=spec,
        style=style,
        beta=beta,
        reference_share=share,
        card={key: value for key, value in card.items() if key not in own},
        calibration=saved_calibration(directory, card),
    ).eval()
