"""The golden probe: are the captured states what they claim to be?  Asked before the bulk is paid for.

Most low acceptance comes from states of the wrong layer, of zeros, or of a mixed-up batch, and none of
these shows in a training loss.  A few prompts suffice: their states are compared with a plain
transformers forward, each prompt alone, and the last layer must lead to the tokens that the engine
itself generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from speculators.datagen.capture import CaptureRow, capture_rows
from speculators.datagen.context import CAPTURE_POSITIONS
from speculators.datagen.shards import Document
from speculators.datagen.state_files import drain, read_states, states_path
from speculators.errors import StageError

if TYPE_CHECKING:
    from vllm import LLM

__all__ = [
    "PROMPTS",
    "Reference",
    "capture_probe",
    "greedy_match",
    "layer_matches",
    "problems",
    "references",
    "state_problems",
]

PROMPTS = 8
NEW_TOKENS = 16
GREEDY_SHARE = 0.99


class Tolerance(NamedTuple):
    """``relative``: mean over tokens of |captured - reference| / |reference|.

    ``tie``: the gap of logits up to which two tokens count as equally good.
    """

    relative: float
    tie: float


#: By the engine's dtype: half types round the residual stream after every layer.
TOLERANCES = {
    torch.float32: Tolerance(1e-3, 0.02),
    torch.bfloat16: Tolerance(6e-2, 0.25),
    torch.float16: Tolerance(1e-2, 0.05),
}


class Reference(NamedTuple):
    """One conversation's residual stream by transformers, and the way from its last layer to logits."""

    layers: torch.Tensor  # [N + 1, T, H], entry k after k decoder layers, the last before the final norm
    logits: Callable[[torch.Tensor], torch.Tensor]  # [T, H] -> [T, V]


class LayerMatch(NamedTuple):
    """How far the states called ``layer`` are from that layer, and which layer is nearest to them."""

    layer: int
    error: float
    nearest: int
    nearest_error: float


class GreedyMatch(NamedTuple):
    """Positions where the last state's best token was compared with the engine's own choice."""

    positions: int
    ties: int
    agreeing: int

    @property
    def share(self) -> float:
        """Agreeing over compared positions, ties aside; 0 if there are none."""
        compared = self.positions - self.ties
        return self.agreeing / compared if compared else 0.0


def capture_probe(engine: LLM, rows: Sequence[CaptureRow]) -> list[Document]:
    """States of the rows' prompts, each continued by up to ``NEW_TOKENS`` greedy tokens of the engine.

    The states come from the same prefill as the bulk's, all prompts in one batch.
    """
    from vllm import SamplingParams

    context = engine.model_config.max_model_len - CAPTURE_POSITIONS
    outputs = engine.generate(
        [{"prompt_token_ids": row.prompt_token_ids} for row in rows],
        [
            SamplingParams(
                temperature=0,
                max_tokens=min(NEW_TOKENS, context - len(row.prompt_token_ids)),
                detokenize=False,
            )
            for row in rows
        ],
        use_tqdm=False,
    )
    drain(engine)
    continued = []
    for row, output in zip(rows, outputs, strict=True):
        read_states(states_path(output), row.prompt_token_ids)  # only to remove the file
        continued.append(row._replace(output_token_ids=list(output.outputs[0].token_ids)))
    return capture_rows(engine, continued)


def references(
    model_dir: Path, documents: Sequence[Document], *, trust_remote_code: bool = False
) -> Iterator[Reference]:
    """A transformers forward in float32 of each document alone.

    Raises:
        StageError: the architecture has no final norm where transformers keeps it.
    """
    yield from states_of(reference_model(model_dir, trust_remote_code=trust_remote_code), documents)


def reference_model(model_dir: Path, *, trust_remote_code: bool = False) -> Any:
    """The verifier by transformers, in float32 and not to be trained.

    Raises:
        StageError: the files lack some of its weights, which transformers would fill at random.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    kind = type(transformers.AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code))
    # Of some multimodal families transformers has no language model alone.
    alone = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    whole = not alone and kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = transformers.AutoModelForImageTextToText if whole else transformers.AutoModelForCausalLM
    with silenced():
        model, loaded = auto.from_pretrained(
            model_dir, dtype=torch.float32, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    if missing := sorted(loaded["missing_keys"]):
        raise StageError(
            f"{model_dir}: the files lack {len(missing)} of its weights: {', '.join(missing[:3])}",
            hint="copy or download the verifier again, with all of its weight files",
            rule="probe",
        )
    return model.eval()


@contextmanager
def silenced() -> Iterator[None]:
    """Keep transformers from reporting and drawing on the user's terminal what it loads."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def states_of(model: Any, documents: Sequence[Document]) -> Iterator[Reference]:
    """``references`` of a model that is loaded."""
    decoder = model.get_decoder()
    while not hasattr(decoder, "norm") and hasattr(decoder, "model"):
        decoder = decoder.model  # Llama 4 calls the whole language model its decoder
    norm = getattr(decoder, "norm", None)
    if norm is None:
        raise StageError(f"probe: {type(model).__name__} has no final norm to look before", rule="probe")
    before: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    head = model.get_output_embeddings()
    for document in documents:
        before.clear()
        with torch.inference_mode():
            states = model(document.token_ids[None], output_hidden_states=True).hidden_states
        # transformers' own last entry is after the norm.
        layers = torch.cat([*states[:-1], before[0]])  # [N + 1, T, H]
        yield Reference(layers, lambda last: head(norm(last)))


def layer_matches(
    documents: Sequence[Document], expected: Sequence[Reference], layers: Sequence[int]
) -> list[LayerMatch]:
    """For each captured layer: its distance from the layer it is called, and the nearest layer."""
    errors = torch.cat(
        [
            _relative_errors(document.hidden_states, reference.layers)
            for document, reference in zip(documents, expected)
        ],
        dim=-1,
    ).mean(-1)  # [L, N + 1]
    nearest = errors.argmin(-1)  # [L]
    return [
        LayerMatch(layer, float(errors[row, layer]), int(nearest[row]), float(errors[row, nearest[row]]))
        for row, layer in enumerate(layers)
    ]


def greedy_match(documents: Sequence[Document], expected: Sequence[Reference], tie: float) -> GreedyMatch:
    """Compare argmax(lm_head(norm(last state))) with the tokens that the engine generated."""
    total = GreedyMatch(0, 0, 0)
    for document, reference in zip(documents, expected):
        chosen = document.token_ids[document.prompt_tokens :]  # [G]
        last = document.hidden_states[document.prompt_tokens - 1 : -1, -1].float()  # [G, H]
        with torch.inference_mode():
            logits = reference.logits(last)  # [G, V]
        gap = logits.max(-1).values - logits.gather(-1, chosen[:, None])[:, 0]  # [G]
        total = GreedyMatch(
            total.positions + len(chosen),
            total.ties + int(((gap > 0) & (gap <= tie)).sum()),
            total.agreeing + int((gap == 0).sum()),
        )
    return total


def problems(
    documents: Sequence[Document], matches: Sequence[LayerMatch], greedy: GreedyMatch, tolerance: Tolerance
) -> list[str]:
    """What is wrong with the engine's states of its own tokens, in words with numbers; empty if nothing."""
    found = state_problems(documents, matches, greedy, tolerance)
    if greedy.share < GREEDY_SHARE:
        found.append(
            f"the last state leads to the engine's own token at {greedy.share:.1%} of "
            f"{greedy.positions - greedy.ties} positions, {GREEDY_SHARE:.0%} expected"
        )
    return found


def state_problems(
    documents: Sequence[Document], matches: Sequence[LayerMatch], _: GreedyMatch, tolerance: Tolerance
) -> list[str]:
    """What is wrong with the states themselves: somebody else may have written the tokens."""
    found = []
    for document in documents:
        if not bool(document.hidden_states.isfinite().all()):
            found.append(f"row {document.id}: a state is not finite")
        if bool((document.hidden_states == 0).all(-1).any()):
            found.append(f"row {document.id}: a token's state is zero")
    found += [_wrong_layer(match, tolerance) for match in matches if not match.error <= tolerance.relative]
    return found


def _wrong_layer(match: LayerMatch, tolerance: Tolerance) -> str:
    same = match.nearest != match.layer and match.nearest_error <= tolerance.relative
    verdict = "it equals" if same else "nearest is"
    return (
        f"the states called layer {match.layer} differ from it by {match.error:.2g} "
        f"(tolerance {tolerance.relative:g}): {verdict} layer {match.nearest} ({match.nearest_error:.2g})"
    )


def _relative_errors(captured: torch.Tensor, layers: torch.Tensor) -> torch.Tensor:
    """Distances [L, N + 1, T] of captured states [T, L, H] from every layer of [N + 1, T, H].

    By token, because single tokens carry activations so large that they would drown all others.
    """
    states = captured.float().transpose(0, 1)[:, None]  # [L, 1, T, H]
    return (states - layers).norm(dim=-1) / layers.norm(dim=-1)  # [L, N + 1, T]
