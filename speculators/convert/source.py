"""A stranger's checkpoint, opened without trusting it.

Tensors stay on disk where they are safetensors.  A pickle is opened by torch's restricted reader
only, which builds tensors and runs no code, and its tensors are mapped, not read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.location import WANTED, local_folder
from speculators.checkpoint.weights_file import Stored, load_stored, read_header, torch_names
from speculators.errors import StageError

if TYPE_CHECKING:
    import torch

PICKLES = ("pytorch_model.bin", "model.pt")

#: The embedding of unknown tokens that vLLM's DFlash takes in place of the mask token's, where it lies there.
MASK_NAME = "mask_embedding.pt"

#: Rule of what engines serve and the format cannot say.
UNPLACED = "no-place"


class Source(NamedTuple):
    """Config and tensors of a checkpoint in any layout."""

    folder: Path
    config: dict[str, Any]
    tensors: Mapping[str, Any]  # name -> Stored or torch.Tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def sized(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor that has so many dimensions, none of them empty.

        Raises:
            StageError: it has not.
        """
        shape = self.shape(name)
        if len(shape) != dimensions or 0 in shape:
            raise unfit(
                self.folder, f"{name} is {list(shape)}, wanted are {dimensions} dimensions, none empty"
            )
        return shape

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
    folder = local_folder(name, wanted=(*WANTED, *PICKLES, MASK_NAME))
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
    """The tensors of a ``torch.save`` file; nothing in it is run.

    Files of torch before 1.6 are no archives and cannot be mapped: they are read into memory.
    """
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can make its reader raise anything
        first = str(error).split("\n", 1)[0]
        raise unreadable(path, f"no plain tensors in it: {first}") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise unreadable(path, "not a mapping from names to tensors")
    for name, tensor in loaded.items():
        if problem := unplain(tensor):
            raise unreadable(path, f"{name} is {problem}")
    return loaded


def unplain(tensor: Any) -> str | None:
    """Why something is no tensor whose elements lie side by side in the file, each a plain number."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        return f"of type {type(tensor).__name__}, not a tensor"
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"a tensor of layout {tensor.layout} on {tensor.device}, without plain elements"
    if tensor.dtype not in torch_names():
        return f"of {tensor.dtype}, which the format has no type for"
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:  # a view that repeats what little there is
        return f"{list(tensor.shape)}, more elements than its {stored} bytes hold"
    return None


def unreadable(path: Path, problem: str) -> StageError:
    """The refusal of a source that cannot be read."""
    hint = "copy or download the checkpoint again; weights must be safetensors or plain tensors"
    return StageError(f"{path}: {problem}", hint=hint, rule="source-unreadable")


def unfit(
    place: Path | str,
    problem: str,
    hint: str = "leave --from out to have the layout told; if it was, copy or download the checkpoint again",
    rule: str = "source-tensors",
) -> StageError:
    """The refusal of a source that is not what its layout is."""
    return StageError(f"{place}: {problem}", hint=hint, rule=rule)


def unplaced(source: Source, what: str) -> StageError:
    """The refusal of a draft that computes something that no key of the format says."""
    return StageError(
        f"{source.folder}: has {what}; the format has no place for it",
        hint="it cannot be converted without loss; vLLM serves it as it is: --speculative-config",
        rule=UNPLACED,
    )


def unsaid(source: Source, keys: list[str]) -> StageError:
    """The refusal of a source whose config lacks what nothing can replace."""
    return unfit(
        source.folder / CONFIG_NAME,
        f"does not say {', '.join(keys)}",
        "write it there, as the draft's trainer or model card says it; if another layout was asked for "
        "(--from), leave that out",
        "source-config",
    )
