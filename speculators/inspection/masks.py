"""What a run's draft was taught: which tokens of its answers counted, and whether such are served.

A mask that covers nothing, or an answer with thinking where none was asked for, trains without a word and
gives a draft that guesses other texts than the verifier writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from speculators.checkpoint.check import Check
from speculators.documents import read_json, read_jsonl
from speculators.inspection.findings import Finding, finding

STAGES = Path("stages")
THINK = ("<think>", "</think>")
#: Shares of answers from which on they are worth a word.
FEW, MANY = 0.01, 0.5
#: Share of all tokens below which hardly anything is learnt from.
THIN = 0.05


def taught(run: Path) -> list[Finding]:
    """What is wrong with the answers that ``run`` trained on; nothing where it trained no draft."""
    asked, captured = run / STAGES / "responses" / "input.json", run / STAGES / "hidden_states" / "input.json"
    if not (asked.is_file() and captured.is_file()):
        return []
    shards = sorted(Path(read_json(captured)["inputs"]["responses"]).glob("shard-*.jsonl"))
    if not shards:  # the store was emptied since
        return []
    thinking = read_json(asked)["values"]["verifier"].get("thinking", "off")
    rows = (row for shard in shards for row in read_jsonl(shard))
    failed = [check for check in mask_checks(rows, thinking) if not check.ok]
    return [finding(check.name, check.detail, severity=check.severity) for check in failed]


def mask_checks(rows: Iterable[Mapping[str, Any]], thinking: str) -> Iterator[Check]:
    """The checks of rows of ``prompt_token_ids``, ``output_token_ids``, ``text``, ``finish_reason``.

    What is taught of a row is its output.  ``thinking``: ``on``, ``off`` or ``both``, as the recipe asked.
    """
    every, empty, cut, thought, prompts, outputs = 0, 0, 0, 0, 0, 0
    for row in rows:
        every += 1
        empty += not row["output_token_ids"]
        cut += row.get("finish_reason") == "length"
        thought += _thinks(row["text"])
        prompts += len(row["prompt_token_ids"])
        outputs += len(row["output_token_ids"])
    severity = "error" if empty == every else "warning"
    yield Check("every answer teaches", not empty, f"{empty} of {every} answers have no token", severity)
    share = outputs / max(prompts + outputs, 1)
    said = f"{outputs} of {prompts + outputs} tokens are answers ({share:.0%})"
    yield Check("enough is taught", share >= THIN, said)
    ended = cut <= MANY * every
    yield Check("answers end", ended, f"{cut} of {every} answers were cut at the longest allowed", "warning")
    if thinking == "off":
        yield Check(
            "thinking as asked", thought <= FEW * every, f"off, but {thought} of {every} answers think"
        )
    elif thinking == "on":
        yield Check("thinking as asked", thought > 0 or not every, f"on, but none of {every} answers thinks")


def _thinks(text: str) -> bool:
    """Whether an answer thinks; an empty block, which some templates put there for no thinking, is none."""
    before, ended, _ = text.partition(THINK[1])
    return bool(before.replace(THINK[0], "").strip()) if ended else THINK[0] in text
