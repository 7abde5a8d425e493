"""The questions a new machine is asked find what is wrong, and nothing where nothing is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from speculators.models import unroll
from speculators.models.kernels import CPU_FLASH
from speculators.training import chunked, parallel, self_check
from speculators.training.losses import Compared
from speculators.training.ranks import ALONE, Ranks
from speculators.training.self_check import (
    Check,
    failed,
    fast_against_oracle,
    learned,
    ranks_against_one,
    read_check,
)
from tests.training.processes import together

CPU = torch.device("cpu")


def asked(precision: str = "float32") -> list[Check]:
    """In single precision: half types are slow on processors without instructions; the verb asks in both."""
    return list(fast_against_oracle(precision, CPU))


def test_a_sound_machine_passes() -> None:
    checks = asked()
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
    monkeypatch.setattr(unroll, "kernel_for", lambda device, dtype, head_dim: Leaky)
    assert [check.ok for check in asked()] == [False] * 3


def test_half_precision_is_asked_of_the_head_and_the_loss_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "CASES", {"one layer": self_check.CASES["one layer"]})
    sound = chunked.compared
    assert [check.ok for check in asked("bfloat16")] == [True]

    def spoilt(verifier, last, guesses):
        rows = sound(verifier, last, guesses)
        return Compared(rows.z * 1.1, rows.y) if guesses.dtype == torch.bfloat16 else rows

    monkeypatch.setattr(chunked, "compared", spoilt)
    assert [check.ok for check in asked("bfloat16")] == [False]


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
    monkeypatch.setattr(unroll, "kernel_for", lambda device, dtype, head_dim: kernel)
    for check in asked():
        assert not check.ok
        assert check.document()["error"] is None
        assert cause in check.cause


def test_a_fault_that_shows_when_numbers_are_read_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA's do: the kernel was started long before."""
    monkeypatch.setattr(self_check, "CASES", {"one layer": self_check.CASES["one layer"]})

    def read(found: torch.Tensor, expected: torch.Tensor) -> float:
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA"
        )

    monkeypatch.setattr(self_check, "_distance", read)
    (check,) = asked()
    assert (check.ok, check.cause) == (False, "CUDA error: an illegal memory access was encountered")
    assert read_check(check.document()) == check


def test_of_a_traceback_the_line_is_told_that_says_what_was_raised() -> None:
    text = "rank 0 of 2:\nTraceback (most recent call last):\n"
    text += "  File ...\ntorch.AcceleratorError: CUDA error: x\nadvice"
    assert failed("it", text).cause == "torch.AcceleratorError: CUDA error: x"
    assert failed("it", "").cause == "no word of the cause"


def kept(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Each rank keeps its own gradient."""
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def averaged(bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """As DDP does by itself."""
    return summed(bucket).then(lambda done: done.value() / distributed.get_world_size())


summed, EXCHANGES = parallel._summed, {"sound": parallel._summed, "kept": kept, "averaged": averaged}


def learn(ranks: Ranks, exchange: str) -> dict[str, Any]:
    """In a process of its own, which ends with it."""
    self_check.STEPS, parallel._summed = 4, EXCHANGES[exchange]
    return learned(ranks, "ddp", CPU)


def test_ranks_that_lose_a_gradient_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "STEPS", 4)
    alone = learned(ALONE, "ddp", CPU)
    assert len(alone["losses"]) == len(alone["gradients"]) == 4
    assert alone["losses"][-1] < alone["losses"][0]
    verdicts = {
        exchange: ranks_against_one(alone, together(2, tmp_path / exchange, learn, exchange)[0], exchange).ok
        for exchange in EXCHANGES
    }
    assert verdicts == {"sound": True, "kept": False, "averaged": False}


def test_a_figure_that_is_not_finite_is_infinitely_far_off() -> None:
    alone = {"losses": [2.0, 1.0], "gradients": [3.0, 3.0], "norms": [5.0]}
    assert ranks_against_one(alone, alone, "same") == Check("same", 0.0, self_check.TOGETHER_BOUND)
    assert ranks_against_one(alone, {**alone, "norms": [math.nan]}, "nan").error == math.inf
