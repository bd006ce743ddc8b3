"""Integer expressions of + - * and brackets: text, tree and value. Nothing is `eval`ed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

_TOKEN = re.compile(r"\s*(\d+|[A-Z]|[-+*()])")
Tree = int | str | tuple["Tree", str, "Tree"]  # a number, a letter, or left, sign, right; brackets leave no trace


def apply(left: int, sign: str, right: int) -> int:
    """What one operation gives."""
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def parse(text: str) -> Tree:
    """The tree of an expression. Raises ValueError for anything else."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        end = 0
        while match := _TOKEN.match(text, end):
            self.tokens.append(match[1])
            end = match.end()
        self.tokens.append(text[end:].strip())  # "" where all of it was read

    def whole(self) -> Tree:
        found = self._sum()
        if self.tokens != [""]:
            raise ValueError(f"an expression must end here: got {' '.join(self.tokens)!r}")
        return found

    def _sum(self) -> Tree:
        return self._chain(("+", "-"), self._product)

    def _product(self) -> Tree:
        return self._chain(("*",), self._atom)

    def _chain(self, signs: tuple[str, ...], part: Callable[[], Tree]) -> Tree:
        left = part()
        while self.tokens[0] in signs:
            left = (left, self.tokens.pop(0), part())
        return left

    def _atom(self) -> Tree:
        token = self.tokens.pop(0) if len(self.tokens) > 1 else ""
        if token == "(":
            inner = self._sum()
            if self.tokens[0] != ")":
                raise ValueError(f"a bracket must be closed: got {self.tokens[0]!r}")
            self.tokens.pop(0)
            return inner
        if token == "-":
            inner = self._atom()
            return -inner if isinstance(inner, int) else (0, "-", inner)
        if token.isdigit():
            return int(token)
        if token.isalpha():
            return token
        raise ValueError(f"a number must stand here: got {token!r}")


def value(tree: Tree, letters: Mapping[str, int] = MappingProxyType({})) -> int:
    """Its value; letters stand for numbers. Raises ValueError for an unknown letter."""
    if isinstance(tree, tuple):
        return apply(value(tree[0], letters), tree[1], value(tree[2], letters))
    if isinstance(tree, int):
        return tree
    if tree not in letters:
        raise ValueError(f"a letter must be known: got {tree}")
    return letters[tree]


def parts(tree: Tree) -> Iterator[Tree]:
    """The tree and everything inside it."""
    yield tree
    if isinstance(tree, tuple):
        yield from parts(tree[0])
        yield from parts(tree[2])
