"""Run one stage through an executor, from the outside: its command, its documents, its failure.

The build stages and every launch of the benchmark are started and judged here, so that a failed
stage reads the same wherever it failed.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from speculators.documents import read_json, write_json, write_text
from speculators.errors import MachineError, RecipeError, SpeculatorsError, StageError
from speculators.executors.base import Endpoint, Executor, OnLine, Step, StepResult, log_tail
from speculators.stages.documents import ERROR_NAME, StageInput

INPUT_NAME = "input.json"
LOG_NAME = "log.txt"
COMMAND_NAME = "command.txt"

KILLED = (
    "it was killed (exit code 137)",
    "most often the machine's memory ran out: lower engine.args.kv_cache_memory_bytes, "
    "engine.args.max_num_seqs or training.sequence_length",
)
#: exit code of the stage's process -> what is raised outside
ERROR_CLASSES: dict[int, type[SpeculatorsError]] = {2: RecipeError, 3: StageError, 4: MachineError}


def execute(
    executor: Executor,
    step: StageInput,
    folder: Path,
    environment: Mapping[str, str],
    *,
    label: str = "",
    on_line: OnLine | None = None,
    beside: Endpoint | None = None,
    holds: Sequence[int] = (),
) -> StepResult:
    """Run ``step``, keeping its input document, command and log in ``folder``.

    ``holds`` goes to the step as it is.  ``beside`` is the server that the stage is a client of; when the
    stage blames that server, the server's log is shown instead of its own.

    Raises:
        SpeculatorsError: of the class that the exit code stands for, with the log's last lines.
    """
    (step.output / ERROR_NAME).unlink(missing_ok=True)  # an earlier attempt's cause is not this one's
    document = folder / INPUT_NAME
    write_json(document, step.document())
    argv = [sys.executable, "-m", "speculators.stages", str(document)]
    write_text(folder / COMMAND_NAME, command_text(environment, argv))
    name = label or f"stage '{step.stage}'"
    log = folder / LOG_NAME
    result = executor.run(Step(name, argv, environment, log, holds), on_line=on_line, beside=beside)
    if result.exit_code != 0:
        raise _failure(name, step.output / ERROR_NAME, result.exit_code, log, beside)
    return result


def command_text(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """A command as one line for a shell."""
    variables = [f"{name}={value}" for name, value in sorted(environment.items())]
    return shlex.join([*(["env", *variables] if variables else []), *argv]) + "\n"


def _failure(name: str, known: Path, exit_code: int, log: Path, beside: Endpoint | None) -> SpeculatorsError:
    if known.is_file():
        error = read_json(known)
        message, hint, rule = error["message"], error["hint"], error["rule"]
    else:
        message, hint = KILLED if exit_code == 128 + signal.SIGKILL else (f"exit code {exit_code}", "")
        rule = "stage-failed"
    if beside is not None and rule.startswith(("server", "speculation")):
        log = beside.log
    tail = "".join(f"\n  | {line}" for line in log_tail(log).splitlines())
    text = f"{name} failed: {message}\n  last lines of {log}:{tail}"
    return ERROR_CLASSES.get(exit_code, StageError)(text, hint=hint, rule=rule)
