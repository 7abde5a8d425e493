"""``SpeculatorModel``: a checkpoint of any algorithm as a value, read and written without loss."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.folder import new_folder, read_object, weights_of
from speculators.checkpoint.location import local_folder
from speculators.checkpoint.records import SpeculatorModelConfig
from speculators.checkpoint.weights_file import (
    WEIGHTS_NAME,
    Stored,
    load_stored,
    read_header,
    write_weights,
)
from speculators.documents import write_json
from speculators.errors import StageError

if TYPE_CHECKING:
    import torch

    from speculators.checkpoint.read import LoadedDraft


class SpeculatorModel:
    """A draft's config and tensors.

    ``tensors`` may stay on disk: reading a checkpoint costs its header, ``state_dict`` loads, and
    ``save_pretrained`` copies bytes.  What was read is written again exactly: every tensor to the
    bit, every key of the config.
    """

    def __init__(
        self,
        config: SpeculatorModelConfig,
        tensors: Mapping[str, Stored | torch.Tensor],
        folder: Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.tensors = dict(tensors)
        self.folder = folder  # where it was read from
        self.metadata = dict(metadata or {})  # of the weight file

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: Path | None = None,
    ) -> SpeculatorModel:
        """Read a folder, or a repository ``owner/name[@revision]`` of the hub.

        Raises:
            RecipeError, MachineError: there is no such checkpoint.
            StageError: it is damaged, in another format, or has not exactly one weight file.
        """
        folder = local_folder(path_or_repo, revision=revision, cache_dir=cache_dir)
        tensors, metadata = read_header(weights_of(folder))
        return cls(read_config(folder), tensors, folder, metadata)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` and ``model.safetensors`` into a new or empty ``folder``.

        Nothing is left behind when it fails.

        Raises:
            RecipeError: ``folder`` holds something.
        """
        target = Path(folder)
        with new_folder(target) as partial:
            write_weights(partial / WEIGHTS_NAME, self.tensors, self.metadata)
            write_json(partial / CONFIG_NAME, self.config.to_document())
        return target

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All tensors by their names, loaded."""
        return {
            name: load_stored(piece) if isinstance(piece, Stored) else piece
            for name, piece in self.tensors.items()
        }

    def draft(self, dtype: torch.dtype | None = None) -> LoadedDraft:
        """The torch module that drafts, in float32 unless ``dtype`` says otherwise.

        Raises:
            StageError: it was not read from a folder, or is of a kind that our own models do not
                compute.
        """
        import torch

        from speculators.checkpoint.read import read_checkpoint

        if self.folder is None:
            raise StageError("this draft was not read from a folder", hint="save it, and read it again")
        return read_checkpoint(self.folder, dtype or torch.float32)

    def __repr__(self) -> str:
        return f"SpeculatorModel({self.config.speculators_model_type}, {len(self.tensors)} tensors)"


def read_config(folder: Path) -> SpeculatorModelConfig:
    """The typed ``config.json`` of a checkpoint folder.

    Raises:
        StageError: it is missing, not JSON, or of another format.
    """
    return SpeculatorModelConfig.read(read_object(folder / CONFIG_NAME), str(folder / CONFIG_NAME))
