"""Cases computed by this project."""

from __future__ import annotations

from typing import NamedTuple

import torch

from speculators.checkpoint.eagle3 import Eagle3Config
from speculators.checkpoint.verifier_weights import VerifierWeights
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.objective import Objective, Teaching
from speculators.training.rows import supervised_rows, target_tokens
from speculators.training.step import Share, backward
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest
from speculators.training.verifier import FrozenVerifier
from tests.reference.cases import sequence
from tests.reference.inside.case import Case

#: Name -> implementation that must agree with the reference.
IMPLEMENTATIONS: dict[str, type[Objective]] = {"fast": TrainTimeTest, "oracle": DenseTrainTimeTest}


class Result(NamedTuple):
    """Loss, its part at each step without decay, and the gradient of every trained tensor."""

    loss: float
    by_step: list[float]
    gradients: dict[str, torch.Tensor]


def bound(case: Case, way: type[Objective], dtype: torch.dtype) -> Objective:
    """An objective bound to the case's weights."""
    draft = Eagle3Draft(Eagle3Config(**{**case.shape, "aux_layers": tuple(case.shape["aux_layers"])}))
    draft.load_state_dict(case.draft)
    ends, eps = case.verifier, case.shape["rms_norm_eps"]
    weights = VerifierWeights(ends["embedding"], ends["final_norm"], eps, case.head)
    verifier = FrozenVerifier.of(weights, ends["draft_ids"], dtype)
    return way(draft.to(dtype), verifier, Teaching(case.steps, case.step_decay))


def taught(*window: Case, implementation: str = "fast", dtype: torch.dtype = torch.float64) -> Result:
    """Loss and gradients of the first case's weights on a window of all cases' batches."""
    objective = bound(window[0], IMPLEMENTATIONS[implementation], dtype)
    draws = torch.Generator().manual_seed(0)
    batches = [objective.batch(sequence(case.batch, dtype), draws) for case in window]
    loss = backward(objective, Share.of(batches))
    gradients = {name: parameter.grad for name, parameter in objective.draft.named_parameters()}
    return Result(
        loss.loss, loss.by_step, {name: grad for name, grad in gradients.items() if grad is not None}
    )


def hits(case: Case) -> list[bool]:
    """Where the draft's first guess is the verifier's word, of the rows that are taught."""
    objective = bound(case, DenseTrainTimeTest, torch.float64)
    packed = sequence(case.batch, torch.float64)
    rows = supervised_rows(packed, 0)  # [R]
    proposed = objective.propose(packed, 1)[rows, 0]  # [R]
    right: list[bool] = (proposed == target_tokens(objective.verifier, packed)[rows + 2]).tolist()
    return right


def distance(gradient: torch.Tensor, other: torch.Tensor) -> float:
    """Of two gradients, relative to the norm of the other."""
    return ((gradient.double() - other.double()).norm() / other.double().norm()).item()
