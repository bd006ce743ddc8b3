"""A recipe before it is checked: a TOML file on top of the one that it names, and overrides on top of both."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

from traceward.errors import ConfigError

Tree: TypeAlias = dict[str, Any]
BASE = "recipe"  # the key of a file's base: the place of another file, beside it


def read_toml(path: str | Path) -> Tree:
    """The tree of a recipe file, on top of its base's. Raises ConfigError naming the file that is wrong."""
    return _read(Path(path), ())


def _read(file: Path, above: tuple[Path, ...]) -> Tree:
    if file.resolve() in above:
        raise ConfigError(f"{file}: recipe must not be its own base: got a circle; remove `{BASE}` from one of them")
    if not file.is_file():
        raise ConfigError(f"recipe must be a TOML file: got '{file}'; check the path")
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: recipe must be TOML: got {error}; mend that line") from error
    base = tree.pop(BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{file}: {BASE} must be the place of a TOML file: got {base!r}; write it in quotes")
    return merged(_read(file.parent / base, (*above, file.resolve())), tree)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """A copy of `tree` with `changes` on top, section by section."""
    found = deepcopy(dict(tree))
    for key, value in changes.items():
        inner = found.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        found[key] = merged(inner, value) if both and inner is not None else deepcopy(value)
    return found


def set_override(tree: Tree, override: str) -> None:
    """Put `section.key=value` into a tree."""
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override must read section.key=value: got '{override}'; for example data.test=50")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    place = tree
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"override must name a key of a section: got '{override}'; '{part}' is a value")
    place[parts[-1]] = value
