"""What acceptance the draft should be served with, predicted without serving it.

The plain arm's own tokens are captured once and greedy drafting is replayed on them in plain PyTorch.
Beside the served figure this splits the blame: both low means data or training, predicted high and
served low means export, configuration or engine.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from speculators.benchmark.acceptance import acceptance
from speculators.benchmark.checks import PREDICTION_TOLERANCE
from speculators.benchmark.ngram import look_up
from speculators.benchmark.rounds import PLAIN, Launch
from speculators.checkpoint.config import from_document
from speculators.datagen.capture import CaptureRow, capture_documents
from speculators.documents import read_json, read_jsonl, write_json
from speculators.errors import SpeculatorsError, StageError
from speculators.inspection.probe import Texts
from speculators.inspection.probing import neighbouring_layers, probe_draft
from speculators.inspection.replay import replay_checkpoint
from speculators.serving.command import FREE_METHODS
from speculators.stages.benchmark_round import TOKENS_NAME
from speculators.stages.documents import OUTPUT_NAME, StageInput

RESULT_NAME = "replay.json"
TOKENS = Path(Launch(1, PLAIN).folder) / "client" / TOKENS_NAME


def run(step: StageInput) -> dict[str, Any]:
    """Replay the draft on the plain arm's outputs of round 1.

    Raises:
        StageError: the states could not be captured.
    """
    from transformers import AutoTokenizer

    model = step.inputs["package"] / "model"
    config = read_json(model / "config.json")
    try:
        aux_layers = from_document(config).aux_layers
    except StageError as error:  # the served figures stand without a prediction
        result: dict[str, Any] = {"not_predicted": error.message}
        write_json(step.output / RESULT_NAME, result)
        return result
    speculative_tokens = read_json(step.inputs["benchmark"] / OUTPUT_NAME)["result"]["speculation"]["tokens"]
    verifier = step.inputs["verifier"] / "model"
    known = step.result_of("verifier")
    depth, trusted = known["facts"]["num_hidden_layers"], known["trust_remote_code"]
    layers = [*aux_layers, depth]
    rows = [_row(row) for row in read_jsonl(step.inputs["benchmark"] / TOKENS) if row["output_token_ids"]]
    print(f"replaying greedy drafting on {len(rows)} outputs of the plain arm")
    step.work.mkdir()
    args = step.values["engine"]["args"]
    scratch = step.work / "states"
    documents = list(capture_documents(verifier, rows, layers, args, scratch, trust_remote_code=trusted))
    tokenizer = AutoTokenizer.from_pretrained(verifier, trust_remote_code=trusted)
    # As they are: a report that hid the template's own tokens would show another text than was drafted.
    decode = partial(tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    result = replay_checkpoint(model, verifier, documents, speculative_tokens, decode)
    result |= attempted(
        "ngram", "not_looked_up", lambda: looked_up(step, speculative_tokens, args.get("max_model_len"))
    )
    write_json(step.output / RESULT_NAME, result)  # whatever comes of a probe, the prediction stands
    print(f"predicted acceptance length {result['all']['acceptance_length']}")
    found = acceptance(read_json(step.inputs["benchmark"] / OUTPUT_NAME)["result"], result)
    if differs(found):
        print("served and predicted acceptance differ: probing which half is wrong")

        def probe() -> dict[str, Any]:
            near = neighbouring_layers(config, depth)
            place = step.work / "near"
            captured = capture_documents(verifier, rows, near, args, place, trust_remote_code=trusted)
            texts = Texts(list(captured), tuple(near))
            return probe_draft(model, verifier, texts, found["served"], speculative_tokens).document()

        result |= attempted("probe", "not_probed", probe)
    write_json(step.output / RESULT_NAME, result)
    return result


def attempted(name: str, without: str, work: Callable[[], Any]) -> dict[str, Any]:
    """What comes of ``work`` as ``name``, or as ``without`` why nothing came of it.

    Whatever goes wrong: beside the prediction these are extras, and a report names what is missing.
    """
    try:
        return {name: work()}
    except SpeculatorsError as error:
        return {without: error.message}
    except Exception as error:
        traceback.print_exc()
        return {without: f"not computed: {type(error).__name__}: {error}"}


def differs(figures: Mapping[str, Any]) -> bool:
    """Whether served and predicted acceptance are further apart than one explanation allows."""
    difference = figures["difference"]
    return difference is not None and abs(difference) > PREDICTION_TOLERANCE


def looked_up(step: StageInput, speculative_tokens: int, context: int | None) -> dict[str, Any]:
    """What prompt lookup proposes on the plain arm's tokens, by prompt."""
    found = {}
    for row in read_jsonl(step.inputs["benchmark"] / TOKENS):
        prompt, output = row["prompt_token_ids"], row["output_token_ids"]
        counts = look_up(prompt, output, FREE_METHODS["ngram"], speculative_tokens, context)
        digest = hashlib.sha256(row["text"].encode()).hexdigest()
        found[row["id"]] = {**counts._asdict(), "text_sha256": digest}
    return found


def _row(row: dict[str, Any]) -> CaptureRow:
    """A row of ``tokens.jsonl`` as the capture takes it."""
    return CaptureRow(
        id=row["id"],
        group=row["id"],
        split="benchmark",
        looping=row["looping"],
        prompt_token_ids=row["prompt_token_ids"],
        output_token_ids=row["output_token_ids"],
    )
