"""What every page is made with: its template, and a way onto the disk."""

from __future__ import annotations

import json
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from traceward.errors import RunError
from traceward.report.figures import plain_text
from traceward.report.tables import refuse


@cache
def template(name: str) -> Template:
    """One of the page templates beside this file."""
    loader = PackageLoader("traceward.report", ".")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    pretty = partial(json.dumps, indent=2, ensure_ascii=False)
    templates.filters.update(signed=_signed, plain=plain_text, pretty=pretty)
    return templates.get_template(name)


def _signed(value: float | None) -> str:
    """A score with its sign, always: two decimals, or one digit where these would show nothing."""
    if value is None:
        return "not measured"
    return (f"{value:+.1g}" if 0 < abs(value) < 0.005 else f"{value:+.2f}").replace("-", "−")


def place_of(out: Path | None, directory: Path) -> Path:
    """Where a page goes: `report.html` in its directory by default. Raises RunError for a name that is no page's."""
    page = directory / "report.html" if out is None else Path(out)
    if page.suffix != ".html":
        refuse("report", "be a file that ends in .html", str(page), "name the page, for example report.html")
    return page


def write_page(page: Path, text: str, numbers: dict[str, Any]) -> None:
    """The page, and before it the same name with `.json`; each is there whole or not at all."""
    _write(page.with_suffix(".json"), json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(page, text)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=path.parent) as room:
            whole = Path(room) / path.name
            whole.write_text(text, encoding="utf-8")
            whole.replace(path)
    except OSError as error:
        raise RunError(f"report must be writable: got '{error}' at {path}; choose another --out") from error
