"""The verb that gives models away: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traceward.cli.frame import Results, ready, say, work
from traceward.records import ModelForm


def export(
    source: Annotated[Path, typer.Argument(help="Directory of a reward or a policy.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="New directory for the plain model.", show_default=False)],
    form: Annotated[ModelForm | None, typer.Option(help="Of a scalar reward; left out: what fits its units.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Write an adapter as whole weights.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    results: Results = None,
) -> None:
    """Write a reward or a policy as a plain model. It opens without traceward and brings a model card."""
    ready(out, results)
    with work():
        from traceward import tables
        from traceward.workflows.export import export_model

        found = export_model(source, out=out, form=form, merge=merge, overwrite=overwrite)
    tables.finish(None, None, [tables.export_table(found)], results=results, found=found.as_json())
    say(card=out / "README.md")
