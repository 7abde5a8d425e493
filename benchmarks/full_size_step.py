#!/usr/bin/env python3
"""Full-size training steps on paper, of this trainer and of the reference: operations and memory, no GPU.

    python benchmarks/full_size_step.py                        # every setting; minutes
    python benchmarks/full_size_step.py --verifiers qwen3-8b
    python benchmarks/full_size_step.py --golden               # both, into the committed files

Both run under torch's FakeTensorMode, where tensors have shapes and no data, and are counted by the same
code.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from benchmarks.shapes import SHAPES  # noqa: E402
from benchmarks.step_table import aligned  # noqa: E402
from benchmarks.step_workload import documents  # noqa: E402
from tests.reference.environment import Side, UnavailableError, reference_side  # noqa: E402
from tests.reference.on_paper import full_size  # noqa: E402

TOKENS, STEPS, SEED = 8192, 3, 0
VERIFIERS = ("qwen3-8b", "llama-3.3-70b")
REDUCED = 32000
SUPERVISED = (1.0, 0.6, 0.3, 0.1)

#: This trainer's and the reference's figures of every setting, as committed.
GOLDEN = ROOT / "tests" / "reference" / "full_size.json"
GOLDEN_REFERENCE = GOLDEN.with_name("full_size_reference.json")

Figures = dict[str, Any]


def ours(verifier: str, vocabulary: int, supervised: float) -> Figures:
    """This trainer's figures."""
    shape = replace(SHAPES[verifier], draft_vocab_size=vocabulary)
    return full_size(shape, documents(TOKENS, supervised, SEED), STEPS)


def theirs(side: Side, verifier: str, vocabulary: int) -> Figures:
    """The reference's figures, whatever is supervised."""
    shape = asdict(replace(SHAPES[verifier], draft_vocab_size=vocabulary))
    return side.ask("full_size", shape=shape, tokens=TOKENS, steps=STEPS)


def rows(side: Side, verifiers: list[str]) -> Iterator[Figures]:
    """Every setting's figures."""
    for verifier in verifiers:
        for vocabulary in (REDUCED, SHAPES[verifier].vocab_size):
            setting = {"verifier": verifier, "draft_vocabulary": vocabulary}
            figures = theirs(side, verifier, vocabulary)
            yield {**setting, "side": "reference", "supervised": None, **figures}
            for supervised in SUPERVISED:
                figures = ours(verifier, vocabulary, supervised)
                yield {**setting, "side": "ours", "supervised": supervised, **figures}


def keep(found: Iterable[Figures]) -> None:
    """Commit the figures of every setting, each side's in its file."""
    lines: dict[Path, list[str]] = {GOLDEN: [], GOLDEN_REFERENCE: []}
    for row in found:
        path = GOLDEN if row.pop("side") == "ours" else GOLDEN_REFERENCE
        lines[path].append(json.dumps({name: value for name, value in row.items() if value is not None}))
    for path, own in lines.items():
        path.write_text("[\n" + ",\n".join(own) + "\n]\n", encoding="utf-8")


def table(found: list[Figures]) -> str:
    """The rows for reading."""
    lines = [["verifier", "vocabulary", "", "supervised", "GFLOP/token", "GB held", "GB peak"]]
    for row in found:
        line = [row["verifier"], str(row["draft_vocabulary"]), row["side"]]
        line += ["any" if row["supervised"] is None else f"{row['supervised']:g}"]
        line += [f"{row['weight_operations'] / TOKENS / 1e9:.3f}"]
        line += [f"{row[kind] / 1e9:.2f}" for kind in ("resting", "peak")]
        lines.append(line)
    return aligned(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verifiers", nargs="+", choices=VERIFIERS, default=VERIFIERS)
    parser.add_argument(
        "--golden", action="store_true", help=f"write {GOLDEN.parent.relative_to(ROOT)}/full_size*.json"
    )
    options = parser.parse_args()
    if options.golden and list(options.verifiers) != list(VERIFIERS):
        parser.error("--golden writes every setting: leave --verifiers out")
    found = []
    with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
        try:
            with reference_side(Path(folder, "reference.txt")) as side:
                for row in rows(side, options.verifiers):
                    found.append(row)
                    print(row, file=sys.stderr, flush=True)
        except UnavailableError as error:
            sys.exit(f"the reference cannot be had here: {error}")
    print(f"packs of {TOKENS} tokens, K={STEPS}; operations in products with weights")
    print(table(found))
    if options.golden:
        keep(found)


if __name__ == "__main__":
    main()
