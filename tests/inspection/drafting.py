"""A program: train a small draft of each kind, serve each with the real engine, leave what both say.

One process for all kinds, because an engine's imports take longer than its work here.  Per kind it
leaves what our own model proposes and predicts, every draft that vLLM made, and vLLM's counters.

    python -m tests.inspection.drafting FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from speculators.checkpoint.config import VerifierName, localised, to_document
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.verifier_weights import load_verifier_weights
from speculators.checkpoint.vocabulary import select_draft_ids, token_frequencies
from speculators.convert.mtp import stitch
from speculators.convert.run import Request, convert
from speculators.datagen.probe import references
from speculators.datagen.shards import Document
from speculators.datagen.verifier import facts
from speculators.documents import write_json
from speculators.inspection.replay import replay
from speculators.serving.command import Speculation
from speculators.serving.offline import offline_engine
from speculators.stages.training import training_options
from speculators.training import chunked
from speculators.training.acceptance import pool
from speculators.training.architectures import ARCHITECTURES
from speculators.training.loop import train
from speculators.training.objective import Objective, Teaching
from speculators.training.packing import pack
from speculators.training.resume import Checkpoints
from speculators.training.validation import prepare
from speculators.training.verifier import FrozenVerifier
from tests.convert.native import drafted, write_native
from tests.convert.serving import LAYOUTS
from tests.models.words import ENGINE_ARGS, WORDS, write_words_model

POSITIONS = 3
LAYERS = (1, 2, 3)
STATES = {"aux_layers": list(LAYERS), "draft_vocabulary": 40}
#: Two layers where an architecture may have several; HASS is served as EAGLE is.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "eagle3": {
        **STATES, "layers": 2, "norm_before_residual": True, "norm_before_fc": False, "fc_norm": True,
        "norm_output": True,
    },
    "peagle": {
        **STATES, "layers": 2, "norm_before_residual": False, "norm_before_fc": True, "mask_token_id": 3,
    },
    "dflash": {**STATES, "layers": 2, "mask_token_id": 3, "anchors": None},
    "hass": {"layers": 2},
}  # fmt: skip
TRAINING = {
    "sequence_length": 256, "sequences_per_step": 1, "epochs": 12, "learning_rate": 0.01, "weight_decay": 0.0,
    "warmup_fraction": 0.05, "gradient_clip": 1.0, "step_decay": 1.0, "ttt_steps": None, "seed": 0,
    "optimizer": "adamw", "schedule": "cosine", "validations_per_epoch": 1, "early_stop": None,
}  # fmt: skip
PROMPTS, SERVED = 24, 8  # answers that are learned, and those of them that are drafted
TOKENS = 32
#: Logits of about 1 that are no further apart may fall either way: float32 rounds their sums by as much.
TIE = 1e-5
CONVERTED = 3  # answers that converted checkpoints draft


class Drafted(NamedTuple):
    """One proposal of the engine: the row it drafts from and the tokens it says."""

    row: int
    tokens: list[int]


def answer(folder: Path) -> list[Document]:
    """The verifier's own greedy answers to all prompts, with the states of every layer, by transformers."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    answers = []
    for number in range(PROMPTS):
        prompt = torch.randint(4, 4 + len(WORDS), (1, 4 + number % 5), generator=generator)
        tokens = model.generate(
            prompt, do_sample=False, max_new_tokens=TOKENS, eos_token_id=None, pad_token_id=0
        )
        answers.append(
            Document(f"p{number}", "g", "train", False, prompt.shape[1], tokens[0], torch.empty(0))
        )
    states = [reference.layers.transpose(0, 1) for reference in references(folder, answers)]  # [T, N + 1, H]
    return [one._replace(hidden_states=layers) for one, layers in zip(answers, states)]


def reading(document: Document, layers: Sequence[int]) -> Document:
    """The document with the states that a draft of ``layers`` reads."""
    return document._replace(hidden_states=document.hidden_states[:, [*layers, -1]])


def make_draft(
    kind: str,
    verifier_dir: Path,
    documents: Sequence[Document],
    folder: Path,
    shape: Mapping[str, Any] | None = None,
    **training: Any,
) -> None:
    """Train a draft of ``kind`` and leave its checkpoint in ``folder / "model"``."""
    algorithm = {"kind": kind, "speculative_tokens": POSITIONS, **(shape or ALGORITHMS[kind])}
    architecture = ARCHITECTURES[kind]
    config = architecture.format.config.for_verifier(facts(verifier_dir, trust_remote_code=False), algorithm)
    weights = load_verifier_weights(verifier_dir)
    ids = select_draft_ids(token_frequencies(documents, config.vocab_size), config.draft_vocab_size)
    verifier = FrozenVerifier.of(weights, ids)
    options = training_options({"algorithm": algorithm, "training": {**TRAINING, **training}})
    torch.manual_seed(0)
    model, objective_of, _ = architecture.load()
    objective = objective_of(model(config), verifier, options.teaching)
    read = [reading(document, config.aux_layers) for document in documents]
    folder.mkdir()
    held_out = prepare(verifier, read[:4], options.sequence_length)
    train(objective, read, held_out, options, folder, Checkpoints(folder / "work"))
    tensors = assemble(objective.draft.state_dict(), ids, weights, architecture.format.copies)
    name = VerifierName("local:words", "0" * 64, "LlamaForCausalLM")
    write_checkpoint(folder / "model", localised(to_document(config, POSITIONS, name), verifier_dir), tensors)


@contextmanager
def watched(engine: Any) -> Iterator[list[Drafted]]:
    """Every draft that ``engine`` makes while it works on one request at a time."""
    core = engine.llm_engine.engine_core.engine_core
    drafter = core.model_executor.driver_worker.worker.model_runner.drafter
    propose, drafted = drafter.propose, []

    def noted(*args: Any, **kwargs: Any) -> Any:
        tokens = propose(*args, **kwargs)
        rejected = kwargs.get("num_rejected_tokens_gpu")
        last = -1 - (int(rejected[0]) if rejected is not None else 0)
        drafted.append(Drafted(int(kwargs["target_positions"][last]), tokens[0].tolist()))
        return tokens

    drafter.propose = noted
    yield drafted


def serve(
    verifier_dir: Path, documents: Sequence[Document], speculation: Mapping[str, Any]
) -> dict[str, Any]:
    """Let the engine answer the documents' prompts with a draft, one after the other.

    ``speculation``: the engine's ``speculative_config``.
    """
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    rows = []
    arguments = {**ENGINE_ARGS, "max_num_seqs": 1}
    with (
        offline_engine(
            verifier_dir, arguments, seed=0, speculative_config=dict(speculation), disable_log_stats=False
        ) as engine,
        watched(engine) as proposals,
    ):
        for document in documents:
            prompt = document.token_ids[: document.prompt_tokens].tolist()
            (output,) = engine.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
            rows.append({"tokens": prompt + list(output.outputs[0].token_ids), "drafts": list(proposals)})
            proposals.clear()
        counters = {
            metric.name: getattr(metric, "values", None) or getattr(metric, "value", None)
            for metric in engine.get_metrics()
            if "spec_decode" in metric.name
        }
    return {"rows": rows, "counters": counters}


def as_good(verifier: FrozenVerifier, normed: Sequence[torch.Tensor], taught: chunked.Taught) -> torch.Tensor:
    """As ``greedy_places``, [K, M], but the second best where it is within ``TIE`` of the best."""
    states = torch.stack([one[place] for one, place in zip(normed, taught.places)])  # [K, M, H]
    logits, places = (states @ verifier.spoken_head.T).topk(2)  # [K, M, 2]
    tied = logits[..., 0] - logits[..., 1] <= TIE  # [K, M]
    return places.gather(-1, tied.long()[..., None])[..., 0]


def predict(verifier_dir: Path, documents: Sequence[Document], model: Path, kind: str) -> dict[str, Any]:
    """What our own model proposes on the documents, and the counters that it predicts."""
    loaded = read_checkpoint(model)
    verifier = FrozenVerifier.of(load_verifier_weights(verifier_dir), loaded.draft_ids)
    objective: Objective = ARCHITECTURES[kind].load().objective(loaded.draft, verifier, Teaching(POSITIONS))
    read = [reading(document, loaded.draft.config.aux_layers) for document in documents]
    replayed = replay(objective, read, POSITIONS)
    with patch.object(chunked, "greedy_places", as_good):
        tied = [objective.propose(pack([one]), POSITIONS).tolist() for one in read]
    return {
        "proposed": [objective.propose(pack([one]), POSITIONS).tolist() for one in read],
        "as_good": tied,
        "counters": pool((one.replayed.tally for one in replayed), POSITIONS)._asdict(),
    }


def convert_and_serve(
    layout: str, verifier_dir: Path, documents: Sequence[Document], folder: Path
) -> dict[str, Any]:
    """What a checkpoint in another layout drafts by its own forward, and vLLM by the converted one."""
    made = LAYOUTS[layout].make(folder / "source")
    told = Request(str(made), str(verifier_dir), speculative_tokens=POSITIONS, **LAYOUTS[layout].told)
    stored = convert(told, folder / "model").plan.document["speculators_model_type"]
    speculation = Speculation(folder / "model", stored, POSITIONS).config()
    ends = load_verifier_weights(verifier_dir)
    return {
        "drafted": [LAYOUTS[layout].draft(made, ends, one, POSITIONS).tolist() for one in documents],
        "served": serve(verifier_dir, documents, speculation),
    }


def restore_and_serve(documents: Sequence[Document], folder: Path) -> dict[str, Any]:
    """What a native head drafts by our forward once taken out, and vLLM with it once put back."""
    verifier, head, stitched = folder / "verifier", folder / "head", folder / "stitched"
    verifier.mkdir(parents=True)
    write_native(verifier)
    convert(Request(str(verifier)), head)
    stitch(head, verifier, stitched)
    served = serve(stitched, documents, {"method": "mtp", "num_speculative_tokens": POSITIONS})
    return {"drafted": drafted(verifier, head, served["rows"], POSITIONS), "served": served}


def main(folder: Path) -> None:
    verifier = folder / "verifier"
    write_words_model(verifier)
    answers = answer(verifier)
    torch.set_num_threads(1)
    for kind in ALGORITHMS:
        make_draft(kind, verifier, answers, folder / kind)
    for kind in ALGORITHMS:
        model = folder / kind / "model"
        chosen = answers[:SERVED]
        known = [{"tokens": one.token_ids.tolist(), "prompt": one.prompt_tokens} for one in chosen]
        speculation = Speculation(model, ARCHITECTURES[kind].format.stored_as, POSITIONS).config()
        found = {
            "documents": known,
            "predicted": predict(verifier, chosen, model, kind),
            "served": serve(verifier, chosen, speculation),
        }
        write_json(folder / f"{kind}.json", found)
        print(kind, found["predicted"]["counters"], found["served"]["counters"], flush=True)
    for layout in LAYOUTS:
        write_json(
            folder / f"converted-{layout}.json",
            convert_and_serve(layout, verifier, answers[:CONVERTED], folder / layout / "converted"),
        )
    write_json(folder / "converted-mtp.json", restore_and_serve(answers[:CONVERTED], folder / "native"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
