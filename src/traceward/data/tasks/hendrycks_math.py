"""MATH (Hendrycks et al. 2021, arXiv 2103.03874), official rows and rows in our schema.

Official: `problem`, `level`, `type`, and a `solution` whose last \\boxed{} holds the answer. Line breaks inside
displayed mathematics are white space to TeX: they become spaces, so that a formula stays in one step. A drawing
becomes "[figure]".
"""

from __future__ import annotations

import re

from traceward.data.grading import extract_answer
from traceward.data.jsonl import Row

_FIGURE = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)
_DISPLAYED = re.compile(r"\\\[.*?\\\]|\$\$.*?\$\$|\\begin\{(?P<name>[a-z]+\*?)\}.*?\\end\{(?P=name)\}", re.DOTALL)


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def convert(row: Row) -> Row:
    """A row of either form in our schema. ValueError: an official solution that boxes no answer."""
    steps = row.get("steps")
    if isinstance(steps, list):
        return {**row, "steps": [_joined(step) if isinstance(step, str) else step for step in steps]}
    solution = row.get("solution")
    if "problem" not in row or not isinstance(solution, str):
        return row
    answer = extract_answer(solution)
    if answer is None:
        raise ValueError(f"must be in a \\boxed{{}} of the solution: got {solution[-60:]!r}; mend that row")
    text = _DISPLAYED.sub(lambda match: _joined(match[0]), _FIGURE.sub("[figure]", solution))
    source = "/".join(["MATH", *([str(row["type"])] if row.get("type") else [])])
    return {"question": row["problem"], "solution": text, "answer": answer, "source": source}
