"""Run one stage from its input document: ``python -m speculators.stages input.json``.

This is the inside of every executor: the same command runs here, in a container, or by hand.  An
expected failure is left as ``error.json`` beside the output, so that the outside can tell a wrong
recipe from a machine that lacks something.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from pathlib import Path

from speculators.documents import write_json
from speculators.errors import SpeculatorsError
from speculators.stages.documents import ERROR_NAME, read_input, write_output


def main(path: str) -> int:
    step = read_input(Path(path))
    # What an earlier attempt left must not be taken for this one's.
    shutil.rmtree(step.output, ignore_errors=True)
    step.output.mkdir(parents=True)
    started = time.monotonic()
    try:
        result = importlib.import_module(f"speculators.stages.{step.stage}").run(step)
    except SpeculatorsError as error:
        write_json(
            step.output / ERROR_NAME, {"rule": error.rule, "message": error.message, "hint": error.hint}
        )
        print(f"error: {error.message} [{error.rule}]", file=sys.stderr)
        return error.exit_code
    write_output(step, result, time.monotonic() - started)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m speculators.stages INPUT.json")
    sys.exit(main(sys.argv[1]))
