"""The folder of a checkpoint: a stranger's files read with suspicion, a new one written whole or not at all.

Apart from ``SpeculatorModel`` because data generation reads a verifier's files too: what it imports is part
of what its outputs are kept by, and the trainer has no part in them.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from speculators.documents import read_json
from speculators.errors import RecipeError, StageError

JSON_LIMIT = 1 << 26  # bytes; the index of the largest model has a few million


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a stranger's file.

    Raises:
        StageError: it is missing, is no JSON or no object.
    """
    hint = "copy or download the checkpoint again"
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError(f"{path.stat().st_size} bytes, more than any config has")
        document = read_json(path)
    except FileNotFoundError:
        raise StageError(f"{path}: no such file", hint=hint, rule="checkpoint-config") from None
    except OSError as error:
        hint = "name a file that this user may read"
        raise StageError(
            f"{path}: cannot be read: {error.strerror or error}", hint=hint, rule="checkpoint-config"
        ) from None
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not valid JSON: {error}", hint=hint, rule="checkpoint-config") from error
    if not isinstance(document, dict):
        raise StageError(f"{path}: not a JSON object", hint=hint, rule="checkpoint-config")
    return document


@contextmanager
def config_of(folder: Path) -> Iterator[None]:
    """What is read in the ``with`` block is the config in ``folder``, whose values can be anything.

    Raises:
        StageError: one is of a kind that nobody who reads it expects.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise StageError(
            f"{folder / 'config.json'}: a value is not what is read there: {type(error).__name__} {error}",
            hint="correct the config, or copy or download it again",
            rule="checkpoint-config",
        ) from error


def weights_of(folder: Path) -> Path:
    """The one weight file of a checkpoint folder.

    Raises:
        StageError: there is not exactly one: engines load every safetensors file that they find.
    """
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1 or not files[0].is_file():
        raise StageError(
            f"{folder}: {len(files)} safetensors files, expected one",
            hint="keep the model's only; optimiser states and copies belong elsewhere",
            rule="draft-weights",
        )
    return files[0]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``target`` at the end of the ``with`` block, whole or not at all.

    It is filled under a name that nobody else has, so two that write one target do not meet before the
    end.  After a failure there is nothing that was not there before.

    Raises:
        RecipeError: ``target`` holds something (at the end too), is no folder, cannot be made, or is the
            one that the process stands in.
    """
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise _taken(target, "exists and is not an empty folder")
    target = target.resolve()
    if target == Path.cwd():
        raise _taken(target, "is the folder that this runs in, which cannot be replaced under its feet")
    missing = [folder for folder in target.parents if not folder.exists()]  # the innermost first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _taken(target, f"cannot be made: {error.filename}: {error.strerror}") from None
    holder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:99]}.partial-"))
    try:
        partial = holder / target.name
        partial.mkdir()  # one of its own: the holder is closed to all but its owner
        yield partial
        _take_place(partial, target)
        missing = []
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):  # somebody else's by now
                folder.rmdir()


def _take_place(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _taken(target, "holds something since this began") from None


def _taken(target: Path, problem: str) -> RecipeError:
    hint = "name a new folder; nothing is overwritten"
    return RecipeError(f"{target}: {problem}", hint=hint, rule="target-exists")
