"""The converter's class interface, as scripts of the format's users call it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class Eagle3Converter:
    """EAGLE-3 checkpoints of other trainers become speculators checkpoints."""

    def convert(
        self,
        input_path: str | os.PathLike[str],
        output_path: str | os.PathLike[str],
        base_model: str,
        validate: bool = True,
        norm_before_residual: bool | None = None,
        norm_before_fc: bool | None = None,
        fc_norm: bool | None = None,
        norm_output: bool | None = None,
        eagle_aux_hidden_state_layer_ids: Sequence[int] | None = None,
    ) -> None:
        """Convert ``input_path``, a folder or hub repository, into the new folder ``output_path``.

        ``base_model``: the verifier's folder or hub repository; ``validate``: also check the result
        and prove it against the source.  Flags that are None are read from the source.
        ``eagle_aux_hidden_state_layer_ids``: decoder layers before each state, as vLLM counts them.

        Raises:
            RecipeError: ``input_path`` is of another architecture.
            RecipeError, StageError, MachineError: as ``speculators.convert.run.convert``.
        """
        from speculators.convert.kinds import EAGLE3, KINDS
        from speculators.convert.run import Request, convert

        flags = {
            "norm_before_residual": norm_before_residual,
            "norm_before_fc": norm_before_fc,
            "fc_norm": fc_norm,
            "norm_output": norm_output,
        }
        ids = eagle_aux_hidden_state_layer_ids
        request = Request(
            source=os.fspath(input_path),
            verifier=base_model,
            aux_layers=None if ids is None else tuple(ids),
            flags={flag: value for flag, value in flags.items() if value is not None},
            kinds=[name for name, kind in KINDS.items() if kind.module == EAGLE3],
        )
        convert(request, Path(output_path), checked=validate)
