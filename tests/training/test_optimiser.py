from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import _muon

from speculators.recipe.schema import load_schema, schema_at
from speculators.training.muon import Muon, orthogonal
from speculators.training.optimiser import KINDS, Optimiser
from tests.models import tiny


def draft_with_gradients() -> nn.Module:
    draft = tiny.draft(dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    for parameter in draft.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return draft


def test_the_recipe_offers_every_optimiser_and_no_other() -> None:
    node = schema_at(load_schema(), ("training", "optimizer"))
    assert node is not None
    assert set(node["enum"]) == set(KINDS)


@pytest.mark.parametrize("architecture", ["eagle3", "peagle"])  # one has a learned state, [1, 1, A*H]
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_matrices_decay(kind: str, architecture: str) -> None:
    draft = tiny.of_kind(architecture, 3).draft
    for parameter in draft.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.clone() for name, parameter in draft.named_parameters()}
    Optimiser(draft, kind, weight_decay=0.5).step(0.1)
    for name, parameter in draft.named_parameters():
        expected = before[name] * (0.95 if parameter.dim() == 2 else 1.0)
        torch.testing.assert_close(parameter, expected)


def test_muon_turns_matrices_by_an_orthogonal_update_of_the_size_that_adamw_has() -> None:
    draft = draft_with_gradients()
    before = draft.fc.weight.clone()
    Optimiser(draft, "muon", weight_decay=0.0).step(0.1)
    update = (before - draft.fc.weight).detach() / 0.1  # [H, A*H]
    values = torch.linalg.svdvals(update)
    assert values.max() / values.min() < 2.5  # five Newton-Schulz steps leave them around one size
    assert update.square().mean().sqrt() == pytest.approx(0.2, rel=0.25)  # 0.2: the customary rms of Adam


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_muon_goes_where_torchs_own_goes(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    """But for the precision of the iteration, so torch's is given the same one."""
    monkeypatch.setattr(_muon, "_zeropower_via_newtonschulz", orthogonal)
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    steppers = (
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    draw = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradient = torch.randn(shape, generator=draw)
        for one, stepper in zip((ours, theirs), steppers):
            one.grad = gradient.clone()
            stepper.step()
    assert (ours - theirs).norm() < 1e-6 * (theirs - start).norm()


def test_the_iteration_is_torchs_but_for_its_precision() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    settings = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C), 5, 1e-7
    theirs = _muon._zeropower_via_newtonschulz(matrix, *settings)  # in bfloat16
    torch.testing.assert_close(orthogonal(matrix, *settings), theirs.float(), rtol=0, atol=0.02)


def test_away_from_a_cpu_muon_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = nn.Parameter(torch.randn(24, 40, device="meta"))
    matrix.grad = torch.randn_like(matrix)
    asked: list[torch.dtype] = []
    whole = _muon._zeropower_via_newtonschulz
    monkeypatch.setattr(
        _muon,
        "_zeropower_via_newtonschulz",
        lambda grad, *rest: asked.append(grad.dtype) or whole(grad, *rest),
    )
    Muon([matrix], lr=0.02).step()
    assert asked == [torch.float32]


def test_muon_leaves_gains_and_token_tables_to_adamw() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens, self.norm = nn.Embedding(5, 4), nn.RMSNorm(4)
            self.fc = nn.Linear(4, 4, bias=False)

    module = Tables()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser = Optimiser(module, "muon", 0.0)
    optimiser.step(0.1)
    moments: dict[str, set[str]] = {}
    for name, moment, _ in optimiser.state():
        moments.setdefault(name, set()).add(moment)
    adam = {"step", "exp_avg", "exp_avg_sq"}
    assert moments == {"fc.weight": {"momentum_buffer"}, "embed_tokens.weight": adam, "norm.weight": adam}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_state_under_names_continues_another_optimiser_exactly(kind: str) -> None:
    one, other = draft_with_gradients(), draft_with_gradients()
    first, second = Optimiser(one, kind, 0.1), Optimiser(other, kind, 0.1)
    first.step(0.05)
    other.load_state_dict(one.state_dict())
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for name, moment, tensor in first.state():
        kept.setdefault(name, {})[moment] = tensor.clone()
    second.load(kept)
    for optimiser in (first, second):
        optimiser.step(0.02)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
