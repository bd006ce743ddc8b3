"""Figures: numbers in, an SVG string out, ready to stand inside an HTML page.

Every figure names its lines and bars directly, so none has a legend. Colours leave as CSS variables and text as text
in the page's own font: one SVG serves the light page, the dark page and print. Shares are fractions here and percent
on the axis.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from io import StringIO
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# name -> (light, dark). "ours" is the one accent; "low" is its colour-blind-safe opposite on the step scale.
PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#fdfdfb", "#14161a"),
    "ink": ("#17191e", "#eceae4"),
    "muted": ("#5c6068", "#a5a8ae"),
    "faint": ("#9a9da3", "#767a82"),
    "rule": ("#dfdfda", "#31353c"),
    "panel": ("#f4f4ef", "#1b1e23"),
    "ours": ("#0a5bb5", "#6db0ff"),
    "low": ("#b9540b", "#f2994a"),
}
_STYLE: Any = {  # matplotlib's own key type changes with its version
    "svg.fonttype": "none",
    "svg.hashsalt": "traceward",
    # Labels are data: a dollar sign in one is a dollar sign.
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
}


class Kind(StrEnum):
    """What a row is in a comparison; decides its tone, never whether it may win (except `CEILING`)."""

    OURS = "ours"
    OURS_TOO = "ours-too"  # uses the reward, but is not the number the claim is about
    RIVAL = "rival"
    FLOOR = "floor"  # chance, or the untrained start
    TOLD = "told"  # knows the right answers
    CEILING = "ceiling"  # cannot be reached by any method


@dataclass(frozen=True, slots=True)
class Series:
    """One line. None in `ys` is a gap. `interval` is drawn at the last point."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    kind: Kind = Kind.RIVAL
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with the interval beside it."""

    label: str
    value: float
    kind: Kind = Kind.RIVAL
    interval: tuple[float, float] | None = None


_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (5, 2, 1, 2), (8, 2))  # on, off, … in line widths
_TONES = {Kind.OURS: "ours", Kind.OURS_TOO: "ours", Kind.RIVAL: "muted"}


def percent_text(value: float) -> str:
    """0.614 -> "61%"."""
    return f"{100 * value:.0f}%"


def plain_text(value: float) -> str:
    """At most three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Positions near `values`, in the same order, at least `gap` apart and inside [low, high] where they fit."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    if not order:
        return []
    room = (high - low) / max(1, len(order) - 1)
    gap = min(gap, room)
    placed = [min(max(values[index], low), high) for index in order]
    for here in range(1, len(placed)):
        placed[here] = max(placed[here], placed[here - 1] + gap)
    # What the push upwards drove over the top comes back down; `gap` fits, so `low` is not crossed.
    placed[-1] = min(placed[-1], high)
    for here in range(len(placed) - 2, -1, -1):
        placed[here] = min(placed[here], placed[here + 1] - gap)
    return [placed[order.index(index)] for index in range(len(values))]


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = 120) -> tuple[list[float], list[float]]:
    """At most `limit` points, each the mean of a run of neighbours."""
    count = min(limit, len(xs))
    edges = [place * len(xs) // count for place in range(count + 1)] if count else []
    parts = [slice(start, end) for start, end in itertools.pairwise(edges)]
    return [fmean(xs[part]) for part in parts], [fmean(ys[part]) for part in parts]


@rc_context(_STYLE)
def line_figure(
    series: Sequence[Series],
    *,
    alt: str,
    x_label: str,
    y_text: Callable[[float], str] = percent_text,
    levels: Sequence[tuple[str, float]] = (),
    band: tuple[float, float] | None = None,
    doubling: bool = False,
    size: tuple[float, float] = (400, 280),
    label_width: float = 118,
) -> str:
    """Lines over a shared x axis, each named at its right end. `levels` are named horizontal lines, `band` is shaded.

    `doubling` puts 1, 2, 4, 8 at equal distances and ticks every x there is. `size` is in points.
    Series without a single number are left out.
    """
    series = [one for one in series if any(y is not None for y in one.ys)]
    figure, axes, height = _axes(size, left=36, right=label_width, bottom=34, top=8)
    ends: list[tuple[str, float, float, str, bool]] = []
    last_x = max((one.xs[-1] for one in series), default=1)
    dashes = _dashes(series)
    for one, dash in zip(series, dashes, strict=True):
        tone = _TONES.get(one.kind, "faint")
        (line,) = axes.plot(
            one.xs,
            [math.nan if y is None else y for y in one.ys],
            color=_ink(tone),
            clip_on=False,
            linewidth=2.6 if one.kind is Kind.OURS else 1.5,
            solid_capstyle="round",
            marker="o" if len(one.xs) <= 12 else None,
            markersize=5 if one.kind is Kind.OURS else 3.2,
            zorder=4 if one.kind is Kind.OURS else 3,
        )
        if dash:
            line.set_dashes(dash)
        end_x, end_y = [(x, y) for x, y in zip(one.xs, one.ys, strict=True) if y is not None][-1]
        if one.interval is not None:
            axes.plot([end_x, end_x], one.interval, color=_ink(tone), linewidth=6, alpha=0.28, clip_on=False)
        ends.append((one.label, end_x, end_y, tone, one.kind is Kind.OURS))
    if band is not None:
        axes.axhspan(*band, color=_ink("ours"), alpha=0.12, linewidth=0, zorder=1)
    for label, level in levels:
        axes.axhline(level, color=_ink("faint"), linewidth=1, dashes=(2, 2), zorder=2)
        ends.append((label, last_x, level, "faint", False))
    if doubling:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for one in series for x in one.xs})
        axes.set_xticks(ticks, [plain_text(x) for x in ticks])
        axes.xaxis.minorticks_off()
    axes.margins(x=0.03, y=0.09)
    _value_axis(axes, y_text)
    axes.set_xlabel(x_label, color=_ink("muted"), loc="left", labelpad=5)
    _name_ends(axes, ends, height=height, width=size[0] - 36 - label_width)
    return _svg(figure, alt)


@rc_context(_STYLE)
def bar_figure(
    bars: Sequence[Bar], *, alt: str, chance: float | None = None, width: float = 400, label_width: float = 118
) -> str:
    """Horizontal bars from zero, top to bottom as given, with intervals, values and a dashed line at chance."""
    row = 34
    size = (width, row * max(1, len(bars)) + 40)
    figure, axes, _ = _axes(size, left=label_width, right=52, bottom=12, top=28)
    tops = [bar.interval[1] if bar.interval else bar.value for bar in bars]
    axes.set_xlim(0, max([*tops, chance or 0, 0.05]))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    for place, bar in enumerate(bars):
        ours = bar.kind in (Kind.OURS, Kind.OURS_TOO)
        axes.barh(place, bar.value, height=0.58, color=_ink("ours" if ours else "faint"), alpha=1 if ours else 0.55)
        if bar.interval is not None:
            # A casing in the page's colour keeps the interval legible on its bar.
            for tone, thick in (("page", 4.2), ("ink", 1.6)):
                axes.plot(bar.interval, [place, place], color=_ink(tone), linewidth=thick, solid_capstyle="butt")
        weight = "bold" if ours else "normal"
        axes.annotate(
            percent_text(bar.value),
            (tops[place], place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=_ink("ours" if ours else "ink"),
            weight=weight,
            annotation_clip=False,
        )
        axes.annotate(
            bar.label,
            (0, place),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=_ink("ours" if ours else "ink"),
            weight=weight,
            annotation_clip=False,
        )
    if chance is not None:
        axes.axvline(chance, color=_ink("ink"), linewidth=1.1, dashes=(3, 2))
        axes.annotate(
            f"chance {percent_text(chance)}",
            (chance, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=_ink("muted"),
            annotation_clip=False,
        )
    axes.set_axis_off()
    return _svg(figure, alt)


def _dashes(series: Sequence[Series]) -> list[tuple[float, ...]]:
    """A dash for each line: rivals take turns, so that grey lines differ; our main line is unbroken."""
    turns = itertools.cycle(_DASHES)
    fixed: dict[Kind, tuple[float, ...]] = {Kind.OURS: (), Kind.OURS_TOO: (4, 2), Kind.TOLD: ()}
    return [next(turns) if one.kind is Kind.RIVAL else fixed.get(one.kind, (1, 2)) for one in series]


def _ink(tone: str) -> str:
    return PALETTE[tone][0]


def _axes(
    size: tuple[float, float], *, left: float, right: float, bottom: float, top: float
) -> tuple[Figure, Axes, float]:
    """A figure of `size` points with one bare pair of axes inside fixed margins, and the axes' height."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72))
    inner = height - bottom - top
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, inner / height))
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_ink("faint"))
    axes.tick_params(length=0, pad=5, labelcolor=_ink("muted"))
    return figure, axes, inner


def _value_axis(axes: Axes, y_text: Callable[[float], str]) -> None:
    """Four or so ticks, a hairline at each."""
    axes.locator_params(axis="y", nbins=5)
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    axes.set_yticks(ticks, [y_text(float(tick)) for tick in ticks])
    axes.set_ylim(low, high)
    axes.grid(axis="y", color=_ink("rule"), linewidth=0.8)
    axes.set_axisbelow(True)


def _name_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str, bool]], *, height: float, width: float) -> None:
    """The names at the right ends, moved apart where they would touch, with a thread back to the line."""
    low, high = axes.get_ylim()
    wanted = [height * (y - low) / (high - low) for _, _, y, _, _ in ends]
    places = spread(wanted, gap=13.5, low=2, high=height - 2)
    for (label, x, y, tone, bold), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(width + 12, place),
            textcoords="axes points",
            va="center",
            color=_ink("muted" if tone == "faint" else tone),
            weight="bold" if bold else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": _ink("rule"), "linewidth": 0.8, "shrinkA": 2, "shrinkB": 4},
        )


def _svg(figure: Figure, alt: str) -> str:
    """The figure as an `<svg>` element: no prologue, no namespace, no size, ids its own, CSS variables for colours."""
    with StringIO() as sink, warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's font lacks; widths may be off by a little.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(sink, format="svg", metadata={"Date": None})
        text = sink.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| transform="rotate\(-0 [^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'style="[^"]*"', _in_page_terms, text)
    # Two figures of one page must not share an id, and most ids serve nobody.
    own = hashlib.sha256((alt + text).encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{own}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{own}-", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    opening = f'<svg role="img" aria-label="{escape(alt)}"'
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', lambda _: opening, text, count=1)


def _in_page_terms(style: re.Match[str]) -> str:
    """A style attribute with the page's variables in place of literal colours and fonts."""
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans, sans-serif)", style[0])
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name}, {light})")
    return text
