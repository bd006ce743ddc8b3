"""Public sets of worked solutions by name: how their rows become ours, and which corruptions suit them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from traceward.data.jsonl import Row
from traceward.data.tasks import gsm8k, hendrycks_math, medreason, mmlu_pro


@dataclass(frozen=True, slots=True)
class PublicSet:
    """convert: a row of the set's own form, or of ours, in ours (ValueError = a broken row).   hub: its usual name.

    configs: of the hub's data set; all of them are read.   questions: rows without reasoning are questions, not broken.
    packs: of corruptions, by default (`critic.corruption_packs`).
    """

    convert: Callable[[Row], Row]
    hub: str
    configs: tuple[str, ...] = ()
    questions: bool = False
    packs: tuple[str, ...] = ()


_MATH = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra")
SETS: Mapping[str, PublicSet] = {
    "gsm8k": PublicSet(gsm8k.convert, "openai/gsm8k", ("main",)),
    "mmlu-pro": PublicSet(
        mmlu_pro.convert,
        "TIGER-Lab/MMLU-Pro",
        questions=True,
        packs=("general", "arithmetic", "multiple-choice"),
    ),
    "medreason": PublicSet(
        medreason.convert,
        "UCSC-VLAA/MedReason",
        questions=True,
        packs=("general", "multiple-choice", "clinical"),
    ),
    "math": PublicSet(hendrycks_math.convert, "EleutherAI/hendrycks_math", (*_MATH, "precalculus")),
}
