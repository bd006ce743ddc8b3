"""`traceward export`: a reward or a policy as a plain model with its card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from traceward.data.jsonl import write_json
from traceward.errors import ConfigError
from traceward.export.card import README, Contents, model_card
from traceward.export.directory import RECORD, refuse_target, whole_directory
from traceward.export.provenance import Provenance, is_run, provenance
from traceward.export.write import write_policy, write_reward
from traceward.loading import load_tokenizer
from traceward.records import ModelForm
from traceward.rewards.calibration import Calibration
from traceward.rewards.files import CARD, read_card, saved_calibration

VERSION = 1


@dataclass(frozen=True, slots=True)
class ExportResult:
    """kind: "reward" or "policy".   files: what was written, with bytes."""

    out: Path
    kind: str
    contents: Contents
    files: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """What --json writes."""
        return {"out": str(self.out), "kind": self.kind, **asdict(self.contents), "files": self.files}


def export_model(
    source: Path, *, out: Path, form: ModelForm | None = None, merge: bool = False, overwrite: bool = False
) -> ExportResult:
    """Write the reward or the policy in `source` to `out` as transformers and PEFT write models, with a card.

    form: of a scalar reward.   merge: an adapter becomes whole weights.   overwrite: an earlier export may go.
    Raises ConfigError for what no plain model can be, RunError where `out` must not be written.
    """
    card = read_card(source) if (source / CARD).is_file() else None
    if card is None:
        _refuse_other_source(source, form)
    refuse_target(out, source, overwrite=overwrite)
    found = provenance(source, card)
    calibration = None if card is None else saved_calibration(source, card)
    with whole_directory(out) as room:
        if card is None:
            contents = write_policy(source, room, found.recipe, merge=merge)
        else:
            contents = write_reward(source, room, card, found.recipe, form, merge=merge)
        model_card(out.name, found, contents, load_tokenizer(room), calibration).save(room / README)
        write_json(room / RECORD, _record(found, contents, calibration))
        files = {p.relative_to(room).as_posix(): p.stat().st_size for p in sorted(room.rglob("*")) if p.is_file()}
    return ExportResult(out, "policy" if card is None else "reward", contents, files)


def _record(found: Provenance, contents: Contents, calibration: Calibration | None) -> dict[str, Any]:
    """For machines: what the export holds, the reward's card, and its maps without the traces they were fitted on."""
    maps = None if calibration is None else {k: v for k, v in calibration.as_json().items() if k != "traces"}
    card = {key: value for key, value in found.card.items() if key != "files"}
    return {"traceward_export": VERSION, **asdict(contents), "card": card or None, "calibration": maps}


def _refuse_other_source(source: Path, form: ModelForm | None) -> None:
    """Raises ConfigError where `source` is no policy."""
    rule = "source must be the directory of a reward or a policy"
    if is_run(source):
        found = [path for path in (source / "reward", source / "reward-after") if path.is_dir()]
        found += sorted(path for path in (source / "policies").glob("*") if path.is_dir())
        raise ConfigError(f"{rule}: got the run {source}; choose one of {', '.join(map(str, found)) or 'its models'}")
    kinds = _kinds(source)
    if not kinds:
        raise ConfigError(f"{rule}: got '{source}'; check the path")
    if any("Classification" in kind or kind.endswith("_CLS") for kind in kinds):
        raise ConfigError(f"{rule}: got a classifier in {source}; name the directory with the reward's {CARD}")
    if form is not None:
        raise ConfigError(f"form must be left out for a policy, which is a language model: got '{form}'; leave it out")


def _kinds(directory: Path) -> list[str]:
    """What transformers and PEFT call the model in a directory; nothing where there is none."""
    found: list[str] = []
    for name, key in (("config.json", "architectures"), ("adapter_config.json", "task_type")):
        path = directory / name
        try:
            value = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        except ValueError as error:
            raise ConfigError(f"{path} must be whole JSON: got '{error}'; copy the directory again") from error
        found += value if isinstance(value, list) else [value] if value else []
    return found
