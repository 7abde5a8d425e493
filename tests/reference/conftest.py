"""The reference's process, and asking it for a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from tests.needs import leave_out
from tests.reference.environment import Side, UnavailableError, reference_side
from tests.reference.inside.case import Case


class Answered(NamedTuple):
    """What the reference makes of a case."""

    loss: float
    gradients: dict[str, torch.Tensor]
    metrics: dict[str, float]


Ask = Callable[..., Answered]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """The reference's process; one for all tests, because it imports for many seconds."""
    try:
        side = reference_side(tmp_path_factory.mktemp("reference") / "log.txt")
    except UnavailableError as error:
        leave_out(f"the reference system cannot be had: {error}")
    with side:
        yield side


@pytest.fixture(scope="session")
def ask(reference: Side, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Ask the reference for the loss and gradients of a case."""
    folder: Path = tmp_path_factory.mktemp("cases")

    def asked(case: Case, attention: str = "sdpa") -> Answered:
        path, out = case.write(folder / "case.safetensors"), folder / "gradients.safetensors"
        answer: dict[str, Any] = reference.ask(
            "loss_and_gradients", case=str(path), out=str(out), attention=attention
        )
        return Answered(answer["loss"], load_file(out), answer["metrics"])

    return asked
