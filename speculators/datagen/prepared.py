"""Where a prepared dataset of the reference system keeps its rows and its hidden states.

People come with data that vllm-project/speculators has prepared: ``prepare-data`` leaves a folder of Arrow
files (``datasets.save_to_disk``), ``generate-offline-data`` one file of states a row below it.  That folder
may hold anything else, checkpoints too, so what counts is named here.

Light: the host looks at the folder before anything heavy may be imported.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from speculators.documents import known_json

__all__ = ["STATES", "arrow_files", "data_files", "prepared_problem", "state_files"]

STATE_NAME = "state.json"
#: What ``save_to_disk`` leaves of several splits: a folder of folders.
SPLITS_NAME = "dataset_dict.json"
STATES = "hidden_states"
STATES_FILE = re.compile(r"hs_(\d+)\.safetensors")


def arrow_files(folder: Path) -> list[Path]:
    """The files that hold the rows, in their order; empty where the folder is no saved dataset."""
    listed = known_json(folder / STATE_NAME).get("_data_files")
    entries = listed if isinstance(listed, list) else []
    return [folder / str(one["filename"]) for one in entries if isinstance(one, dict) and "filename" in one]


def state_files(folder: Path) -> dict[int, Path]:
    """The file of states of each row that has one, by the row's number in the dataset, ascending."""
    found = {
        int(match[1]): path
        for path in (folder / STATES).glob("hs_*.safetensors")
        if (match := STATES_FILE.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def data_files(folder: Path) -> list[Path]:
    """All that is read of a prepared dataset."""
    return [folder / STATE_NAME, *arrow_files(folder), *state_files(folder).values()]


def prepared_problem(folder: Path) -> tuple[str, str] | None:
    """What a folder lacks of a prepared dataset, and the way out; None when nothing is missing."""
    # os.path answers False where Path methods raise: for names too long, or with a NUL in them.
    if not os.path.isdir(folder):
        return "does not exist", "file names are relative to the recipe's folder"
    if os.path.isfile(folder / SPLITS_NAME):
        return f"holds several splits ({SPLITS_NAME})", "name the folder of one split"
    files = arrow_files(folder)
    if not files:
        return f"has no {STATE_NAME} that names Arrow files", "name what the reference's prepare-data wrote"
    if absent := [file.name for file in files if not os.path.isfile(file)]:
        return f"lacks {absent[0]}, which its {STATE_NAME} names", "copy the whole folder"
    if not state_files(folder):
        hint = (
            f"make them with the reference's generate-offline-data, or copy or link them to {STATES}/; from "
            "conversations, datagen.prompts.files needs none"
        )
        return f"has no {STATES}/hs_*.safetensors", hint
    return None
