"""Run one stage through an executor, from the outside: its command, its documents, its failure.

The build stages and every launch of the benchmark are started and judged here, so that a failed
stage reads the same wherever it failed.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from speculators.documents import read_json, write_json, write_text
from speculators.errors import BY_EXIT_CODE, SpeculatorsError, StageError
from speculators.executors.base import NOTHING, Endpoint, Executor, Needs, OnLine, Step, StepResult, log_tail
from speculators.executors.known_causes import cause_in, cause_in_log
from speculators.quantities import duration
from speculators.stages.documents import ERROR_NAME, StageInput

INPUT_NAME = "input.json"
LOG_NAME = "log.txt"
COMMAND_NAME = "command.txt"

KILLED = (
    "it was killed (exit code 137)",
    "most often the machine's memory ran out: lower engine.args.kv_cache_memory_bytes, "
    "engine.args.max_num_seqs or training.sequence_length",
)


def execute(
    executor: Executor,
    step: StageInput,
    folder: Path,
    environment: Mapping[str, str],
    *,
    label: str = "",
    on_line: OnLine | None = None,
    beside: Sequence[Endpoint] = (),
    holds: Sequence[int] = (),
    needs: Needs = NOTHING,
    seconds: float | None = None,
) -> StepResult:
    """Run ``step``, keeping its input document, command and log in ``folder``.

    ``holds`` goes to the step as it is; ``needs`` is completed by what the document names.  ``beside`` are
    the servers that the stage is a client of; when the stage blames a server, the servers' logs are shown
    instead of its own.  ``seconds``: how long it may take.

    Raises:
        SpeculatorsError: of the class that the exit code stands for, with the log's last lines.
    """
    (step.output / ERROR_NAME).unlink(missing_ok=True)  # an earlier attempt's cause is not this one's
    document = folder / INPUT_NAME
    write_json(document, step.document())
    step.output.mkdir(parents=True, exist_ok=True)
    argv = [executor.interior(needs.role).python, "-m", "speculators.stages", str(document)]
    named = [document, *step.inputs.values(), *(path for paths in step.files.values() for path in paths)]
    needs = replace(needs, reads=[*named, *needs.reads], writes=[step.output, *needs.writes])
    name = label or f"stage '{step.stage}'"
    started = Step(name, argv, environment, folder / LOG_NAME, holds, needs, seconds)
    write_text(folder / COMMAND_NAME, executor.command(started))
    result = executor.run(started, on_line=on_line, beside=beside)
    if result.exit_code != 0:
        raise _failure(name, step.output / ERROR_NAME, result, beside)
    return result


def _failure(name: str, known: Path, result: StepResult, beside: Sequence[Endpoint]) -> SpeculatorsError:
    exit_code, log = result.exit_code, result.log
    rule = "stage-failed"
    if result.cause.text:
        message, hint = result.cause
    elif known.is_file():
        error = read_json(known)
        message, hint, rule = error["message"], error["hint"], error["rule"]
        hint = cause_in(message).hint or hint or cause_in_log(log).hint
    elif exit_code == 128 + signal.SIGKILL:
        message, hint = KILLED
    else:
        cause = cause_in_log(log)
        message, hint = f"exit code {exit_code}" + (f", {cause.text}" if cause.text else ""), cause.hint
    blames = rule.startswith(("server", "speculation"))
    logs = [one.log for one in beside] if beside and blames else [log]
    tails = [(one, "".join(f"\n  | {line}" for line in log_tail(one).splitlines())) for one in logs]
    shown = "".join(f"\n  last lines of {one}:{tail}" for one, tail in tails)
    text = f"{name} failed after {duration(result.seconds)}: {message}{shown}"
    return BY_EXIT_CODE.get(exit_code, StageError)(text, hint=hint, rule=rule)
