"""``speculators inspect``: what is wrong with this draft and how to mend it; what this model can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculators.errors import EXIT_DEFECT

if TYPE_CHECKING:
    from speculators.inspection.draft import Inspection
    from speculators.inspection.probing import Probed
    from speculators.inspection.verifier import VerifierReport

REPORT_SCHEMA = "speculators/inspect/v1"
VERIFIER_SCHEMA = "speculators/inspect-verifier/v1"
MARKS = {True: "ok     ", False: "missing", None: "unknown"}


def inspect(
    draft: Annotated[
        str,
        typer.Argument(metavar="DIR|MODEL", help="Folder or hub repository of a draft, or of a verifier."),
    ],
    verifier: Annotated[
        str | None,
        typer.Option("--verifier", help="Its verifier: then embedding, head and layers are compared."),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="NEW", help="Write a draft with the unambiguous mended to NEW."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Let it guess what its verifier says, and try what is one mistake away."
        ),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="With --probe: on this run's answers, against what it served."
        ),
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option(
            "--serve", metavar="COMMAND", help="The command that serves it: its flags are looked at too."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Look for what makes a draft load and serve without a word, and badly.

    Static checks of config, weights and vocabulary map; no GPU, nothing is run.
    Each finding says what it costs, how sure it is and how to mend it. Exit code
    6 when there is a defect; with --fix, of the mended draft.

    --probe runs draft and verifier in plain PyTorch on the CPU: layer ids off by
    one, flipped norm flags, other RoPE, another reading of the vocabulary map or
    another order of fc are tried, and the one that restores accuracy is named.
    With --run it also says which half is at fault: export and engine, or data
    and training, and looks at the answers that the run trained on.

    Of a model that is no draft it says what a draft for it needs: whether vLLM hands out
    its states, depth and default layers, its head, quantisation, and disk; exit code 6
    when something is missing.

    \b
    Examples:
      speculators inspect runs/latest/model --verifier models/llama-3.1-8b
      speculators inspect draft --fix mended --json
      speculators inspect draft --verifier models/llama-3.1-8b --probe
      speculators inspect runs/latest/model --probe --run runs/latest
      speculators inspect draft --serve "vllm serve models/llama-3.1-8b --spec-model draft"
      speculators inspect Qwen/Qwen3-8B
    """
    from speculators.inspection.verifier import is_model, looked_at

    folder = looked_at(draft)
    if is_model(folder):
        return _inspect_model(folder, draft, as_json=as_json, asked=any((verifier, fix, probe, run, serve)))
    return _inspect_draft(draft, verifier, fix, probe, run, serve, as_json=as_json)


def _inspect_draft(
    draft: str,
    verifier: str | None,
    fix: Path | None,
    probe: bool,
    run: Path | None,
    serve: str | None,
    *,
    as_json: bool,
) -> int:
    from speculators.checkpoint.location import local_folder
    from speculators.inspection.draft import inspect_draft
    from speculators.inspection.mending import mend
    from speculators.inspection.serve_command import read_command
    from speculators.inspection.verifier import draft_files

    folder = draft_files(draft)
    verifier_dir = None if verifier is None else local_folder(verifier)
    command = None if serve is None else read_command(serve)
    found, mended, probed = inspect_draft(folder, verifier_dir, command), None, None
    if probe or run is not None:
        found, probed = _probed(found, folder, verifier_dir, run)
    if fix is not None:
        mended = mend(folder, fix, verifier_dir)
        served = None if command is None else command.naming(fix, folder)
        if served != command:
            mended.append(f"serve it by the same command with {fix} in place of {draft}")
        after = inspect_draft(fix, verifier_dir, served)
    if as_json:
        typer.echo(
            json.dumps(_document(found, mended, after if fix else None, probed), indent=2, ensure_ascii=False)
        )
    else:
        typer.echo(_text(found, draft))
        if probed is not None:
            typer.echo(_probe_text(probed))
        if fix is not None:
            typer.echo("\n".join(f"mended: {note}" for note in mended or ["nothing"]))
            typer.echo(_text(after, str(fix)))
    return EXIT_DEFECT if (after if fix else found).defects else 0


def _probed(
    found: Inspection, folder: Path, verifier_dir: Path | None, run: Path | None
) -> tuple[Inspection, Probed]:
    """The findings with the probe's among them, and the probe."""
    from speculators.inspection.answers import answered, of_run, served_by
    from speculators.inspection.masks import taught
    from speculators.inspection.probe import finding
    from speculators.inspection.probing import named_verifier, probe_draft

    verifier = named_verifier(folder, verifier_dir)
    if run is None:
        probed = probe_draft(folder, verifier, answered(verifier))
    else:
        served = served_by(run)
        probed = probe_draft(folder, verifier, of_run(run, verifier), served.figures, served.tokens)
    one = finding(probed.result)
    more = ([] if one is None else [one]) + ([] if run is None else taught(run))
    return found._replace(findings=[*more, *found.findings], unseen=[]), probed


def _probe_text(probed: Probed) -> str:
    """What was tried on what, and what came of it."""
    document = probed.document()
    lines = [
        f"probe: {document['texts']} answers, {document['tokens']} tokens, {document['seconds']} s; "
        f"states by transformers in float32; {document['neighbours']} neighbours tried"
    ]
    if document["first"] is None:
        lines.append(f"       it cannot guess as it stands: {document['not_guessed']}")
    else:
        rates = ", ".join(f"{rate:.2f}" for rate in document["per_position"] or ())
        lines.append(
            f"       guesses {document['first']:.0%} of first tokens; acceptance length "
            f"{document['acceptance_length'] or 0:.2f} ({rates})"
        )
    if document["best"] is None:
        lines.append("       no neighbour guesses better")
    if probed.blame is not None:
        lines.append(f"blame: {probed.blame.half}: {probed.blame.said}")
    if document["served_as"]:
        lines.append(f"       served as if: {document['served_as']}")
    return "\n".join(lines)


def _inspect_model(folder: Path, name: str, *, as_json: bool, asked: bool) -> int:
    from speculators.inspection.verifier import inspect_verifier

    if asked:
        raise typer.BadParameter(
            f"{name} is no draft: --verifier, --fix, --probe, --run and --serve are for drafts"
        )
    found = inspect_verifier(folder)
    if as_json:
        typer.echo(json.dumps(_verifier_document(found), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(f"{MARKS[line.ok]}  {line.name}: {line.detail}" for line in found.lines))
    return EXIT_DEFECT if found.missing else 0


def _verifier_document(found: VerifierReport) -> dict[str, Any]:
    return {
        "schema": VERIFIER_SCHEMA,
        "missing": [line.name for line in found.missing],
        **found.facts,
        "lines": [line._asdict() for line in found.lines],
    }


def _text(found: Inspection, name: str) -> str:
    lines = []
    for one in found.findings:
        lines.append(f"{one.sure}: {one.what} [{one.trap} {one.name}]")
        lines += [f"      = why: {one.why}", f"      = help: {one.mend}"]
    count = len(found.defects)
    verdict = f"{count} defect{'s' if count != 1 else ''}" if count else "no defect"
    unseen = f"; without a record of its training only --probe sees {', '.join(found.unseen)}"
    summary = f"{name}: {verdict}, {len(found.passed)} checks passed"
    return "\n".join([*lines, summary + (unseen if found.unseen else "")])


def _document(
    found: Inspection, mended: list[str] | None, after: Inspection | None, probed: Probed | None
) -> dict[str, Any]:
    return {
        "schema": REPORT_SCHEMA,
        "defect": bool(found.defects),
        "findings": [one._asdict() for one in found.findings],
        "passed": found.passed,
        "unseen": found.unseen,
        "mended": mended,
        "probe": None if probed is None else probed.document(),
        "left": None if after is None else [one._asdict() for one in after.findings],
    }
