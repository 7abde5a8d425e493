"""The plots of a report, each a function from a part of its document to static SVG.

A plot that has nothing to show is None, and the page leaves its figure out.  Whatever a plot shows stands in
a table of the same page too: a picture is never the only place of a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from speculators.quantities import duration, size
from speculators.report import svg
from speculators.report.svg import Panel

Document = dict[str, Any]
Drawing = Markup | None

#: An interval is drawn this many times beyond the figures it belongs to, and ends in an arrow there.
BEYOND = 1.6


def speedup(document: Document) -> Drawing:
    """Speedup by concurrency: mean and interval of the draft and the free arms, a small dot a round."""
    summary = document["summary"]
    arms = [("draft", summary["speed"])]
    arms += [(one["arm"], one["speed"]) for one in summary.get("extra_arms", [])]
    measured = [one for _, speed in arms for one in speed if one["speedup"]]
    if not measured:
        return None
    seen = [row["speedup"] for one in measured for row in one["rounds"] if row["speedup"]]
    low, high = min([1.0, *seen]) / 1.06, max([1.0, *seen]) * 1.06
    ends = [end for one in measured for end in (one["speedup"]["low"], one["speedup"]["high"]) if end]
    low, high = max(low / BEYOND, min([low, *ends])), min(high * BEYOND, max([high, *ends]))
    panel = Panel()
    up = svg.logarithmic(low, high, *panel.down)
    marks = [
        svg.rows_of(panel, up, svg.ratio_ticks(low, high), lambda value: f"{value:g}×"),
        svg.line(panel.across[0], up(1), panel.across[1], up(1), "one"),
    ]
    loads = [one["concurrency"] for one in summary["speed"]]
    places = _places(panel, len(loads))
    for number, (_, speed) in enumerate(arms):
        shift = 22 * (number - (len(arms) - 1) / 2)
        by_load = {one["concurrency"]: one for one in speed}
        for x, load in zip(places, loads):
            if load in by_load and by_load[load]["speedup"]:
                marks.append(_interval(x + shift, by_load[load], up, (low, high), f"arm{min(number, 3)}"))
    marks += [svg.text(x, panel.height - 18, str(load), kind="tick") for x, load in zip(places, loads)]
    marks.append(svg.text(sum(panel.across) / 2, panel.height - 4, "requests at a time", kind="axis"))
    means = "; ".join(
        f"{arm} at {one['concurrency']}: {one['speedup']['mean']:.2f} times plain"
        for arm, speed in arms
        for one in speed
        if one["speedup"]
    )
    return svg.picture(panel, f"Speedup by requests at a time. {means}.", marks)


def _interval(x: float, one: Document, up: svg.Scale, borders: tuple[float, float], kind: str) -> Markup:
    """Mean, interval and rounds of one load."""
    ratio, (low, high) = one["speedup"], borders
    marks = []
    if ratio["low"] is not None:
        marks.append(svg.line(x, up(ratio["low"]), x, up(ratio["high"]), f"whisker {kind}"))
        for end, inside, is_up in (
            (ratio["low"], ratio["low"] >= low, False),
            (ratio["high"], ratio["high"] <= high, True),
        ):
            cap = svg.line(x - 5, up(end), x + 5, up(end), f"whisker {kind}")
            marks.append(cap if inside else svg.arrow(x, up(end), is_up, f"whisker {kind}"))
    marks += [
        svg.dot(x + 9, up(row["speedup"]), 2, f"round {kind}") for row in one["rounds"] if row["speedup"]
    ]
    marks.append(svg.dot(x, up(ratio["mean"]), 5, f"mean {kind}"))
    marks.append(svg.text(x - 9, up(ratio["mean"]) + 4, f"{ratio['mean']:.2f}", anchor="end", kind="value"))
    return svg.join(marks)


def _places(panel: Panel, count: int) -> list[float]:
    """The middles of ``count`` equal parts of a panel's width."""
    start, end = panel.across
    return [start + (end - start) * (place + 0.5) / count for place in range(count)]


def acceptance(document: Document) -> Drawing:
    """Acceptance by position: bars for what was served and what was predicted."""
    found = document["summary"]["acceptance"]
    series = [
        (kind, name, found[name]["per_position"])
        for kind, name in (("arm0", "served"), ("arm1", "predicted"))
        if found[name] and found[name]["per_position"]
    ]
    if not series:
        return None
    positions = max(len(rates) for _, _, rates in series)
    panel = Panel()
    top = max([0.1, *(rate for _, _, rates in series for rate in rates)])
    up = svg.linear(0, top * 1.1, *panel.down)
    marks = [svg.rows_of(panel, up, svg.ticks(0, top * 1.1), lambda value: f"{100 * value:g}%")]
    wide = min(30.0, 0.7 * (panel.across[1] - panel.across[0]) / positions / len(series))
    for number, (kind, _, rates) in enumerate(series):
        for x, rate in zip(_places(panel, positions), rates):
            left = x + wide * (number - len(series) / 2)
            marks.append(svg.box(left + 1, up(rate), wide - 2, up(0) - up(rate), f"bar {kind}"))
            if positions <= 5:
                marks.append(svg.text(left + wide / 2, up(rate) - 4, f"{100 * rate:.0f}", kind="value"))
    marks += [
        svg.text(x, panel.height - 18, str(number), kind="tick")
        for number, x in enumerate(_places(panel, positions), 1)
    ]
    marks.append(svg.text(sum(panel.across) / 2, panel.height - 4, "position in the draft", kind="axis"))
    words = "; ".join(
        f"{name}: {', '.join(f'{100 * rate:.1f}%' for rate in rates)}" for _, name, rates in series
    )
    return svg.picture(panel, f"Acceptance by position. {words}.", marks)


def loss(document: Document) -> Drawing:
    """The training loss over optimiser steps."""
    points = [(one["step"], one["loss"]) for one in (document["training"] or {}).get("loss", [])]
    if len(points) < 2:
        return None
    panel = Panel()
    last, top = points[-1][0], max(loss for _, loss in points)
    label = f"Training loss from {points[0][1]:.2f} to {points[-1][1]:.2f} in {last:.0f} steps."
    return _curves(panel, [(points, "loss", "")], (points[0][0], last), (0.0, top), "optimiser step", label)


def accuracy(document: Document) -> Drawing:
    """Accuracy on held-out answers by validation: how often the first k tokens are all right."""
    curve = [one for one in (document["training"] or {}).get("curve", []) if one.get("accuracy")]
    if len(curve) < 2:
        return None
    positions = len(curve[0]["accuracy"])
    lines = [
        [(one["epoch"], one["accuracy"][place]) for one in curve if one["accuracy"][place] is not None]
        for place in range(positions)
    ]
    named = [(points, f"line{min(place, 3)}", str(place + 1)) for place, points in enumerate(lines) if points]
    if not named:
        return None
    top = max(value for points, _, _ in named for _, value in points)
    label = "Accuracy on validation by epoch. " + "; ".join(
        f"position {name}: {100 * points[0][1]:.1f}% to {100 * points[-1][1]:.1f}%"
        for points, _, name in named
    )
    across = (curve[0]["epoch"], curve[-1]["epoch"])
    return _curves(Panel(right=22), named, across, (0.0, top), "epoch", f"{label}.", percent=True)


def _curves(
    panel: Panel,
    lines: Sequence[tuple[list[tuple[float, float]], str, str]],
    across: tuple[float, float],
    upwards: tuple[float, float],
    axis: str,
    label: str,
    *,
    percent: bool = False,
) -> Markup:
    """Lines of points, each with its kind and its name at the end."""
    right = svg.linear(*across, *panel.across)
    up = svg.linear(upwards[0], (upwards[1] or 1.0) * 1.05, *panel.down)

    def spelled(value: float) -> str:
        return f"{100 * value:g}%" if percent else f"{value:g}"

    marks = [svg.rows_of(panel, up, svg.ticks(upwards[0], (upwards[1] or 1.0) * 1.05), spelled)]
    marks += [
        svg.text(right(value), panel.height - 18, f"{value:,.6g}", kind="tick")
        for value in svg.ticks(*across)
    ]
    for points, kind, name in lines:
        marks.append(svg.path([(right(x), up(y)) for x, y in points], f"curve {kind}"))
        if name:
            x, y = points[-1]
            marks.append(svg.text(right(x) + 8, up(y) + 4, name, anchor="start", kind="value"))
    marks.append(svg.text(sum(panel.across) / 2, panel.height - 4, axis, kind="axis"))
    return svg.picture(panel, label, marks)


def stage_seconds(document: Document) -> Drawing:
    """Time by stage; what was reused says what it had cost."""
    rows = [(one["name"], one["seconds"], one["action"]) for one in document["stages"] if one["seconds"]]
    spelled = [(name, value, duration(value), action == "reused") for name, value, action in rows]
    return _bars(spelled, "Time by stage")


def stage_bytes(document: Document) -> Drawing:
    """Disk by stage."""
    rows = [(one["name"], one["bytes"], one["action"]) for one in document["stages"] if one["bytes"]]
    return _bars(
        [(name, value, size(value), action == "reused") for name, value, action in rows], "Disk by stage"
    )


def _bars(rows: Sequence[tuple[str, float, str, bool]], title: str) -> Drawing:
    """Horizontal bars: name, value, the value in words, and whether it was made by an earlier run."""
    if not rows:
        return None
    step, names, values = 26, 104, 84
    panel = Panel(height=step * len(rows) + 8)
    long = svg.linear(0, max(value for _, value, _, _ in rows), 0, panel.width - names - values)
    marks = []
    for number, (name, value, words, reused) in enumerate(rows):
        y = step * number + 6
        marks.append(svg.text(names - 8, y + 14, name.replace("_", " "), anchor="end", kind="tick"))
        marks.append(svg.box(names, y + 3, max(1.5, long(value)), 15, "bar faint" if reused else "bar arm0"))
        marks.append(svg.text(names + long(value) + 6, y + 14, words, anchor="start", kind="value"))
    spoken = "; ".join(f"{name.replace('_', ' ')} {words}" for name, _, words, _ in rows)
    return svg.picture(panel, f"{title}: {spoken}.", marks)
