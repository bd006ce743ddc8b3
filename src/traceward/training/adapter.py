"""What can be set of an adapter, and what a trainer of TRL's is told beside its method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from pydantic import Field, model_validator

from traceward.training.section import Section


class Engine(TypedDict):
    """How a trainer of TRL's computes, and whom it tells."""

    bf16: bool | None  # autocast; None: where there is a GPU
    gradient_checkpointing: bool
    report_to: Sequence[str]  # trackers, beside the metrics file


class AdapterSettings(Section):
    """A low-rank adapter (LoRA, by PEFT) in place of all weights."""

    rank: int | None = Field(default=None, ge=1)
    """Of the two matrices; left out, there is no adapter and all weights learn."""
    alpha: float | None = Field(default=None, gt=0)
    """The adapter's output is scaled by alpha / rank; left out, alpha is twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the adapter's input, while it learns."""
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Linear layers that get one, by the end of their names; `lm_head` is none of them."""

    @model_validator(mode="after")
    def _needs_a_rank(self) -> AdapterSettings:
        plain = all(getattr(self, name) == field.default for name, field in type(self).model_fields.items())
        if self.rank is None and not plain:
            raise ValueError("rank must be set with the other keys of an adapter: got none; set it, or remove them")
        if "lm_head" in self.target_modules:
            raise ValueError(
                "target_modules must not name lm_head, which TRL reads past its adapter: got it; remove it"
            )
        return self

    @property
    def scale(self) -> float:
        """What PEFT calls lora_alpha."""
        return self.alpha or 2.0 * (self.rank or 0)

    @property
    def layers(self) -> tuple[int | None, float, frozenset[str]]:
        """What two adapters must have in common for the weights of one to have a place in the other."""
        return self.rank, self.scale, frozenset(self.target_modules)

    @property
    def chosen(self) -> bool:
        """Whether there is an adapter."""
        return self.rank is not None
