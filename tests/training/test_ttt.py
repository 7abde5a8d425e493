"""Train-time-test against an independent simulation of how vLLM drafts, token by token."""

from __future__ import annotations

import math

import pytest
import torch

from speculators.checkpoint.shape import Eagle3Config
from speculators.models.eagle3 import Eagle3Draft
from speculators.training.packing import pack
from speculators.training.rows import supervised_rows, target_tokens
from speculators.training.ttt import target_logits, unroll
from tests.models import tiny

STEPS = 4
SHAPES = {
    "default": {},
    "norm before residual, norm output": {"norm_before_residual": True, "norm_output": True},
    "one norm for each aux state": {"norm_before_fc": False, "fc_norm": True},
    "no norm before fc": {"norm_before_fc": False},
    "two layers": {"layers": 2, "norm_output": True},
    "three layers": {"layers": 3, "norm_before_residual": True},
    "one key-value head": {"num_key_value_heads": 1},
}


class ServedDraft:
    """One request's draft as an engine runs it: a key-value cache that grows by one row at a time.

    Written after vLLM's module (fused residual and norm, states fed back) and from the stored
    tensors alone; shares no code with the model under test.
    """

    def __init__(self, config: Eagle3Config, tensors: dict[str, torch.Tensor]) -> None:
        self.config, self.tensors = config, tensors
        self.cache: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(config.layers)]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean_square = (x @ x) / len(x)
        return x / torch.sqrt(mean_square + self.config.rms_norm_eps) * self.tensors[f"{name}.weight"]

    def combine(self, aux: torch.Tensor) -> torch.Tensor:
        if self.config.norm_before_fc:
            aux = self.norm("input_norm", aux)
        if self.config.fc_norm:
            parts = aux.split(self.config.hidden_size)
            aux = torch.cat([self.norm(f"fc_norm.{index}", part) for index, part in enumerate(parts)])
        return self.tensors["fc.weight"] @ aux

    def rope(self, heads: torch.Tensor, position: int) -> torch.Tensor:
        half = self.config.head_dim // 2
        angles = torch.tensor([position / self.config.rope_theta ** (i / half) for i in range(half)])
        turned = torch.complex(heads[:, :half], heads[:, half:]) * torch.polar(torch.ones(half), angles)
        return torch.cat([turned.real, turned.imag], dim=-1)

    def attention(self, layer: int, x: torch.Tensor, position: int) -> torch.Tensor:
        config, dim = self.config, self.config.head_dim
        q, k, v = (
            (self.tensors[f"layers.{layer}.self_attn.{name}_proj.weight"] @ x).view(-1, dim) for name in "qkv"
        )
        q, k = self.rope(q, position), self.rope(k, position)
        self.cache[layer].append((k, v))
        mixed = []
        for head in range(config.num_attention_heads):
            shared = head // (config.num_attention_heads // config.num_key_value_heads)
            scores = torch.stack([q[head] @ key[shared] / math.sqrt(dim) for key, _ in self.cache[layer]])
            values = torch.stack([value[shared] for _, value in self.cache[layer]])
            mixed.append(scores.softmax(0) @ values)
        return self.tensors[f"layers.{layer}.self_attn.o_proj.weight"] @ torch.cat(mixed)

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        gate, up, down = (
            self.tensors[f"layers.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        gated = gate @ x
        return down @ (gated / (1 + torch.exp(-gated)) * (up @ x))

    def feed(
        self, hidden: torch.Tensor, embedding: torch.Tensor, position: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = torch.zeros_like(hidden)
        for layer in range(self.config.layers):
            name = f"layers.{layer}"
            if layer == 0:
                residual = hidden
                normed = self.norm(f"{name}.hidden_norm", hidden)
                if self.config.norm_before_residual:
                    residual = normed
                hidden = torch.cat([self.norm(f"{name}.input_layernorm", embedding), normed])
            else:
                residual = hidden + residual
                hidden = self.norm(f"{name}.input_layernorm", residual)
            residual = residual + self.attention(layer, hidden, position)
            hidden = self.mlp(layer, self.norm(f"{name}.post_attention_layernorm", residual))
        residual = hidden + residual
        normed = self.norm("norm", residual)
        return (normed if self.config.norm_output else residual), normed


@torch.no_grad()
def serve(model: Eagle3Draft, verifier, document, row: int) -> list[torch.Tensor]:
    """The logits of each of STEPS drafts from ``row``, true tokens fed; as many as the document knows."""
    served = ServedDraft(model.config, dict(model.state_dict()))
    aux = document.hidden_states[:, :-1].double().flatten(1)
    tokens = document.token_ids
    for position in range(row + 1):  # prefill: rows with the verifier's own states
        state, normed = served.feed(
            served.combine(aux[position]), verifier.embedding[tokens[position + 1]], position
        )
    logits = [verifier.draft_head @ normed]
    for step in range(1, min(STEPS, len(tokens) - row - 2)):  # then its own states
        state, normed = served.feed(state, verifier.embedding[tokens[row + 1 + step]], row + step)
        logits.append(verifier.draft_head @ normed)
    return logits


@pytest.fixture(autouse=True)
def exact():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_train_time_test_equals_drafting_token_by_token(changes) -> None:
    model, verifier = tiny.draft(tiny.config(**changes)), tiny.frozen()
    documents = [tiny.document(9, 4, seed=1), tiny.document(7, 3, seed=2)]
    sequence = pack(documents, torch.float64)
    served: dict[tuple[int, int], list[torch.Tensor]] = {}
    asked = 0
    for step, normed in enumerate(unroll(model, verifier, sequence, STEPS)):
        for row in supervised_rows(sequence, step).tolist():
            owner = int(sequence.document_ids[row])
            local = row - sequence.documents[owner][0]
            if (owner, local) not in served:
                served[owner, local] = serve(model, verifier, documents[owner], local)
            logits = verifier.draft_head @ normed[row]
            torch.testing.assert_close(logits, served[owner, local][step], rtol=1e-9, atol=1e-9)
            asked += 1
    assert asked == sum(len(supervised_rows(sequence, step)) for step in range(STEPS)) > 20


def said(model: Eagle3Draft, documents) -> list[torch.Tensor]:
    """The normed states of each step at its supervised rows."""
    sequence = pack(documents, torch.float64)
    states = unroll(model, tiny.frozen(), sequence, STEPS)
    return [normed[supervised_rows(sequence, step)] for step, normed in enumerate(states)]


def test_documents_do_not_see_each_other() -> None:
    model = tiny.draft(tiny.config(layers=2))
    documents = [tiny.document(8, 3, seed=1), tiny.document(11, 5, seed=2), tiny.document(6, 2, seed=3)]
    alone = [said(model, [one]) for one in documents]
    for step, packed in enumerate(said(model, documents)):
        torch.testing.assert_close(packed, torch.cat([one[step] for one in alone]))


def test_gradients_of_packed_documents_add_up() -> None:
    documents = [tiny.document(8, 3, seed=1), tiny.document(11, 5, seed=2)]

    def gradient(groups) -> torch.Tensor:
        model = tiny.draft()
        for group in groups:
            sum(states.square().sum() for states in said(model, group)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    torch.testing.assert_close(gradient([documents]), gradient([[one] for one in documents]))


def test_supervised_rows_guess_generated_tokens_of_their_own_document() -> None:
    # tokens 0..6 and 7..11; generation starts at 4 and at 7 + 1
    sequence = pack([tiny.document(7, 4, seed=1), tiny.document(5, 1, seed=2)])
    assert supervised_rows(sequence, 0).tolist() == [2, 3, 4, 7, 8, 9]  # tokens 4, 5, 6, then 9, 10, 11
    assert supervised_rows(sequence, 2).tolist() == [0, 1, 2, 7]
    assert supervised_rows(sequence, 5).tolist() == []


def test_a_document_that_is_over_before_the_step_has_no_rows() -> None:
    batch = tiny.objective(tiny.draft(), STEPS).batch(pack([tiny.document(3, 1, seed=1)]), torch.Generator())
    assert batch.supervised == (1, 0, 0, 0)
    assert [len(step.rows) for step in batch.rows.steps] == [1, 0, 0, 0]


def test_targets_are_the_verifiers_opinion_on_the_same_token() -> None:
    objective = tiny.objective(tiny.draft(), STEPS)
    verifier = objective.verifier
    sequence = pack([tiny.document(9, 3, seed=4), tiny.document(8, 2, seed=5)], torch.float64)
    batch = objective.batch(sequence, torch.Generator())
    targets, tokens = target_logits(verifier, batch), target_tokens(verifier, sequence)
    last = sequence.hidden_states[:, -1]
    ends = verifier.ends
    normed = last / (last.square().mean(-1, keepdim=True) + ends.norm_eps).sqrt() * ends.final_norm
    logits = normed @ ends.head.T  # [S, V]
    for step in batch.rows.steps:
        for row, judge, guessed in zip(step.rows.tolist(), step.judges.tolist(), step.guessed.tolist()):
            assert guessed == row + 2 + step.step
            torch.testing.assert_close(targets[judge], logits[judge, verifier.draft_ids])
            assert tokens[guessed] == logits[judge].argmax()
    assert (tokens[~sequence.supervised] == -1).all()
