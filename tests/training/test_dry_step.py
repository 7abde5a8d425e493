"""A step for nothing: it shows what does not fit, and leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speculators.errors import MachineError
from speculators.training.dry_step import dry_step, neediest
from speculators.training.optimiser import KINDS, Optimiser
from tests.models import tiny

DOCUMENTS = [tiny.document(10 + seed % 5, 4, seed) for seed in range(6)]


def test_the_longest_sequence_is_chosen_and_of_equals_that_with_the_longest_document() -> None:
    documents = [tiny.document(length, 2, length) for length in (6, 6, 12, 8, 3)]
    assert neediest([[[0, 1]], [[2], [3, 4]]], documents) == [[2]]
    assert neediest([[[3, 4]], [[0, 1, 4]], [[4, 2]]], documents) == [[4, 2]]


def test_a_long_document_is_run_beside_more_tokens_of_short_ones() -> None:
    """Drafts that keep a score for each pair of tokens need the most for it."""
    documents = [tiny.document(length, 2, length) for length in (20, 19, 18, 50)]
    assert neediest([[[0, 1, 2]], [[3]]], documents) == [[0, 1, 2], [3]]


def test_a_shorter_sequence_with_more_to_learn_is_run_too() -> None:
    """Rows that nothing is learned from cost next to nothing."""
    documents = [tiny.document(40, 36, 0), tiny.document(30, 4, 1), tiny.document(32, 6, 2)]
    windows = [[[0], [1], [2]]]
    assert neediest(windows, documents) == [[0], [2]]  # of 26 to learn both, [2] in a longer document
    taught, lines = tiny.objective(tiny.draft(dtype=torch.float32), 2, 1.0, torch.float32), []
    dry_step(taught, documents, windows, Optimiser(taught.draft, "adamw", 0.1), lines.append)
    assert [line.partition(":")[0] for line in lines] == [
        "dry step on 40 tokens, 4 of them to learn",
        "dry step on 32 tokens, 26 of them to learn",
    ]


@pytest.mark.parametrize(("windows", "times"), [([[[0]], [[1]]], 1), ([[[0]], [[1], [2]]], 2)])
def test_where_a_step_has_several_sequences_one_finds_the_gradients_of_another(windows, times) -> None:
    draft = tiny.draft(dtype=torch.float32)
    taught, found = tiny.objective(draft, 2, 1.0, torch.float32), []
    draft.register_forward_pre_hook(lambda *_: found.append(draft.fc.weight.grad is not None))
    dry_step(taught, DOCUMENTS, windows, Optimiser(draft, "adamw", 0.0), lambda _: None)
    assert found == [False, True][:times]


@pytest.mark.parametrize("optimizer", sorted(KINDS))
def test_draft_optimiser_and_generators_are_as_they_were(optimizer: str) -> None:
    draft = tiny.draft(dtype=torch.float32)
    taught, optimiser = tiny.objective(draft, 2, 1.0, torch.float32), Optimiser(draft, optimizer, 0.1)
    before = {name: tensor.clone() for name, tensor in draft.state_dict().items()}
    drawn = torch.get_rng_state()
    lines: list[str] = []
    dry_step(taught, DOCUMENTS, [[[0, 1], [2]]], optimiser, lines.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in draft.state_dict().items())
    assert all(parameter.grad is None for parameter in draft.parameters())
    assert not list(optimiser.state())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert lines[0].startswith("dry step on 21 tokens, 13 of them to learn: ")


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("muon", 1)])
def test_the_room_of_the_moments_is_taken_once(optimizer: str, moments: int) -> None:
    draft = tiny.draft(dtype=torch.float32)
    optimiser = Optimiser(draft, optimizer, 0.1)
    matrices = sum(parameter.numel() for parameter in draft.parameters() if parameter.dim() == 2)
    gains = sum(parameter.numel() for parameter in draft.parameters() if parameter.dim() == 1)
    taken = sum(tensor.numel() for tensor in optimiser.stand_ins())
    assert taken == moments * matrices + 2 * gains
    for parameter in draft.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step(0.0)
    kept = sum(tensor.numel() for _, moment, tensor in optimiser.state() if moment != "step")
    assert kept == taken
    assert optimiser.stand_ins() == []


@pytest.mark.parametrize("error", [RuntimeError("std::bad_alloc"), MemoryError()], ids=["torch", "python"])
def test_memory_that_is_refused_outside_of_torch_s_allocator_is_too_little_as_well(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refused(*_: object) -> None:
        raise error

    draft = tiny.draft(dtype=torch.float32)
    taught = tiny.objective(draft, 2, 1.0, torch.float32)
    monkeypatch.setattr(taught, "backward", refused)
    with pytest.raises(MachineError, match="does not fit the memory of cpu") as caught:
        dry_step(taught, [tiny.document(20, 4, 0)], [[[0]]], Optimiser(draft, "adamw", 0.0), print)
    assert caught.value.rule == "out-of-memory"


SMALL_MACHINE = """
import resource, torch
from pathlib import Path
from speculators.errors import MachineError
from speculators.training.dry_step import dry_step
from speculators.training.optimiser import Optimiser
from tests.models import tiny
draft = tiny.draft(dtype=torch.float32)
taught, optimiser = tiny.objective(draft, 2, 1.0, torch.float32), Optimiser(draft, "adamw", 0.0)
documents = [tiny.document(1_000_000, 4, 0)]  # packing alone copies 256 MB
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 27), resource.RLIM_INFINITY))
try:
    dry_step(taught, documents, [[[0]]], optimiser, print)
except MachineError as error:
    print(error.rule, error.message, error.hint, sep="\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by what Linux tells of it")
def test_a_sequence_that_does_not_fit_is_said_with_its_length_and_the_way_out() -> None:
    found = subprocess.run(
        [sys.executable, "-c", SMALL_MACHINE],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rule, message, hint = found.stdout.splitlines()[:3]
    assert rule == "out-of-memory"
    assert message.startswith(
        "a training step on a sequence of 1000000 tokens, 999996 of them to learn, does not fit the memory"
    )
    assert "lower training.sequence_length" in hint
