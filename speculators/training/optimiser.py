"""The recipe's optimiser over a draft: one rate for all of it, its state under the parameters' own names.

*AdamW* moves every parameter.  *Muon* (``muon.py``) replaces the update of a matrix by the nearest orthogonal
one, which has no meaning for gains and for tables of token rows; those stay with AdamW.  Muon's update is
scaled to the root mean square of AdamW's, so that one learning rate serves both and a recipe can change its
optimiser alone.

State under names instead of torch's running numbers is what lets a checkpoint be read by another world
size or after parameters were grouped otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from speculators.training.muon import Muon

BETAS = (0.9, 0.95)  # a shorter second-moment memory than torch's default: runs are short
#: Matrices that are tables of rows, looked up or compared one by one: orthogonal to each other in no sense.
TABLES = ("embed_tokens.weight", "lm_head.weight")

#: Tensors of a parameter's size that an optimiser keeps for it.
MOMENTS: Mapping[type[torch.optim.Optimizer], int] = {torch.optim.AdamW: 2, Muon: 1}

Named = list[tuple[str, nn.Parameter]]


class Optimiser:
    """One or two of torch's optimisers as one.

    ``kind`` is a name in ``KINDS``.  Only matrices decay: pulling a norm's gain to zero regularises nothing.
    """

    def __init__(self, draft: nn.Module, kind: str, weight_decay: float) -> None:
        named = [(name, parameter) for name, parameter in draft.named_parameters() if parameter.requires_grad]
        self.names = {parameter: name for name, parameter in named}
        self.parts = KINDS[kind](named, weight_decay)

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """One update of every parameter at ``rate``."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def stand_ins(self) -> list[torch.Tensor]:
        """Memory of the size that the first step will take for good; nothing where it was taken already."""
        return [
            torch.zeros_like(parameter)
            for part in self.parts
            if not part.state
            for group in part.param_groups
            for parameter in group["params"]
            for _ in range(MOMENTS[type(part)])
        ]

    def state(self) -> Iterator[tuple[str, str, torch.Tensor]]:
        """What the optimiser remembers: parameter, moment and tensor."""
        for part in self.parts:
            for parameter, moments in part.state.items():
                for moment, tensor in moments.items():
                    yield self.names[parameter], moment, tensor

    def load(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Remember ``state`` instead, moments by parameter; tensors are kept as they are given."""
        for part in self.parts:
            part.state.clear()
            for parameter in (one for group in part.param_groups for one in group["params"]):
                if moments := state.get(self.names[parameter]):
                    part.state[parameter].update(moments)


def _adamw(named: Named, weight_decay: float) -> list[torch.optim.Optimizer]:
    matrices = [parameter for _, parameter in named if parameter.dim() == 2]
    others = [parameter for _, parameter in named if parameter.dim() != 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW([group for group in groups if group["params"]], betas=BETAS)]


def _muon(named: Named, weight_decay: float) -> list[torch.optim.Optimizer]:
    matrices = [one for one in named if one[1].dim() == 2 and not one[0].endswith(TABLES)]
    others = [one for one in named if one not in matrices]
    parameters = [parameter for _, parameter in matrices]
    return [Muon(parameters, weight_decay=weight_decay), *_adamw(others, weight_decay)]


#: By the recipe's ``training.optimizer``.
KINDS: Mapping[str, Callable[[Named, float], list[torch.optim.Optimizer]]] = {"adamw": _adamw, "muon": _muon}
