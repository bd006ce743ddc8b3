"""What ships with the package: one tokenizer for all built-in worlds, and a tiny base model of `stories`."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
TOKENIZER = ASSETS / "tokenizer"
STORIES_BASE = ASSETS / "stories-base"
