"""``speculators cache``: what finished stages keep on disk, and how to get room again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from speculators.pipeline.eviction import Policy, Verdict
    from speculators.pipeline.inventory import Entry, Inventory

SCHEMA = "speculators/cache/v1"

RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir", metavar="PATH", file_okay=False, help="Run folders, whose records say what they use."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def cache() -> typer.Typer:
    """The verbs of the cache."""
    group = typer.Typer(
        help="See what finished stages keep on disk, and make room.",
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command("list")(list_)
    group.command("gc")(gc)
    return group


def list_(runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> int:
    """List the stored outputs of stages.

    Of each: its size, what it took to make, its last use, and the runs that name it.

    \b
    Examples:
      speculators cache list
      speculators cache list --runs-dir /data/runs --json
    """
    import time

    inventory = inventory_of(runs_dir)
    if as_json:
        show(document(inventory, [entry_document(entry) for entry in inventory.entries]))
    else:
        now = time.time()
        rows = [[*columns(entry, now), users(entry)] for entry in inventory.entries]
        typer.echo("\n".join([*aligned(rows), total(inventory)]))
    return 0


def gc(
    older_than: Annotated[
        str,
        typer.Option("--older-than", metavar="AGE", help="Remove what was last used before: 12h, 30d, 2w."),
    ] = "",
    max_size: Annotated[
        str,
        typer.Option("--max-size", metavar="SIZE", help="Remove the longest unused beyond this size: 100G."),
    ] = "",
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=0, help="Keep the latest used N of each stage, whatever their age."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> int:
    """Remove stored outputs that nobody needs.

    The longest unused go first; what a run uses stays. A removed output is made again when a
    run needs it. Unfinished work is kept: 'speculators doctor --clean' removes that.

    \b
    Examples:
      speculators cache gc --older-than 30d --dry-run
      speculators cache gc --max-size 100G --keep-last 1
    """
    policy = policy_of(older_than, max_size, keep_last)
    import time

    from speculators.pipeline.eviction import collect, judge
    from speculators.quantities import size

    now = time.time()
    inventory = inventory_of(runs_dir)
    verdicts = judge(inventory, policy, now)
    if not dry_run:
        verdicts = collect(inventory, verdicts)
    freed = sum(verdict.entry.bytes for verdict in verdicts if verdict.remove)
    word = ("would free" if dry_run else "freed", "would go" if dry_run else "removed")
    if as_json:
        entries = [verdict_document(verdict) for verdict in verdicts]
        show({**document(inventory, entries), "dry_run": dry_run, "freed": freed})
    else:
        rows = [
            [word[1] if verdict.remove else "kept", *columns(verdict.entry, now), verdict.reason]
            for verdict in verdicts
        ]
        typer.echo("\n".join([*aligned(rows), f"{word[0]} {size(freed)} of {size(inventory.bytes)}"]))
    return 0


def inventory_of(runs_dir: Path) -> Inventory:
    """What the user's own store holds, and those of the repeats of bundles below ``runs_dir``."""
    from speculators.bundle.homes import homes_below
    from speculators.pipeline.inventory import take_inventory
    from speculators.pipeline.store import default_home

    return take_inventory([default_home(), *homes_below(runs_dir)], runs_dir)


def policy_of(older_than: str, max_size: str, keep_last: int | None) -> Policy:
    """The options of ``gc``; at least one of them must say what may go."""
    from speculators.errors import RecipeError
    from speculators.pipeline.eviction import Policy
    from speculators.quantities import parse_duration, parse_size

    age, most = parse_duration(older_than), parse_size(max_size)
    if older_than and age is None:
        raise RecipeError(f"--older-than {older_than}: no age", hint="as 90m, 12h, 30d or 2w", rule="usage")
    if max_size and most is None:
        raise RecipeError(f"--max-size {max_size}: no size", hint="as 500M, 100G or 1.5T", rule="usage")
    if age is None and most is None and keep_last is None:
        hint = "name --older-than, --max-size or --keep-last; --dry-run shows what would go"
        raise RecipeError("cache gc: nothing says what may go", hint=hint, rule="usage")
    return Policy(age, most, keep_last)


def columns(entry: Entry, now: float) -> list[str]:
    from speculators.quantities import age, duration, size

    took = "damaged" if entry.seconds is None else f"took {duration(entry.seconds)}"
    return [entry.stage, entry.key[:12], size(entry.bytes), took, f"used {age(now - entry.used)}"]


def users(entry: Entry) -> str:
    """Who needs the output, as far as is known."""
    from speculators.bundle.homes import repeated_run

    told = ["in use now"] if entry.in_use else []
    if run := repeated_run(entry.home):
        told.append(f"made for a repeat of {run}")
    if entry.uses:
        recipes = ", ".join(dict.fromkeys(use.recipe for use in entry.uses))
        count = len(entry.uses)
        told.append(f"{plural(count, 'run')} of {recipes}, the latest {entry.uses[0].run}")
    return "; ".join(told) or "no run here names it"


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines with columns of one width."""
    widths = [max(len(word) for word in column) for column in zip(*rows)]
    return ["  ".join(f"{word:<{width}}" for word, width in zip(row, widths)).rstrip() for row in rows]


def total(inventory: Inventory) -> str:
    from speculators.pipeline.store import Store
    from speculators.quantities import size

    unfinished = f", {size(inventory.unfinished)} of it unfinished work" if inventory.unfinished else ""
    own, *repeats = inventory.homes
    place = f"{Store(own).root}" + (f" and {plural(len(repeats), 'repeat')}" if repeats else "")
    return f"{plural(len(inventory.entries), 'output')}, {size(inventory.bytes)}{unfinished} in {place}"


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def document(inventory: Inventory, entries: list[dict[str, Any]]) -> dict[str, Any]:
    from speculators.pipeline.store import Store

    sizes = {"bytes": inventory.bytes, "unfinished_bytes": inventory.unfinished}
    stores = [str(Store(home).root) for home in inventory.homes]
    return {"schema": SCHEMA, "store": stores[0], "repeats": stores[1:], **sizes, "outputs": entries}


def entry_document(entry: Entry) -> dict[str, Any]:
    plain = {name: value for name, value in entry._asdict().items() if name not in ("path", "home", "uses")}
    return {**plain, "home": str(entry.home), "runs": [use._asdict() for use in entry.uses]}


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    return {**entry_document(verdict.entry), "remove": verdict.remove, "reason": verdict.reason}


def show(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
