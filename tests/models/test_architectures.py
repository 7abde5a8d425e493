"""Every architecture: stored under the names its format has, drafting as an engine does, taught exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from speculators.checkpoint.config import draft_layout, format_of
from speculators.models.dflash import BlockDrafting, Blocks, draw
from speculators.models.eagle3 import Eagle3Draft
from speculators.pipeline.machine.estimates import draft_parameters
from speculators.recipe.facts import VerifierFacts
from speculators.recipe.warm_start import new_shape
from speculators.training.architectures import ARCHITECTURES
from speculators.training.asked import ask
from speculators.training.objective import Objective, Teaching
from speculators.training.packing import PackedSequence, pack
from speculators.training.rows import supervised_rows
from speculators.training.step import Share, backward
from tests.models import tiny
from tests.models.served import ServedBlock, ServedDraft, ServedEagle

STEPS = 3
OTHERS = ("peagle", "eagle", "hass", "dflash")  # EAGLE-3 has its own tests
FROZEN = {"lm_head.weight", "d2t"}
DOCUMENTS = [tiny.document(9, 4, seed=1), tiny.document(7, 3, seed=2)]


@pytest.fixture(autouse=True)
def exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def states(objective: Objective, sequence: PackedSequence) -> list[dict[int, torch.Tensor]]:
    """What the head reads at each supervised row of each step."""
    if isinstance(objective, BlockDrafting):
        anchors = torch.cat([supervised_rows(sequence, step) for step in range(STEPS)]).unique()
        drawn = draw(sequence, anchors, STEPS)
        normed, taught = objective.states(sequence, drawn.blocks, STEPS), drawn.taught
    else:
        asked = ask(sequence, STEPS)
        normed, taught = objective.unroll(sequence, asked), asked.taught
    return [
        {
            int(opinion) - 1 - step: normed[step][place]
            for opinion, place, counted in zip(taught.opinions, taught.places[step], taught.counted[step])
            if counted
        }
        for step in range(STEPS)
    ]


def by_autograd(objective: Objective, sequence: PackedSequence) -> list[dict[int, torch.Tensor]]:
    """The same, every row of it and by the models' reading copies where they have one."""
    plan = ask(sequence, STEPS, dense_from=0.0).plan
    if not isinstance(objective.draft, Eagle3Draft):
        return states(objective, sequence)
    read = objective.embeddings(sequence, plan)  # [S + K - 1, H]
    inputs = (sequence.hidden_states[:, :-1], read, sequence.positions, sequence.documents)
    normed = objective.draft.dense(*inputs)  # K x [S, H]
    return [
        {row: normed[step][row] for row in supervised_rows(sequence, step).tolist()} for step in range(STEPS)
    ]


@torch.no_grad()
def served(kind: str, objective: Objective, document, row: int) -> list[torch.Tensor]:
    """What the head reads for each draft from ``row``, true tokens fed."""
    config, tensors = objective.draft.config, dict(objective.draft.state_dict())
    embedding, verifier = objective.verifier.embedding, objective.verifier
    tokens, aux = document.token_ids, document.hidden_states[:, :-1].double().flatten(1)
    last = document.hidden_states[:, -1].double()
    count = min(STEPS, len(tokens) - row - 2)
    if kind == "dflash":
        engine = ServedBlock(config, tensors)
        for position in range(row + 1):
            engine.read(aux[position], position)
        block = [embedding[tokens[row + 1]], *[embedding[config.mask_token_id]] * STEPS]
        return engine.draft(block, row + 1)[1 : 1 + count]
    if kind == "peagle":
        engine = ServedDraft(config, tensors)
        for position in range(row + 1):
            _, said = engine.feed(engine.combine(aux[position]), embedding[tokens[position + 1]], position)
        unknown, found = engine.combine(tensors["mask_hidden"].flatten()), [said]
        for depth in range(1, count):
            found.append(engine.feed(unknown, embedding[config.mask_token_id], row + depth)[1])
        return found
    engine = ServedEagle(config, tensors)
    for position in range(row + 1):
        normed = last[position] / (last[position].square().mean() + verifier.ends.norm_eps).sqrt()
        state = engine.feed(normed * verifier.ends.final_norm, embedding[tokens[position + 1]], position)
    found = [state]
    for step in range(1, count):
        found.append(engine.feed(found[-1], embedding[tokens[row + 1 + step]], row + step))
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 3])
def test_parameter_names_are_the_tensors_that_the_format_calls_for(kind: str, layers: int) -> None:
    draft = tiny.of_kind(kind, STEPS, layers=layers).draft
    shapes = {name: tuple(tensor.shape) for name, tensor in draft.state_dict().items()}
    wanted = draft_layout(draft.config).required
    assert shapes == {name: shape for name, shape in wanted.items() if name not in FROZEN}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_plan_reckons_with_the_parameters_that_there_are(kind: str) -> None:
    draft = tiny.of_kind(kind, STEPS).draft
    facts = VerifierFacts(source="", **tiny.FACTS)
    trained = sum(parameter.numel() for parameter in draft.parameters())
    reduced = draft.config.draft_vocab_size != draft.config.vocab_size
    head = draft.config.draft_vocab_size * (draft.config.hidden_size + 1) if reduced else 0
    assert draft_parameters(new_shape(tiny.ALGORITHMS[kind], facts)) == trained + head


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("changes", [{}, {"layers": 2}, {"num_key_value_heads": 1}], ids=str)
def test_all_rows_at_once_equal_drafting_row_by_row(kind: str, changes: dict[str, int]) -> None:
    objective = tiny.of_kind(kind, STEPS, **changes)
    sequence = pack(DOCUMENTS, torch.float64)
    engine = {
        start + row: served(kind, objective, document, row)
        for document, (start, end) in zip(DOCUMENTS, sequence.documents)
        for row in range(end - start - 2)
    }
    asked = 0
    for step, found in enumerate(states(objective, sequence)):
        for row, state in found.items():
            torch.testing.assert_close(state, engine[row][step], rtol=1e-9, atol=1e-9)
            asked += 1
    assert asked > 15


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_proposals_are_the_heads_choices_and_end_with_the_document(kind: str) -> None:
    objective = tiny.of_kind(kind, STEPS)
    sequence = pack(DOCUMENTS, torch.float64)
    proposed = objective.propose(sequence, STEPS)
    assert proposed.shape == (16, STEPS)
    for step, found in enumerate(states(objective, sequence)):
        assert set((proposed[:, step] >= 0).nonzero().flatten().tolist()) == set(
            supervised_rows(sequence, step).tolist()
        )
        for row, state in found.items():
            choice = (state @ objective.verifier.draft_head.T).argmax()
            assert proposed[row, step] == objective.verifier.draft_ids[choice]


def divergence(kind: str, objective: Objective, state: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """A row's loss, written out."""
    verifier = objective.verifier
    target = last / (last.square().mean() + verifier.ends.norm_eps).sqrt() * verifier.ends.final_norm
    wanted = (verifier.draft_head @ target).softmax(-1)
    log_said = (verifier.draft_head @ state).log_softmax(-1)
    tokens = (wanted * (wanted.log() - log_said)).sum()
    if format_of(objective.draft.config).stored_as != "eagle":
        return tokens
    return functional.smooth_l1_loss(state, target) + 0.1 * tokens


@pytest.mark.parametrize(("kind", "layers"), [*((kind, 1) for kind in ARCHITECTURES), ("dflash", 2)])
def test_loss_and_gradient_are_those_of_every_row_by_itself(kind: str, layers: int) -> None:
    objective = tiny.of_kind(kind, STEPS, layers=layers)
    found = backward(objective, Share.of(tiny.batches(objective, [DOCUMENTS[0]], [DOCUMENTS[1]])))
    gradients = {name: p.grad for name, p in objective.draft.named_parameters()}
    objective.draft.zero_grad(set_to_none=True)
    sums = [torch.zeros(()) for _ in range(STEPS)]
    rows = [0] * STEPS
    for document in DOCUMENTS:
        sequence = pack([document], torch.float64)
        for step, said in enumerate(by_autograd(objective, sequence)):
            for row, state in said.items():
                if isinstance(objective, BlockDrafting) and row not in supervised_rows(sequence, 0):
                    continue  # no block begins there
                last = sequence.hidden_states[row + 1 + step, -1]
                sums[step] = sums[step] + divergence(kind, objective, state, last)
                rows[step] += 1
    loss = sum(total / count for total, count in zip(sums, rows))
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-9)
    for name, parameter in objective.draft.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-10)


def gradient(objective: Objective, **teaching: Any) -> tuple[float, torch.Tensor]:
    """Loss and gradient of both documents in one window, the objective taught so."""
    taught = type(objective)(objective.draft, objective.verifier, Teaching(STEPS, **teaching))
    objective.draft.zero_grad(set_to_none=True)
    loss = backward(taught, Share.of(tiny.batches(taught, DOCUMENTS))).loss
    return loss, torch.cat([one.grad.flatten() for one in objective.draft.parameters()])


@pytest.mark.parametrize("kind", OTHERS)
def test_layers_that_are_computed_again_give_the_same_gradient(kind: str) -> None:
    objective = tiny.of_kind(kind, STEPS, layers=2)
    torch.testing.assert_close(gradient(objective, checkpointing=True), gradient(objective))


@pytest.mark.parametrize("kind", OTHERS)
def test_bfloat16_products_are_near_the_full_ones_and_not_them(kind: str) -> None:
    objective = tiny.of_kind(kind, STEPS, torch.float32, layers=2)
    (loss, full), (other, half) = gradient(objective), gradient(objective, dtype=torch.bfloat16)
    assert other == pytest.approx(loss, rel=0.05)
    assert other != loss
    assert (half - full).norm() < 0.25 * full.norm()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_documents_do_not_see_each_other(kind: str) -> None:
    objective = tiny.of_kind(kind, STEPS, layers=2)
    together = objective.propose(pack(DOCUMENTS, torch.float64), STEPS)
    alone = [objective.propose(pack([one], torch.float64), STEPS) for one in DOCUMENTS]
    assert torch.equal(together, torch.cat(alone))


def test_a_dflash_guess_depends_on_the_masks_behind_it() -> None:
    objective = tiny.of_kind("dflash", STEPS)
    sequence = pack(DOCUMENTS, torch.float64)
    blocks = Blocks.behind(supervised_rows(sequence, 0), sequence.documents)
    short, long = objective.states(sequence, blocks, 1), objective.states(sequence, blocks, STEPS)
    assert not torch.allclose(short[0], long[0])


def test_dflash_draws_as_many_anchors_as_asked_and_always_the_same_from_one_seed() -> None:
    objective = tiny.of_kind("dflash", STEPS)
    objective.teaching = Teaching(STEPS, anchors=4)
    sequence = pack(DOCUMENTS, torch.float64)
    batches = [objective.batch(sequence, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1, 2)]
    drawn = [batch.rows.blocks.anchors.tolist() for batch in batches]
    assert all(len(anchors) == 4 and anchors == sorted(anchors) for anchors in drawn)
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1
    assert batches[0].supervised[0] == 4 >= batches[0].supervised[1]


def test_key_gains_of_dflash_layers_that_start_as_one_learn_as_one() -> None:
    random = tiny.of_kind("dflash", STEPS, layers=3)
    gains = [layer.self_attn.k_norm.weight for layer in random.draft.layers]
    with torch.no_grad():
        for gain in gains:
            gain.copy_(gains[0])
    objective = type(random)(random.draft, random.verifier, random.teaching)
    backward(objective, Share.of(tiny.batches(objective, [DOCUMENTS[0]], [DOCUMENTS[1]])))
    assert torch.equal(gains[0].grad, gains[1].grad)
    assert torch.equal(gains[0].grad, gains[2].grad)
    assert gains[0].grad.abs().sum() > 0
