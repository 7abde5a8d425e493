"""What vLLM versions have of what this project relies on: ``python -m tests.contracts --vllm A --vllm B``.

    python -m tests.contracts                                  the installed engine against its snapshot
    python -m tests.contracts --vllm 0.31.0 --vllm newest      a row a question, and what differs
    python -m tests.contracts --vllm 0.31.0 --write            keep the answers as that version's snapshot
    python -m tests.contracts --kept --vllm 0.31.0 --vllm 0.33.0    the same from the kept snapshots

VERSION is a published one, 'newest' or 'installed'.  A published version's CUDA wheel is downloaded, its
Python files are kept in the cache and asked without a GPU (see engines.py and no_gpu.py).  Exit code 1:
something that this project relies on is missing.  4: a version cannot be had here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.contracts.answers import Answer
from tests.contracts.asking import AskingError, ask, read_snapshot, write_snapshot
from tests.contracts.engines import SNAPSHOTS, UnavailableError, find_engine, installed
from tests.contracts.questions import questions
from tests.contracts.report import anything_missing, report


def main() -> int:
    options = _parser().parse_args()
    try:
        asked = _kept(options.vllm) if options.kept else _asked(options.vllm, write=options.write)
    except (UnavailableError, AskingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    with tempfile.TemporaryDirectory() as scratch:
        rows = questions(Path(scratch))
    print(report(rows, asked))
    return 1 if anything_missing(asked) else 0


def _asked(versions: list[str], *, write: bool) -> dict[str, dict[str, Answer]]:
    found = {}
    if not versions and not write:
        engine = installed()
        if engine.snapshot.is_file():
            found[f"{engine.name} (snapshot)"] = read_snapshot(engine.snapshot)
    for version in versions or ["installed"]:
        engine = find_engine(version)
        print(f"asking {engine.name} ...", file=sys.stderr)
        found[engine.name] = ask(engine)
        if write:
            print(f"wrote {write_snapshot(engine, found[engine.name])}", file=sys.stderr)
    return found


def _kept(versions: list[str]) -> dict[str, dict[str, Answer]]:
    names = [f"vllm-{version}" for version in versions] or sorted(
        path.stem for path in SNAPSHOTS.glob("*.json")
    )
    for name in names:
        if not (SNAPSHOTS / f"{name}.json").is_file():
            raise UnavailableError(f"no snapshot of {name}: run with --write and without --kept first")
    return {name: read_snapshot(SNAPSHOTS / f"{name}.json") for name in names}


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m tests.contracts", description=__doc__, formatter_class=formatter
    )
    parser.add_argument(
        "--vllm", action="append", default=[], metavar="VERSION", help="ask this one (repeat)"
    )
    parser.add_argument("--write", action="store_true", help="keep the answers as snapshots")
    parser.add_argument("--kept", action="store_true", help="compare snapshots, ask nobody")
    return parser


if __name__ == "__main__":
    sys.exit(main())
