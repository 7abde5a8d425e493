"""Run one stage from its input document: ``python -m speculators.stages input.json``.

This is the inside of every executor: the same command runs here, in a container, or by hand.  An
expected failure is left as ``error.json`` beside the output, so that the outside can tell a wrong
recipe from a machine that lacks something.

A stage module that sets ``CONTINUES = True`` finds in its output folder what an interrupted attempt
with the same key left there, and must itself check whatever it keeps of that; every other stage
finds an empty folder.
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from speculators.documents import write_json
from speculators.errors import (
    EXIT_INTERRUPTED,
    MACHINE_ERRNOS,
    SPACE_HINT,
    MachineError,
    SpeculatorsError,
)
from speculators.stages.documents import ERROR_NAME, OUTPUT_NAME, StageInput, read_input, write_output

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(path: str) -> int:
    step = read_input(Path(path))
    try:
        _run(step)
    except SpeculatorsError as error:
        return _failed(step, error)
    except KeyboardInterrupt:  # no error: there is nothing to say about the recipe or the machine
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if not (cause := _storage_cause(error)):
            raise
        place = getattr(error, "filename", None) or step.output
        return _failed(step, MachineError(f"{place}: {cause}", hint=SPACE_HINT, rule="storage"))
    return 0


def _run(step: StageInput) -> None:
    started = time.monotonic()
    stage = importlib.import_module(f"speculators.stages.{step.stage}")
    _prepare(step.output, continues=getattr(stage, "CONTINUES", False))
    result = stage.run(step)
    if result is None:  # of a stage that torchrun runs in several processes, one seals the output
        return
    write_output(step, result, time.monotonic() - started)
    # Only now: a kill before the seal must find the work again.
    shutil.rmtree(step.work, ignore_errors=True)


def _failed(step: StageInput, error: SpeculatorsError) -> int:
    """Leave the cause for the outside; where nothing can be written, the log has to do."""
    print(error.told(), file=sys.stderr)
    with suppress(OSError):
        write_json(step.output / ERROR_NAME, error.document())
    return error.exit_code


def _storage_cause(error: Exception) -> str:
    """What the machine's storage said no to; libraries that are not Python say it in words only."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in MACHINE_ERRNOS else ""
    return next((words for words in map(os.strerror, FULL) if words in str(error)), "")


def _prepare(output: Path, *, continues: bool) -> None:
    """What an earlier attempt left must not be taken for this one's."""
    if not continues:
        shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    for name in (OUTPUT_NAME, ERROR_NAME):
        (output / name).unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m speculators.stages INPUT.json")
    sys.exit(main(sys.argv[1]))
