"""A stranger's checkpoint, opened without trusting it.

Tensors stay on disk where they are safetensors.  A pickle is opened by torch's restricted reader
only, which builds tensors and runs no code, and its tensors are mapped, not read.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.location import WANTED, local_folder
from speculators.checkpoint.weights_file import Stored, load_stored, read_header
from speculators.errors import StageError

if TYPE_CHECKING:
    import torch

PICKLES = ("pytorch_model.bin", "model.pt")
Piece = "Stored | torch.Tensor"


class Source(NamedTuple):
    """Config and tensors of a checkpoint in any layout."""

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, Any]  # name -> Stored or torch.Tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def load(self, name: str) -> torch.Tensor:
        """One tensor, in memory."""
        piece = self.tensors[name]
        return load_stored(piece) if isinstance(piece, Stored) else piece


def open_source(name: str) -> Source:
    """Open a folder or hub repository.

    Raises:
        RecipeError, MachineError: there is no such checkpoint.
        StageError: it has no readable config or weights, or its index leads elsewhere.
    """
    folder = local_folder(name, wanted=(*WANTED, *PICKLES))
    return Source(folder, read_object(folder / CONFIG_NAME), folder_tensors(folder))


def folder_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of a model folder, in as many files as it has."""
    from speculators.checkpoint.verifier_weights import INDEX_NAME, SINGLE_NAME, tensor_files

    if (
        (folder / INDEX_NAME).exists()
        or (folder / SINGLE_NAME).is_file()
        or any(folder.glob("*.safetensors"))
    ):
        files = tensor_files(folder)
        headers = {path: read_header(path)[0] for path in sorted(set(files.values()))}
        if absent := [name for name, path in files.items() if name not in headers[path]]:
            raise unreadable(folder / INDEX_NAME, f"names {absent[0]!r}, which {files[absent[0]].name} lacks")
        return {name: headers[path][name] for name, path in files.items()}
    for name in PICKLES:
        if (folder / name).is_file():
            return read_pickle(folder / name)
    raise unreadable(folder, "neither safetensors nor pytorch_model.bin")


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``torch.save`` file; nothing in it is run."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        first = str(error).split("\n", 1)[0]
        raise unreadable(path, f"no plain tensors in it: {first}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(one, torch.Tensor) for one in loaded.values()):
        raise unreadable(path, "not a mapping from names to tensors")
    return {str(name): tensor for name, tensor in loaded.items()}


def unreadable(path: Path, problem: str) -> StageError:
    """The refusal of a source."""
    hint = "copy or download the checkpoint again; weights must be safetensors or plain tensors"
    return StageError(f"{path}: {problem}", hint=hint, rule="source-unreadable")
