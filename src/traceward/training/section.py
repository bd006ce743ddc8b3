"""What a section of settings is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def rule_of(fault: Any) -> str:
    """What one fault of pydantic's says, with what was got; ours say that themselves."""
    text = str(fault["msg"]).removeprefix("Value error, ")
    return text if "got" in text else f"{text[0].lower()}{text[1:]}: got {fault['input']!r}; mend it"
