"""README.md of an exported model: the Hub's front matter, facts, and a snippet that opens it without traceward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from jinja2 import Environment, PackageLoader, StrictUndefined

from traceward.data.formats import Format
from traceward.export import facts
from traceward.export.provenance import Provenance
from traceward.records import Granularity, ModelForm
from traceward.rewards.calibration import Calibration

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

README = "README.md"
_CLASSES = {
    ModelForm.TOKEN: ("AutoModelForTokenClassification", "token-classification"),
    ModelForm.SEQUENCE: ("AutoModelForSequenceClassification", "text-classification"),
    ModelForm.CAUSAL_LM: ("AutoModelForCausalLM", "text-generation"),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What an export holds.

    adapter_base: the model that it is an adapter of, None for whole weights.   made_of: the model it was learned from.
    reference: where p_ref of a log-ratio is: a directory inside, or a model's name.   offset: see `forms`.
    tokenizer_class: of transformers, which opens the tokenizer as it was.   four_bits: the adapter's base was in 4 bit.
    """

    form: ModelForm
    adapter_base: str | None
    made_of: str | None
    tokenizer_class: str
    reference: str | None = None
    offset: float = 0.0
    four_bits: bool = False


def hub_name(place: str | None) -> str | None:
    """`place` where it can be a model's name on the Hub: no directory of this machine, nothing of traceward's own."""
    if place is None or place == "scratch" or Path(place).exists() or Path(place).is_absolute():
        return None
    try:
        validate_repo_id(place)
    except HFValidationError:
        return None
    return place


def model_card(
    name: str,
    found: Provenance,
    contents: Contents,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration | None,
) -> ModelCard:
    """The card of what was exported. The license is left to whoever publishes it."""
    card, is_reward = found.card, bool(found.card)
    style = Format(card["format"]) if is_reward else found.recipe.data.format if found.recipe else Format.PLAIN
    tables = facts.reward_rows(found) if is_reward else facts.policy_rows(found)
    fields: dict[str, Any] = {
        "name": name,
        "is_reward": is_reward,
        "contents": contents,
        "auto_class": _CLASSES[contents.form][0],
        "base": _words(contents.made_of),
        "data": facts.data_rows(found),
        "settings": facts.setting_rows(found),
        "measured": {title: rows for title, rows in tables.items() if rows},
        "calibration": facts.calibration_rows(found, calibration),
        "limits": [*facts.limits(found, calibration), *_limits_of_form(found, contents)],
        "share": float(card.get("reference_share", 0.0)),
        "units": _units(card) if is_reward else "",
        "asked": repr(f"{style.instruction}\n\n") if style.instruction else "",
        "templated": style.templated(tokenizer),
        "template_options": ", ".join(f"{name}={value!r}" for name, value in style.template_options.items()),
        "dtype": card.get("dtype") or (found.recipe.policy.dtype if found.recipe else "auto"),
    }
    body = _environment().get_template("card.md.j2").render(fields)
    return ModelCard(f"---\n{_front_matter(found, contents).to_yaml()}\n---\n\n{body}")


def _front_matter(found: Provenance, contents: Contents) -> ModelCardData:
    base = hub_name(contents.made_of)
    return ModelCardData(
        library_name="peft" if contents.adapter_base else "transformers",
        pipeline_tag=_CLASSES[contents.form][1],
        tags=["traceward", *(["reward-model", "inverse-reinforcement-learning"] if found.card else ["reasoning"])],
        base_model=base,
        base_model_relation=None if base is None else "adapter" if contents.adapter_base else "finetune",
    )


def _words(place: str | None) -> str:
    if place is None:
        return "not named in its files"
    if hub_name(place):
        return f"[{place}](https://huggingface.co/{place})"
    return f"the local directory {Path(place).name!r}" if Path(place).is_absolute() else f"{place!r}"


def _units(card: Mapping[str, Any]) -> str:
    """Python for the places of a completion at which a scalar head is read."""
    if card["granularity"] == Granularity.SPARSE:
        return "[len(completion_ids) - 1]"
    if card["granularity"] == Granularity.DENSE:
        return "range(len(completion_ids))"
    if card["interval"]:
        return f"[*range({card['interval'] - 1}, len(completion_ids) - 1, {card['interval']}), len(completion_ids) - 1]"
    lines = '[at for at, token in enumerate(completion_ids) if "\\n" in tokenizer.decode([token])]'
    return f"[*{lines}, len(completion_ids) - 1]"


def _limits_of_form(found: Provenance, contents: Contents) -> list[str]:
    said = []
    if contents.offset:
        said.append(
            f"A sequence classifier has no bias: the reward is the logit {contents.offset:+.6g}. That number is the "
            "same for every text and changes no order."
        )
    if contents.form is ModelForm.SEQUENCE:
        said.append(
            "The logit is that of the end-of-sequence token. What calls it with text must end the text with it: TRL's "
            "reward models and vLLM add none."
        )
    if contents.tokenizer_class != "AutoTokenizer":
        said.append(
            "AutoTokenizer, and what opens tokenizers by it, makes another tokenizer of these files, as transformers "
            "has one of its own for this kind of model: give such programs token ids."
        )
    if contents.adapter_base and hub_name(contents.adapter_base) is None:
        said.append(
            "It is an adapter of a model that is named by a path of the machine it was made on: name your own copy in "
            "adapter_config.json, or export it again with --merge."
        )
    if contents.four_bits:
        said.append("The adapter learned beside weights in 4 bit; beside whole ones it says something else.")
    by_steps = found.card.get("granularity") == Granularity.INTERVAL and not found.card["interval"]
    if by_steps and contents.form is ModelForm.TOKEN:
        said.append("Steps are lines here. traceward cuts text without a line break into sentences.")
    if not found.card and found.recipe is None:
        said.append("How its prompts were worded is not known here; the snippet gives it the bare question.")
    return said


def _environment() -> Environment:
    return Environment(  # a card is Markdown: nothing is escaped as HTML
        loader=PackageLoader("traceward.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
