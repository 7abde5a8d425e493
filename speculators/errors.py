"""Every failure a user can meet, and the exit code it ends in.

Our exception hierarchy:

* SpeculatorsError
  · RecipeError     2   the recipe, a lock or the command line is wrong
  · StageError      3   a stage failed
  · MachineError    4   this machine lacks something a stage needs

A message names the place and the cause; ``hint`` says the way out.  Whatever is not one of
these is our own bug (exit 70) and keeps its traceback.
"""

from __future__ import annotations

import errno

__all__ = [
    "BY_EXIT_CODE",
    "EXIT_BUG",
    "EXIT_DEFECT",
    "EXIT_INTERRUPTED",
    "EXIT_REGRESSION",
    "EXIT_UNDECIDED",
    "EXIT_UNREAD",
    "EXIT_WORK",
    "MACHINE_ERRNOS",
    "SPACE_HINT",
    "MachineError",
    "RecipeError",
    "SpeculatorsError",
    "StageError",
    "storage_error",
]

EXIT_REGRESSION = 1  # of a gate, or a repeated run that differs
EXIT_UNDECIDED = 5  # of a gate or a repeat under --strict
EXIT_DEFECT = 6  # of inspect
EXIT_WORK = 10  # of plan --detailed-exitcode
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141  # whoever read the output closed it: as a shell counts SIGPIPE

#: What the machine says no to, as opposed to a file that we should have written ourselves.
MACHINE_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
SPACE_HINT = "make room there, or name another place with --runs-dir or SPECULATORS_HOME"


class SpeculatorsError(Exception):
    """Base of all expected failures.

    ``rule`` is the short bracketed name that users grep for, such as ``server-failed``.
    """

    exit_code = 3
    rule = "failed"

    def __init__(self, message: str, *, hint: str = "", rule: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.rule = rule or type(self).rule

    def told(self) -> str:
        """``error: message [rule]``, as a terminal and a log show it.

        The rule stands behind the first line: what follows may quote a log, which ends in a rule too.
        """
        first, *quoted = self.message.split("\n")
        return "\n".join([f"error: {first} [{self.rule}]", *quoted])

    def document(self) -> dict[str, str]:
        """What another process, or a program, reads of it."""
        return {"rule": self.rule, "message": self.message, "hint": self.hint}


class RecipeError(SpeculatorsError):
    """The recipe or the command line is wrong; nothing was started."""

    exit_code = 2
    rule = "recipe"


class StageError(SpeculatorsError):
    """A stage started and failed."""

    exit_code = 3
    rule = "stage-failed"


class MachineError(SpeculatorsError):
    """The machine lacks what a stage needs: a package, memory, disk, a port."""

    exit_code = 4
    rule = "machine"


#: Exit code of a process of ours -> what is raised for it outside.
BY_EXIT_CODE: dict[int, type[SpeculatorsError]] = {
    error.exit_code: error for error in (RecipeError, StageError, MachineError)
}


def storage_error(error: OSError, way_on: str = "") -> MachineError:
    """What the machine's storage said no to, as an error with a way out."""
    hint = "; ".join(filter(None, (SPACE_HINT, way_on)))
    return MachineError(f"{error.filename or 'output'}: {error.strerror}", hint=hint, rule="storage")
