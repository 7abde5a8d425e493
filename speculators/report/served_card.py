"""What a model card says once the checkpoint was measured: appended to the card that the package stage wrote.

Only what stands in the report, with its intervals, and the command that repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from speculators.report.spelling import interval, number

Document = Mapping[str, Any]


#: Names under which recipe and lock lie beside a card.
RECIPE_NAME = "recipe.yaml"
LOCK_NAME = "recipe.lock.yaml"


def served_sections(report: Document, recipe: str, lock: str, address: str = "") -> str:
    """The sections on what was measured and how to repeat it.

    ``recipe``, ``lock``: their texts, the recipe's resolved; no lock is an empty one.  ``address``: where the
    bundle of the run will lie, if it is published.
    """
    return "\n".join((measured(report), repeated(recipe, lock, address)))


def measured(report: Document) -> str:
    """The verdict and the table beneath it."""
    summary = report["summary"]
    lengths = {
        one["concurrency"]: one.get("acceptance_length")
        for one in summary["acceptance"]["served_by_concurrency"]
    }
    loads = [(one["concurrency"], one["speedup"]) for one in summary["speed"]]
    rows = [
        f"| {concurrency} | {interval(speedup)} | {number(lengths.get(concurrency), 3)} |"
        for concurrency, speedup in loads
    ]
    environment = report["environment"]
    server, machine = environment["server"], f"{environment['processor']}, {environment['cores']} cores"
    lines = [
        "## Measured",
        "",
        f"**{report.get('headline') or report['verdict']}**",
        "",
        report["verdict"],
        "",
        "| requests at once | speedup over plain serving [95% interval] | acceptance length, served |",
        "|---|---|---|",
        *rows,
        "",
        f"Over {summary['rounds']} rounds of {summary['requests']} requests, greedy, on {machine}, with "
        f"{server['engine']} {server['version']}. Not checked: {'; '.join(report['not_checked'])}.",
        "",
    ]
    return "\n".join(lines)


def repeated(recipe: str, lock: str, address: str) -> str:
    """The command that repeats the run, the recipe and its lock."""
    if address:
        commands = f"speculators verify {address}\nspeculators run {address}"
    else:
        commands = f"speculators run {RECIPE_NAME}{' --locked' if lock else ''}"
    parts = [f"## Repeating\n\n{fenced(commands, 'bash')}", folded("Recipe", recipe)]
    if not address:
        parts[0] += f"\nwith the recipe below as `{RECIPE_NAME}`, where the files that it names are"
        parts[0] += f", and the lock as `{LOCK_NAME}`.\n" if lock else ".\n"
    if lock:
        parts.append(folded("Lock", lock))
    return "\n".join(parts)


def folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{fenced(text, 'yaml')}\n</details>\n"


def fenced(text: str, language: str) -> str:
    """A code block that ``text`` cannot end: its fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"
