"""What a model card says once the checkpoint was measured: appended to the card that the package stage wrote.

Only what stands in the report, with its intervals, and the command that repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.report.markdown import interval, number

Document = Mapping[str, Any]


def served_sections(report: Document, recipe: str, address: str) -> str:
    """The sections on what was measured and how to repeat it.

    ``recipe``: its resolved text.  ``address``: where the bundle of the run will lie.
    """
    return "\n".join((measured(report), repeated(recipe, address)))


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


def repeated(recipe: str, address: str) -> str:
    """The command that repeats the run, and the recipe."""
    return (
        "## Repeating\n\n"
        "```bash\n"
        f"speculators verify {address}\n"
        f"speculators run {address}\n"
        "```\n\n"
        f"<details><summary>Recipe</summary>\n\n```yaml\n{recipe.rstrip()}\n```\n\n</details>\n"
    )
