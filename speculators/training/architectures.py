"""The draft architectures that can be trained: one row each.

Adding one means its own file and a row here.  Looking a config up imports no torch; model and
objective are loaded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from speculators.checkpoint.shape import Eagle3Config

if TYPE_CHECKING:
    from torch import nn

    from speculators.training.objective import Objective


class Implementation(NamedTuple):
    """The part of an architecture that needs torch."""

    model: Callable[[Eagle3Config], nn.Module]
    objective: type[Objective]


class Architecture(NamedTuple):
    """``config`` reads the recipe's ``algorithm`` block; ``load`` imports model and objective."""

    config: type[Eagle3Config]
    load: Callable[[], Implementation]


def _eagle3() -> Implementation:
    from speculators.models.eagle3 import Eagle3Draft
    from speculators.training.ttt import TrainTimeTest

    return Implementation(Eagle3Draft, TrainTimeTest)


#: By the recipe's ``algorithm.kind``, which is also the checkpoint's ``speculators_model_type``.
ARCHITECTURES = {"eagle3": Architecture(Eagle3Config, _eagle3)}
