"""The draft architectures that can be trained, stored and served: one row each.

Adding one means a module of ``checkpoint`` that says how it is stored, one of ``models`` that says what
it computes and how it is taught, and a row here.  Looking a format up imports no torch; model and
objective are loaded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.checkpoint import dflash, eagle, eagle3, peagle
from speculators.checkpoint.format import Format

if TYPE_CHECKING:
    from torch import nn

    from speculators.training.objective import Objective


class Implementation(NamedTuple):
    """The part of an architecture that needs torch; the model is made from its config record.

    ``oracle``: an objective that is slow and obviously right, where ``objective`` is a fast one.
    """

    model: Callable[[Any], nn.Module]
    objective: type[Objective]
    oracle: type[Objective] | None = None


class Architecture(NamedTuple):
    """``format`` also reads the recipe's ``algorithm`` block; ``load`` imports model and objective.

    ``practised``: draft positions that training unrolls; None: as many as are drafted.
    ``whole_blocks``: a guess depends on how many are made, so serving must draft as many as training.
    """

    format: Format
    load: Callable[[], Implementation]
    practised: int | None = None
    whole_blocks: bool = False


def _eagle3() -> Implementation:
    from speculators.models.eagle3 import Eagle3Draft
    from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest

    return Implementation(Eagle3Draft, TrainTimeTest, DenseTrainTimeTest)


def _peagle() -> Implementation:
    from speculators.models.peagle import DenseParallelDepths, ParallelDepths, PEagleDraft

    return Implementation(PEagleDraft, ParallelDepths, DenseParallelDepths)


def _eagle() -> Implementation:
    from speculators.models.eagle import EagleDraft, FeatureRegression

    return Implementation(EagleDraft, FeatureRegression)


def _dflash() -> Implementation:
    from speculators.models.dflash import BlockDrafting, DFlashDraft

    return Implementation(DFlashDraft, BlockDrafting)


#: By the recipe's ``algorithm.kind``.
ARCHITECTURES = {
    "eagle3": Architecture(eagle3.FORMAT, _eagle3),
    "peagle": Architecture(peagle.FORMAT, _peagle),
    "dflash": Architecture(dflash.FORMAT, _dflash, whole_blocks=True),
    "eagle": Architecture(eagle.FORMAT, _eagle, practised=1),
    "hass": Architecture(eagle.FORMAT, _eagle),
}

#: By the checkpoint's ``speculators_model_type``, which is also the kind that reads it back.
FORMATS = {row.format.stored_as: row.format for row in ARCHITECTURES.values()}
