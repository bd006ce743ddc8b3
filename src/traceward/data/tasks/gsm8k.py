"""GSM8K (Cobbe et al. 2021): its official JSONL, or rows already in our schema, told apart line by line.

Official: `question`, and an `answer` of solution lines with calculator notes <<48/2=24>> and a last line "#### 72".
"""

from __future__ import annotations

import re

from traceward.data.jsonl import Row

_NOTE = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"(?P<solution>.*)\n[ \t]*####[ \t]*(?P<answer>\S.*?)\s*", re.DOTALL)
_GROUPED = re.compile(r"(?<!\d)-?\d{1,3}(?:,\d{3})+(?![\d,])")


def plain_number(answer: str) -> str:
    """Thousands separators taken out: "1,080" -> "1080"."""
    return _GROUPED.sub(lambda match: match[0].replace(",", ""), answer.strip())


def convert(row: Row) -> Row:
    """A row of either form in our schema. ValueError: an official answer without its last line."""
    answer = row.get("answer")
    if "steps" in row or "solution" in row:
        return {**row, "answer": plain_number(answer)} if isinstance(answer, str) else row
    match = _FINAL.fullmatch(answer) if isinstance(answer, str) else None
    if match is None:
        raise ValueError(f"must be a solution that ends with a line '#### number': got {answer!r}; mend that row")
    lines = (_NOTE.sub("", line).strip() for line in match["solution"].split("\n"))
    steps = [line for line in lines if line]
    return {"source": "GSM8K", **row, "steps": steps, "answer": plain_number(match["answer"])}
