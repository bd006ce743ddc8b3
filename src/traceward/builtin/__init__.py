"""What ships with the package: tokenizer and tiny base model of `stories`, and a tokenizer that all worlds share."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
TOKENIZER = ASSETS / "tokenizer"
WORLDS_TOKENIZER = ASSETS / "worlds-tokenizer"
STORIES_BASE = ASSETS / "stories-base"
