"""What goes into a stage and what comes out: two JSON documents and folders.

A stage gets nothing else, so one kept document and one command run it again by hand:
``python -m speculators.stages input.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import file_digest, read_json, tree_files, value_digest, write_json
from speculators.errors import StageError

INPUT_SCHEMA = "speculators/stage-input/v1"
OUTPUT_SCHEMA = "speculators/stage-output/v1"
OUTPUT_NAME = "output.json"
ERROR_NAME = "error.json"
WORK_NAME = "work"
TRACKS_NAME = "trackers"
SMALL = 1 << 20


class StageInput(NamedTuple):
    """One stage's whole world.

    ``values``: the part of the resolved recipe that the stage declares, nested as in the recipe.
    ``inputs``: output folders of earlier stages by stage name.
    ``files``: files that the recipe names, by their recipe path, resolved to absolute paths.
    ``output``: the folder to fill.
    """

    stage: str
    values: dict[str, Any]
    inputs: dict[str, Path]
    files: dict[str, list[Path]]
    output: Path

    @property
    def work(self) -> Path:
        """Where a stage keeps what only its own continuation needs; no part of the output."""
        return self.output / WORK_NAME

    @property
    def tracks(self) -> Path:
        """Where programs that follow the stage keep what they noted: with times, so no part of the output."""
        return self.output / TRACKS_NAME

    def result_of(self, stage: str) -> dict[str, Any]:
        """The ``result`` object that an input stage left in its output document."""
        result: dict[str, Any] = read_output(self.inputs[stage])["result"]
        return result

    def document(self) -> dict[str, Any]:
        return {
            "schema": INPUT_SCHEMA,
            "stage": self.stage,
            "values": self.values,
            "inputs": {name: str(path) for name, path in self.inputs.items()},
            "files": {name: [str(path) for path in paths] for name, paths in self.files.items()},
            "output": str(self.output),
        }


def read_input(path: Path) -> StageInput:
    """The stage input stored in ``path``."""
    document = read_json(path)
    return StageInput(
        stage=document["stage"],
        values=document["values"],
        inputs={name: Path(value) for name, value in document["inputs"].items()},
        files={name: [Path(p) for p in paths] for name, paths in document["files"].items()},
        output=Path(document["output"]),
    )


def write_output(step: StageInput, result: dict[str, Any], seconds: float) -> None:
    """Seal the output folder: its result, the digest and size of every file in it, and its own digest."""
    files = {
        str(file.relative_to(step.output)): {"sha256": file_digest(file), "bytes": file.stat().st_size}
        for file in tree_files(step.output)
        if file.name not in (OUTPUT_NAME, ERROR_NAME) and not {step.work, step.tracks} & set(file.parents)
    }
    document = {
        "schema": OUTPUT_SCHEMA,
        "stage": step.stage,
        "input": value_digest(step.document()),
        "result": result,
        "files": files,
        "seconds": round(seconds, 3),
    }
    write_json(step.output / OUTPUT_NAME, {**document, "digest": value_digest(document)})


def seals(document: dict[str, Any], step: StageInput) -> bool:
    """Whether an output document was written for exactly this input."""
    return bool(document["input"] == value_digest(step.document()))


def read_output(folder: Path) -> dict[str, Any]:
    """The output document that seals ``folder``.

    Raises:
        StageError: it is not there, or not as it was written.
    """
    path = folder / OUTPUT_NAME
    try:
        document: dict[str, Any] = read_json(path)
        whole = document.pop("digest") == value_digest(document)
    except (OSError, ValueError, AttributeError, KeyError):
        whole = False
    if not whole:
        raise StageError(f"{path}: not as it was written", rule="damaged")
    return document


def output_bytes(document: dict[str, Any]) -> int:
    """Size of a sealed folder's files."""
    return sum(entry["bytes"] for entry in document["files"].values())


def damaged_files(folder: Path, document: dict[str, Any], *, thorough: bool = True) -> list[str]:
    """Files of a sealed folder that are missing or changed, each with what is wrong with it.

    Without ``thorough`` files of more than ``SMALL`` bytes are only looked at, which costs nothing.
    """
    found = []
    for name, sealed in document["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif (size := path.stat().st_size) != sealed["bytes"]:
            found.append(f"{name} has {size} bytes, not {sealed['bytes']}")
        elif (thorough or size <= SMALL) and file_digest(path) != sealed["sha256"]:
            found.append(f"{name} has other bytes than were written")
    return found
