"""Train-time-test of the EAGLE-3 draft, fast: only what a taught guess can depend on is computed.

Equal to ``Eagle3Draft.dense`` in loss and gradient.  What it leaves out, and why it may:

* **Rows.**  Keys of steps k >= 1 are seen by their own row only.  So after step 0 a row can influence
  nothing but its own later guesses, and a row without a supervised guess (a prompt's) is needed for
  one thing: as a key and value of step 0, which takes fc and two projections.  Queries, attention,
  feed-forward and head run at *asked* rows only.  With several layers all but the last one run for
  every row at step 0, since their output is the next layer's key.
* **Embeddings.**  Layer 0 reads [embedding; state] side by side, and a product with the two halves
  of a matrix is the sum of two products.  Row t reads at step k the token that row t + k reads at
  step 0: the embedding's half is computed once a token, and each step picks its rows.  (Where few
  rows are asked, step 0's keys and values of all rows are a product of their own beside it.)
* **Gains.**  A norm's gain in front of a matrix is multiplied into the matrix, once a sequence (see
  ``operators.unit_rms``).  The gain's gradient then comes out of the matrix's, and nothing is
  propagated back to constants: verifier states and embeddings.
* **Copies.**  Keys and values of the steps stay a list; matrices that read the same input are joined.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from speculators.models.attention import attend
from speculators.models.kernels import Kernel, kernel_for
from speculators.models.layout import Layout
from speculators.models.operators import feed_forward, inverse_rms, joined, normed, turned, unit_rms
from speculators.models.rope import Rope

if TYPE_CHECKING:
    from speculators.models.eagle3 import DecoderLayer, Eagle3Draft


class Choice(NamedTuple):
    """N asked rows of S, and where they find their embeddings."""

    rows: torch.Tensor  # [N] int64, ascending
    table: torch.Tensor  # [E] int64, ascending: the places of ``Plan.read`` that they read at some step
    places: torch.Tensor  # [K, N] int64: where in ``table`` a row's read of a step lies


class Plan(NamedTuple):
    """Which rows of a packed sequence of S tokens are asked; made in the loader."""

    steps: int  # K
    read: torch.Tensor  # [S + K - 1] int64: at step k row t reads token read[t + k] of the sequence
    positions: torch.Tensor  # [S] int64, of step 0
    everything: Layout  # of all rows
    asked: Layout  # of the asked rows
    choice: Choice | None  # None where all rows are asked


class Precision(NamedTuple):
    """How a draft is unrolled.  Parameters and the residual stream keep their own dtype."""

    dtype: torch.dtype | None = None  # of matrix products and attention; None for the parameters' own
    checkpointing: bool = False  # compute each layer again in the backward pass instead of keeping it

    def products(self, device: torch.device) -> AbstractContextManager[object]:
        """Within the block, matrix products of models in plain torch have this dtype."""
        halves = self.dtype not in (None, torch.float32, torch.float64)
        context: AbstractContextManager[object] = (
            torch.autocast(device.type, self.dtype) if halves else nullcontext()
        )
        return context

    def run(self, layer: Callable[..., Any], *inputs: Any) -> Any:
        """``layer(*inputs)``, kept for the backward pass or not; ``layer`` must change none of its inputs."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


FULL_PRECISION = Precision()


class Joined(NamedTuple):
    """A layer's matrices as the unrolled draft multiplies by them; P = (Hq + 2 Hkv) D."""

    state: torch.Tensor  # [P, H]
    output: torch.Tensor  # [H, Hq D]
    gate_up: torch.Tensor  # [2I, H]
    down: torch.Tensor  # [H, I]

    @classmethod
    def of(cls, layer: DecoderLayer, width: int, dtype: torch.dtype) -> Joined:
        """Of a layer whose hidden size is ``width``."""
        mlp, gain = layer.mlp, layer.post_attention_layernorm.weight
        return cls(
            state=projections(layer, slice(-width, None), layer.state_norm.weight, dtype),
            output=layer.self_attn.o_proj.weight.to(dtype),
            gate_up=joined(dtype, gain, [mlp.gate_proj.weight, mlp.up_proj.weight]),
            down=mlp.down_proj.weight.to(dtype),
        )


def projections(layer: DecoderLayer, columns: slice, gain: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The matrices of queries, keys and values on top of each other, some columns of them: [P, columns]."""
    attention = layer.self_attn
    matrices = (attention.q_proj, attention.k_proj, attention.v_proj)
    return joined(dtype, gain, [matrix.weight[:, columns] for matrix in matrices])


class Stream(NamedTuple):
    """What layer 0 reads at a step, [rows, H]."""

    hidden: torch.Tensor  # the residual stream
    unit: torch.Tensor  # its rows over their RMS, in the dtype of products


class Unroll:
    """One pass over a packed sequence: joined matrices, angles, and each layer's keys and values so far."""

    def __init__(self, draft: Eagle3Draft, plan: Plan, precision: Precision) -> None:
        self.draft, self.plan, self.config = draft, plan, draft.config
        self.stream = draft.fc.weight.dtype
        self.dtype = precision.dtype or self.stream
        self.precision = precision
        self.kernel: Kernel = kernel_for(draft.fc.weight.device, self.dtype, self.config.head_dim)
        first, width = draft.layers[0], self.config.hidden_size
        #: The gain of a residual stream that layer 0 reads normed.
        self.entry = [(first.state_norm.weight, self.stream)] if first.residual_is_normed else []
        self.layers = [Joined.of(layer, width, self.dtype) for layer in draft.layers]
        # [P, H], the half of layer 0 that reads embeddings
        self.embedding = projections(first, slice(width), first.input_layernorm.weight, self.dtype)
        self.past: list[list[torch.Tensor]] = [[] for _ in draft.layers]
        asked = plan.positions if plan.choice is None else plan.positions[plan.choice.rows]  # [N]
        rope: Rope = first.self_attn.rope
        self.angles = [rope.tables(asked + step, self.dtype) for step in range(plan.steps)]
        self.all_angles = self.angles[0] if plan.choice is None else rope.tables(plan.positions, self.dtype)

    def run(self, states: torch.Tensor, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """The normed state of every step at the asked rows, K x [N, H].

        ``states`` [S, A, H] of the verifier and ``embeddings`` [S + K - 1, H] of the tokens that
        ``plan.read`` names are constants.
        """
        (hidden, unit), finals = self.entered(self.combine(states)), []  # [S, H]
        with torch.no_grad():
            units = (embeddings * inverse_rms(embeddings, self.config.rms_norm_eps)).to(self.dtype)
        chosen = units if self.plan.choice is None else units[self.plan.choice.table]
        said = functional.linear(chosen, self.embedding)  # [E, P]
        for step in range(self.plan.steps):
            for index, past in enumerate(self.past):
                if index:
                    unit = unit_rms(hidden, self.config.rms_norm_eps, self.dtype)
                hidden, made = self.precision.run(self.layer, index, step, hidden, unit, said, units, *past)
                past.append(made)
            final, (hidden, unit) = self.left(hidden)
            finals.append(final)  # [N, H]
        return finals

    def entered(self, hidden: torch.Tensor) -> Stream:
        """The stream [rows, H] as layer 0 reads it."""
        unit, *residual = normed(hidden, self.config.rms_norm_eps, self.dtype, *self.entry)
        return Stream(residual[0] if residual else hidden, unit)

    def left(self, hidden: torch.Tensor) -> tuple[torch.Tensor, Stream]:
        """The stream [N, H] behind the last layer, as the head reads it and as the next step does."""
        eps, gain = self.config.rms_norm_eps, self.draft.norm.weight
        if self.config.norm_output:
            _, final = normed(hidden, eps, self.dtype, (gain, self.stream))
            return final.to(self.dtype), self.entered(final)
        unit, final, *residual = normed(hidden, eps, self.dtype, (gain, self.dtype), *self.entry)
        return final, Stream(residual[0] if residual else hidden, unit)

    def combine(self, states: torch.Tensor) -> torch.Tensor:
        """Verifier states [S, A, H] -> the draft's state of step 0, [S, H]."""
        draft, eps, matrix = self.draft, self.config.rms_norm_eps, self.draft.fc.weight  # [H, A*H]
        if self.config.norm_before_fc:
            # A row's scale goes behind the product: the states are read where they are, without a copy.
            aux = states.flatten(1)  # [S, A*H]
            with torch.no_grad():
                inverse = inverse_rms(aux, eps)  # [S, 1]
            matrix = (matrix * draft.input_norm.weight).to(self.dtype)
            return functional.linear(aux.to(self.dtype), matrix).to(self.stream) * inverse
        if self.config.fc_norm:
            with torch.no_grad():
                states = states * inverse_rms(states, eps)
            matrix = matrix * torch.cat([norm.weight for norm in draft.fc_norm])
        aux = states.flatten(1).to(self.dtype)
        return functional.linear(aux, matrix.to(self.dtype)).to(self.stream)

    def layer(
        self,
        index: int,
        step: int,
        hidden: torch.Tensor,
        unit: torch.Tensor,
        said: torch.Tensor,
        units: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer at one step: its output, and its keys and values [rows, 2 Hkv, D].

        ``hidden`` and ``unit`` (see ``Stream``) are all S rows at step 0 and the N asked ones later; the
        last layer leaves asked rows.  ``said`` [E, P] are the embeddings' shares of layer 0's
        projections, ``units`` the embeddings themselves, for the rows that have no share there.
        """
        matrices, choice = self.layers[index], self.plan.choice
        if choice is not None and step == 0 and index == len(self.layers) - 1:
            queries, made = self.project_narrowing(choice, unit, said, units)
            hidden, layout = hidden[choice.rows], self.plan.asked  # [N, H]
        else:
            queries, made = self.project(index, step, unit, said, units)
            layout = self.plan.asked if step else self.plan.everything
        if self.config.sliding_window is not None:
            # Row t drafts from position t + step; the past it may still see is that much shorter.
            layout = layout._replace(window=self.config.sliding_window - step)
        keys_values = [*past, made]
        mixed = attend(self.kernel, layout, queries, keys_values[0], keys_values[1:])  # [rows, Hq, D]
        hidden = hidden + functional.linear(mixed.flatten(1), matrices.output)
        unit = unit_rms(hidden, self.config.rms_norm_eps, self.dtype)
        return hidden + feed_forward(unit, matrices.gate_up, matrices.down), made

    def project(
        self, index: int, step: int, unit: torch.Tensor, said: torch.Tensor, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries [rows, Hq, D], and keys and values [rows, 2 Hkv, D], of the same rows."""
        matrices, choice, share = self.layers[index], self.plan.choice, None
        if index == 0:
            if choice is None:
                share = said[step : step + len(unit)]
            elif step:
                share = said[choice.places[step]]
            else:
                share = functional.linear(units[: len(unit)], self.embedding)
        angles = self.angles[step] if step else self.all_angles
        return turned(product(unit, matrices.state, share), *angles, self.config.num_attention_heads)

    def project_narrowing(
        self, choice: Choice, unit: torch.Tensor, said: torch.Tensor, units: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Step 0 of the last layer: queries of the asked rows, keys and values of all."""
        matrices, heads = self.layers[-1], self.config.num_attention_heads
        width = heads * self.config.head_dim
        by_query = by_key = None
        if len(self.layers) == 1:
            by_query = said[:, :width][choice.places[0]]  # [N, Hq D]
            by_key = functional.linear(units[: len(unit)], self.embedding[width:])  # [S, 2 Hkv D]
        _, made = turned(product(unit, matrices.state[width:], by_key), *self.all_angles, 0)
        queries, _ = turned(
            product(unit[choice.rows], matrices.state[:width], by_query), *self.angles[0], heads
        )
        return queries, made


def product(x: torch.Tensor, matrix: torch.Tensor, share: torch.Tensor | None) -> torch.Tensor:
    """x [rows, H] times matrix [P, H] transposed, plus ``share`` [rows, P] if there is one."""
    return functional.linear(x, matrix) if share is None else torch.addmm(share, x, matrix.T)
