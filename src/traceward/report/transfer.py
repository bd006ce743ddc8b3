"""The page of a matrix: where a reward holds that was learned elsewhere, and what its rivals do there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from traceward.report.figures import PALETTE, Kind
from traceward.report.page import place_of, template, write_page
from traceward.report.tables import LOCALISE, RERANK, Cell, Method, Section, read_object, refuse

SCHEMA = 1
FILE = "transfer.json"
GAINS = {
    "rerank_gain": ("Best of N", "reward − random pick"),
    "localise_gain": ("First wrong step", "reward − chance"),
}
OVER_SFT = {
    "rerank_over_sft_logprob": ("Best of N", "reward − SFT log-prob"),
    "localise_over_sft_logprob": ("First wrong step", "reward − SFT log-prob drop"),
}
_RIVALS = {"rerank": RERANK, "localise": LOCALISE}
Pairs: TypeAlias = Mapping[tuple[str, str], Section]  # (learned on, used on) -> its cell
_SHORTEST = 0.05  # half of a colour scale, at least: small differences stay pale


@dataclass(frozen=True, slots=True)
class Tile:
    """A pair on a map.   tint: 0 to 100, how far the value is along the scale.   own: learned where it is used."""

    cell: Cell
    tint: float
    own: bool

    @property
    def sure(self) -> bool:
        """Whether the interval does not touch 0."""
        low, high = self.cell.interval or (0.0, 0.0)
        return low > 0 or high < 0


@dataclass(frozen=True, slots=True)
class Map:
    """Rows: learned on.   columns: used on.   reach: half of the colour scale, as a share."""

    title: str
    what: str
    reach: float
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]

    def above(self) -> tuple[int, int]:
        """Of the pairs that were learned elsewhere, how many are surely above 0, and how many there are."""
        tiles = [tile for _, row in self.rows for tile in row if not tile.own and tile.cell.value is not None]
        return sum(tile.sure and (tile.cell.value or 0) > 0 for tile in tiles), len(tiles)


@dataclass(frozen=True, slots=True)
class Rivals:
    """What every method is worth on the samples of one place, for each place its reward was learned on."""

    use: str
    methods: tuple[Method, ...]
    rows: tuple[tuple[str, tuple[Cell, ...], Cell], ...]  # learned on, methods, the reward's lead over SFT log-prob


def is_transfer_directory(path: Path) -> bool:
    """Whether a directory is one that `traceward transfer` wrote."""
    return (Path(path) / FILE).is_file()


def build_transfer_report(directory: Path, out: Path | None = None) -> Path:
    """Write the page of a matrix, and its numbers beside it; returns the page. Raises RunError for a torn file."""
    file = directory / FILE
    found = Section(str(file), read_object(file))
    if found.values.get("schema") != SCHEMA:
        refuse(f"{file}: schema", f"be {SCHEMA}", found.values.get("schema"), "report with the version that ran it")
    learn, use = ([str(name) for name in found.listed(key) or []] for key in ("learn", "use"))
    cells = _cells(found)
    maps = {key: _map(key, words, cells, learn, use) for key, words in (GAINS | OVER_SFT).items()}
    rivals = {measure: [_rivals(measure, cells, learn, one) for one in use] for measure in _RIVALS}
    text = template("transfer.html.j2").render(
        name=str(found.values.get("matrix")),
        learn=learn,
        use=use,
        seeds=len(found.listed("seeds") or []),
        finished=found.number("finished"),
        wanted=found.number("wanted"),
        gains=[maps[key] for key in GAINS],
        over_sft=[maps[key] for key in OVER_SFT],
        rivals=rivals,
        through_text=[f"{one} → {other}" for (one, other), cell in cells.items() if cell.values.get("through_text")],
        failed=[(one.get("pair") or one.get("part"), one.get("reason")) for one in found.listed("failed") or []],
        found=found.values,
        palette=PALETTE,
    )
    page = place_of(out, directory)
    write_page(page, text, {"schema": SCHEMA, "maps": {k: asdict(one) for k, one in maps.items()}, **found.values})
    return page


def _cells(found: Section) -> Pairs:
    rows = found.listed("cells") or []
    whole = Section(f"{found.where}: cells", {str(place): row for place, row in enumerate(rows, start=1)})
    sections = [whole.section(place) for place in whole.values]
    return {(str(one.values.get("learn")), str(one.values.get("use"))): one for one in sections}


def _cell(value: Section) -> Cell:
    low, high = value.number("low"), value.number("high")
    return Cell(value.number("value"), None if low is None or high is None else (low, high))


def _map(key: str, words: tuple[str, str], cells: Pairs, learn: Sequence[str], use: Sequence[str]) -> Map:
    read = {pair: _cell(cell.section(key)) for pair, cell in cells.items()}
    reach = max((abs(cell.value) for cell in read.values() if cell.value is not None), default=0.0)
    reach = max(_SHORTEST, -(-round(100 * reach, 6) // 5) * 5 / 100)  # a multiple of 5 points

    def tile(one: str, other: str) -> Tile:
        cell = read.get((one, other), Cell(None))
        return Tile(cell, 100 * abs(cell.value or 0) / reach, own=one == other)

    return Map(*words, reach, tuple((one, tuple(tile(one, other) for other in use)) for one in learn))


def _rivals(measure: str, cells: Pairs, learn: Sequence[str], use: str) -> Rivals:
    mine = {one: cells[one, use] for one in learn if (one, use) in cells}
    methods = [m for m in _RIVALS[measure] if any(cell.section(measure).values.get(m.key) for cell in mine.values())]
    rows = []
    for one, cell in mine.items():
        values = [_cell(cell.section(measure).section(method.key)) for method in methods]
        top = max(
            (round(v.value, 3) for v, m in zip(values, methods, strict=True) if m.kind is not Kind.CEILING and v.value),
            default=None,
        )
        marked = [
            Cell(v.value, v.interval, m.kind is not Kind.CEILING and v.value is not None and round(v.value, 3) == top)
            for v, m in zip(values, methods, strict=True)
        ]
        rows.append((one, tuple(marked), _cell(cell.section(f"{measure}_over_sft_logprob"))))
    return Rivals(use, tuple(methods), tuple(rows))
