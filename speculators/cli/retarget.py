"""``speculators retarget``: a finished draft for the quantised twin of its verifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from speculators.convert.retarget import Retargeted

REPORT_SCHEMA = "speculators/retarget/v1"


def retarget(
    draft: Annotated[str, typer.Argument(metavar="DIR", help="Folder or hub repository of a draft.")],
    verifier: Annotated[
        str, typer.Option("--verifier", metavar="MODEL", help="Its new verifier: a folder or repository.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="NEW", help="New folder; by default DIR-for-MODEL, beside DIR or here."),
    ] = None,
    trained_for: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The verifier that it was trained for, if not the one it names."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Give a draft another verifier: a quantised copy of its own, or a fine-tune with the same tokens.

    Compares vocabulary, tokenizer, widths, depth, RoPE, embedding and head rows, and
    refuses what does not agree. DIR stays as it is: weights are copied to the byte into
    a new folder, whose config names the new verifier and remembers the old. How
    much acceptance the change costs is for a benchmark to say.

    \b
    Examples:
      speculators retarget runs/latest/model --verifier RedHatAI/Qwen3-8B-FP8-dynamic --to model-fp8
      speculators retarget owner/draft --verifier ./my-fine-tune --trained-for Qwen/Qwen3-8B
    """
    from speculators.checkpoint.location import local_folder
    from speculators.convert.retarget import retarget as run

    folder = local_folder(draft)
    target = to if to is not None else default_target(draft, verifier)
    done = run(folder, verifier, target, trained_for)
    if as_json:
        typer.echo(json.dumps(_document(done, target), indent=2, ensure_ascii=False))
    else:
        typer.echo(_text(done, target))
    return 0


def default_target(draft: str, verifier: str) -> Path:
    """Beside a folder; in the current one for a draft of the hub, whose cache is not ours."""
    model = verifier.partition("@")[0].rstrip("/").rpartition("/")[2]
    path = Path(draft)
    if path.is_dir():
        return path.resolve().with_name(f"{path.resolve().name}-for-{model}")
    return Path(f"{draft.partition('@')[0].rpartition('/')[2]}-for-{model}")


def _text(done: Retargeted, target: Path) -> str:
    lines = [
        f"{'ok  ' if check.ok else 'note'}  {check.name}: {check.detail}"
        for check in sorted(done.checks, key=lambda check: check.ok)
    ]
    before, after = (block.get("name_or_path") for block in (done.before, done.verifier))
    return "\n".join([*lines, f"verifier: {before} -> {after}", f"written: {target}"])


def _document(done: Retargeted, target: Path) -> dict[str, Any]:
    return {
        "schema": REPORT_SCHEMA,
        "target": str(target),
        "before": done.before,
        "verifier": done.verifier,
        "checks": [check._asdict() for check in done.checks],
    }
