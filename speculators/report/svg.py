"""Just enough SVG for a report's plots: scales, ticks and marks as text.

Own, because what a page needs is a hundred lines, and what a plotting library writes is neither small nor
dark: it fixes every colour, while these marks carry classes that the page's style sheet colours for light
and dark.  Everything is pure; text is escaped by ``Markup``.

Sizes are in pixels of a phone's width, so that letters stay readable there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 34  # room for the labels of the axes

Scale = Callable[[float], float]


class Panel(NamedTuple):
    """The area between the axes; y grows upwards in data and downwards in pixels."""

    width: int = WIDTH
    height: int = 220
    left: int = LEFT
    right: int = RIGHT

    @property
    def across(self) -> tuple[float, float]:
        return self.left, self.width - self.right

    @property
    def down(self) -> tuple[float, float]:
        return self.height - BOTTOM, TOP


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """From ``low .. high`` to ``start .. end``; what lies outside is put at the border."""
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * min(1.0, max(0.0, (value - low) / span))


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """As ``linear``, of the logarithms: equal ratios are equal lengths."""
    inner = linear(math.log(low), math.log(high), start, end)
    return lambda value: inner(math.log(min(high, max(low, value))))


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round values within ``low .. high``: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def ratio_ticks(low: float, high: float) -> list[float]:
    """Ratios within ``low .. high`` that people know, 1 among them: few enough to be read."""
    known = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
    within = [one for one in known if low <= one <= high]
    apart = math.log(high / low) / 8
    chosen = [1.0]
    for one in sorted(within, key=lambda value: abs(math.log(value))):
        if all(abs(math.log(one / other)) >= apart for other in chosen):
            chosen.append(one)
    return sorted(chosen)


def join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def text(x: float, y: float, words: str, *, anchor: str = "middle", kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, words
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def dot(x: float, y: float, radius: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(kind, x, y, radius)


def box(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>').format(
        kind, x, y, max(0.0, width), max(0.0, height)
    )


def path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through ``points``."""
    along = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, along)


def arrow(x: float, y: float, up: bool, kind: str) -> Markup:
    """The end of something that goes on beyond the panel."""
    back = 6 if up else -6
    return path([(x - 4, y + back), (x, y), (x + 4, y + back)], kind)


def rows_of(panel: Panel, scale: Scale, values: Sequence[float], spelled: Callable[[float], str]) -> Markup:
    """The horizontal lines of a panel with what they stand for."""
    start, end = panel.across
    return join(
        line(start, scale(value), end, scale(value), "grid")
        + text(start - 6, scale(value) + 4, spelled(value), anchor="end", kind="tick")
        for value in values
    )


def picture(panel: Panel, label: str, marks: Iterable[Markup]) -> Markup:
    """The whole, with the words that stand for it where it cannot be seen."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        panel.width, panel.height, label, join(marks)
    )
