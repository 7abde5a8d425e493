"""What a full-size training step multiplies and holds, from shapes alone and without torch.

A step's cost is decided before a machine is rented: ``speculators plan`` prints it.  The formulas are of
EAGLE-3 with one layer as ``models.unroll`` runs it, weights and optimiser in float32 and products in
bfloat16; ``tests/reference/test_full_size.py`` holds them against an account of every operation and
storage of real steps under torch's FakeTensorMode.

Names as in ``training.asked``: S tokens, N asked rows, M taught tokens, K steps; H hidden, I intermediate
and Vd draft vocabulary size, A auxiliary layers, Q = Hq D and W = 2 Hkv D the widths of queries and of
keys with values.
"""

from __future__ import annotations

from typing import NamedTuple

from speculators.checkpoint.eagle3 import Eagle3Config

HALF, SINGLE = 2, 4  # bytes of bfloat16 and float32
#: Forward, and backward for the input and for the matrix; two where the input is a constant.
LEARNED, ON_CONSTANTS = 3, 2
MOMENTS = 2  # of AdamW
#: As large as a matrix while AdamW updates it (torch's ``_single_tensor_adam``): root and quotient, and the
#: denominator of the matrix before.
UPDATE_COPIES = 3
GPU_CHUNK_BYTES = 2**27  # of logits that the loss computes at once, in float32
#: Tensors as large as a chunk that the loss holds: logits, distributions, gradient, copies in bfloat16.
CHUNK_COPIES = 4


class Rows(NamedTuple):
    """Sizes of one packed sequence."""

    tokens: int  # S
    asked: int  # N, as many as there are tokens where all rows run
    taught: int  # M
    read: int  # embeddings whose share of the projections is computed for the asked rows
    steps: int  # K

    @classmethod
    def of(cls, tokens: int, supervised: float, steps: int) -> Rows:
        """Of long documents, in which ``supervised`` of the tokens are taught."""
        taught = round(tokens * supervised)
        return cls(tokens, taught, taught, min(tokens, taught) + steps - 1, steps)

    @property
    def dense(self) -> bool:
        return self.asked == self.tokens


class Memory(NamedTuple):
    """Bytes of a device: before a step, and at its most."""

    resting: int
    peak: int


def operations(shape: Eagle3Config, rows: Rows) -> int:
    """Floating-point operations in products with weights, forward and backward; attention's are left out."""
    hidden, query, keys = _widths(shape)
    tokens, asked, taught, read, steps = rows
    projected = query + keys
    fc = ON_CONSTANTS * tokens * len(shape.aux_layers) * hidden * hidden
    embeddings = ON_CONSTANTS * read * hidden * projected
    states = LEARNED * (steps - 1) * asked * hidden * projected
    if rows.dense:
        states += LEARNED * tokens * hidden * projected
    else:
        embeddings += ON_CONSTANTS * tokens * hidden * keys
        states += LEARNED * hidden * (tokens * keys + asked * query)
    mixed = LEARNED * steps * asked * (query * hidden + 3 * hidden * shape.intermediate_size)
    # The verifier's opinion once; of each guess the logits and the gradient of the state, never of the head.
    head = (1 + 2 * steps) * taught * hidden * shape.draft_vocab_size
    return 2 * (fc + embeddings + states + mixed + head)


def memory(shape: Eagle3Config, rows: Rows, *, several: bool = False) -> Memory:
    """Of one step; an allocator's rounding comes on top, and what several devices exchange.

    ``several``: sequences a step.  All but the first find the gradients of the one before, however many
    there are; on several devices gradients lie in buffers that stay.
    """
    hidden, parameters = shape.hidden_size, _parameters(shape)
    ends = (shape.vocab_size + shape.draft_vocab_size) * hidden * HALF
    batch = rows.tokens * (len(shape.aux_layers) + 1) * hidden * HALF
    resting = ends + batch + (1 + MOMENTS) * parameters * SINGLE
    loss = CHUNK_COPIES * GPU_CHUNK_BYTES + HALF * rows.steps * rows.asked * hidden  # and what the head reads
    most = max(loss, _feed_forward(shape, rows), _adding_up(shape, rows))
    before = parameters * SINGLE if several else 0
    return Memory(resting, resting + max(before + _kept(shape, rows) + most, _updating(shape)))


def _kept(shape: Eagle3Config, rows: Rows) -> int:
    """What the forward pass keeps for the backward one, with the gradients of what the head reads."""
    hidden, query, keys = _widths(shape)
    tokens, asked, _, read, steps = rows
    matrices = (query + keys) * 2 * hidden + query * hidden + 3 * shape.intermediate_size * hidden
    constants = (tokens + steps - 1) * hidden
    if shape.fc_norm:
        constants += tokens * len(shape.aux_layers) * hidden  # the batch's states, normed
    if not rows.dense:
        constants += (read + asked) * hidden  # the embeddings and states of some rows, apart
    each = asked * (2 * query + 2 * hidden + 2 * shape.intermediate_size)  # attention, norms, feed-forward
    past = (tokens + (steps - 1) * asked) * keys
    heads = steps * asked * hidden
    return HALF * (matrices + constants + tokens * hidden + steps * each + past + heads)


def _feed_forward(shape: Eagle3Config, rows: Rows) -> int:
    """What the backward pass of the last step's feed-forward makes while all is kept."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    stream = rows.asked * hidden * (SINGLE + HALF)  # the gradient behind the block, and within it
    return stream + HALF * (3 * rows.asked * inner + 3 * inner * hidden)


def _adding_up(shape: Eagle3Config, rows: Rows) -> int:
    """Where the step before adds its gradients of the matrices: two terms and their sum, two steps'
    feed-forwards no longer kept.  The most where few rows are asked."""
    if rows.steps == 1:
        return 0
    (hidden, query, keys), inner = _widths(shape), shape.intermediate_size
    matrices = hidden * (2 * query + keys) + 8 * inner * hidden
    return HALF * (matrices - 4 * rows.asked * inner)


def _updating(shape: Eagle3Config) -> int:
    """The update: every gradient, and what AdamW makes of its largest matrix.  The most of a large draft
    that few rows are asked of."""
    hidden = shape.hidden_size
    largest = hidden * max(shape.intermediate_size, len(shape.aux_layers) * hidden)
    return SINGLE * (_parameters(shape) + UPDATE_COPIES * largest)


def _widths(shape: Eagle3Config) -> tuple[int, int, int]:
    """H, Q and W."""
    query, keys = (heads * shape.head_dim for heads in (shape.num_attention_heads, shape.num_key_value_heads))
    return shape.hidden_size, query, 2 * keys


def _parameters(shape: Eagle3Config) -> int:
    """Of the matrices; gains are thousands."""
    hidden, query, keys = _widths(shape)
    first = 2 * hidden * (query + keys) + query * hidden
    return hidden * (hidden * len(shape.aux_layers) + 3 * shape.intermediate_size) + first
