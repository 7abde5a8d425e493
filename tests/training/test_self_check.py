"""The questions a new machine is asked find what is wrong, and nothing where nothing is."""

from __future__ import annotations

import math

import pytest
import torch

from speculators.models import unroll
from speculators.models.kernels import CPU_FLASH
from speculators.training import chunked, self_check
from speculators.training.losses import Compared
from speculators.training.ranks import ALONE
from speculators.training.self_check import Check, fast_against_oracle, learned, ranks_against_one

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half types are slow on processors without instructions for them; the verb asks in both."""
    monkeypatch.setattr(self_check, "BOUNDS", {torch.float32: self_check.BOUNDS[torch.float32]})


def test_a_sound_machine_passes() -> None:
    checks = list(fast_against_oracle(CPU))
    assert [check.name for check in checks] == [
        "fast path against oracle, one layer, float32",
        "fast path against oracle, one layer, every row, float32",
        "fast path against oracle, two layers, window, norms per state, float32",
    ]
    assert all(check.ok for check in checks)
    assert max(check.error for check in checks) < 1e-5


class Leaky:
    """An attention that is a thousandth off, as one that loses a little of its mask would be."""

    backward = staticmethod(CPU_FLASH.backward)

    @staticmethod
    def forward(q, k, v, layout):
        out, lse = CPU_FLASH.forward(q, k, v, layout)
        return out * 1.001, lse


class Missing:
    backward = staticmethod(CPU_FLASH.backward)

    @staticmethod
    def forward(q, k, v, layout):
        raise RuntimeError("no kernel image is available for execution on the device")


class Unknown:
    backward = staticmethod(CPU_FLASH.backward)

    @staticmethod
    def forward(q, k, v, layout):
        return torch.ops.aten._flash_attention_of_another_torch(q, k, v)


def test_a_kernel_that_is_a_thousandth_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unroll, "kernel_for", lambda device, dtype: Leaky)
    assert [check.ok for check in fast_against_oracle(CPU)] == [False] * 3


def test_half_precision_is_asked_of_the_head_and_the_loss_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "BOUNDS", {torch.bfloat16: 0.05})
    monkeypatch.setattr(self_check, "CASES", {"one layer": self_check.CASES["one layer"]})
    sound = chunked.compared
    assert [check.ok for check in fast_against_oracle(CPU)] == [True]

    def spoilt(verifier, last, guesses):
        rows = sound(verifier, last, guesses)
        return Compared(rows.z * 1.1, rows.y) if guesses.dtype == torch.bfloat16 else rows

    monkeypatch.setattr(chunked, "compared", spoilt)
    assert [check.ok for check in fast_against_oracle(CPU)] == [False]


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [
        (Missing, "no kernel image is available for execution on the device"),
        (Unknown, "has no attribute '_flash_attention_of_another_torch'"),
    ],
)
def test_a_kernel_that_is_not_there_is_a_failed_check_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, kernel: type, cause: str
) -> None:
    monkeypatch.setattr(unroll, "kernel_for", lambda device, dtype: kernel)
    for check in fast_against_oracle(CPU):
        assert not check.ok
        assert check.document()["error"] is None
        assert cause in check.cause


def test_ranks_that_lose_a_gradient_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "STEPS", 4)
    alone = learned(ALONE, "ddp", CPU)
    assert len(alone["losses"]) == 4
    assert alone["losses"][-1] < alone["losses"][0]
    assert ranks_against_one(alone, alone, "same") == Check("same", 0.0, self_check.TOGETHER_BOUND)
    other = {**alone, "losses": [*alone["losses"][:-1], alone["losses"][-1] * 1.01]}
    assert not ranks_against_one(alone, other, "drifted").ok
    assert (
        ranks_against_one(alone, {**alone, "norms": [math.nan] * len(alone["norms"])}, "nan").error
        == math.inf
    )
