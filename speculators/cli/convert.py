"""``speculators convert``: another trainer's draft becomes one that vLLM serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from speculators.convert.run import Conversion

REPORT_SCHEMA = "speculators/convert/v1"
STITCH_SCHEMA = "speculators/stitch/v1"
FLAGS = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")


def convert(
    source: Annotated[str, typer.Argument(help="Folder or hub repository of the draft.")],
    to: Annotated[Path, typer.Option("--to", help="New folder for the converted draft.")],
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="Folder or hub repository of its verifier.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--from", metavar="KIND", help="Layout of SOURCE; detected if left out.")
    ] = None,
    aux_layers: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Layers whose states the draft reads, as decoder layers before."),
    ] = None,
    norms: Annotated[
        list[str] | None,
        typer.Option("--norm", metavar="FLAG=BOOL", help=f"Override a norm flag: {', '.join(FLAGS)}."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to draft at once.")] = None,
    stitch: Annotated[
        bool,
        typer.Option("--stitch", help="Put the mtp draft SOURCE back into --verifier, to be served."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Convert a draft of another trainer into the speculators format.

    Says by what the layout was told, what became of every field and tensor, and
    how far the converted draft's numbers are from the source's. What could be read
    two ways stops it; nothing is left half-written.

    \b
    Examples:
      speculators convert yuhuili/EAGLE3-LLaMA3.1-Instruct-8B --to draft --verifier models/llama-3.1-8b
      speculators convert z-lab/Qwen3-8B-DFlash --to draft --verifier Qwen/Qwen3-8B --from dflash
    """
    if stitch:
        given = {"--from": kind, "--aux-layers": aux_layers, "--norm": norms, "--tokens": tokens}
        for option in (name for name, value in given.items() if value):
            raise typer.BadParameter(f"{option} is of converting: --stitch copies the head as it is")
        return _stitch(source, verifier, to, as_json=as_json)
    from speculators.convert.run import Request
    from speculators.convert.run import convert as run

    request = Request(source, verifier, kind, _numbers(aux_layers), _flags(norms or []), tokens)
    done = run(request, to)
    typer.echo(json.dumps(_document(done), indent=2, ensure_ascii=False) if as_json else _text(done, to))
    return 0


def _stitch(source: str, verifier: str | None, target: Path, *, as_json: bool) -> int:
    from speculators.checkpoint.location import local_folder
    from speculators.convert.mtp import stitch

    if verifier is None:
        raise typer.BadParameter("--stitch needs --verifier: the model that the head is put into")
    names = stitch(local_folder(source), local_folder(verifier), target)
    if as_json:
        document = {"schema": STITCH_SCHEMA, "target": str(target), "tensors": names}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{len(names)} tensors of the head put in, as mtp.*\nwritten: {target}")
    return 0


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--aux-layers {text}: not numbers with commas between") from None


def _flags(given: list[str]) -> dict[str, bool]:
    flags = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in FLAGS or value not in ("true", "false"):
            raise typer.BadParameter(f"--norm {text}: not FLAG=true or FLAG=false with {', '.join(FLAGS)}")
        flags[name] = value == "true"
    return flags


def _text(done: Conversion, target: Path) -> str:
    lines = [f"{done.label} ({done.kind}): {done.by}"]
    for title, fates in (("config", done.plan.fields), ("tensors", done.plan.tensors)):
        lines.append(f"{title}:")
        lines += [
            f"  {fate.fate:8} {fate.name}"
            + (f" -> {fate.target}" if fate.target else "")
            + (f"  ({fate.why})" if fate.why else "")
            for fate in sorted(fates, key=lambda fate: (fate.fate, fate.name))
        ]
    if done.checks:
        lines.append(f"checks: {len(done.checks)}, none failed")
    lines.append(_proof_text(done))
    return "\n".join([*lines, f"written: {target}"])


def _proof_text(done: Conversion) -> str:
    proof = done.proof
    if proof is None:
        return "proof: none; this kind has no plain forward here, its tensors were copied"
    return (
        f"proof: {proof.compared}: largest difference {proof.largest:.1e}, {proof.tokens:.0%} of tokens agree"
    )


def _document(done: Conversion) -> dict[str, Any]:
    return {
        "schema": REPORT_SCHEMA,
        "kind": done.kind,
        "by": done.by,
        "fields": [fate._asdict() for fate in done.plan.fields],
        "tensors": [fate._asdict() for fate in done.plan.tensors],
        "checks": [check._asdict() for check in done.checks],
        "proof": done.proof._asdict() if done.proof else None,
    }
