"""``inspect`` on a verifier: can a draft be trained for it and served with it, told from its files alone.

"Does it support my model?" is asked before anything is spent, so the answer must cost nothing: it comes
from ``config.json``, from the names and types of the tensors, and from a table of what the engine's
classes can do.  Where neither says, the answer is that nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.dequantise import PARTS
from speculators.checkpoint.folder import config_of, read_object
from speculators.checkpoint.location import WANTED, local_folder
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.tokenizer import SMALL_FILES, tokenizer_of
from speculators.checkpoint.verifier_layout import VerifierLayout, text_config, verifier_layout, verifier_text
from speculators.checkpoint.verifier_weights import INDEX_NAME, tensor_files
from speculators.checkpoint.weights_file import read_header
from speculators.convert.kinds import detect
from speculators.convert.layer_ids import default_ids, default_layers
from speculators.convert.source import PICKLES, open_source
from speculators.convert.source_config import names_a_draft
from speculators.datagen.chat_template import chat_template
from speculators.datagen.disk import states_bytes
from speculators.errors import RecipeError, StageError
from speculators.inspection.families import AUX_STATES, NO, Support
from speculators.pipeline.machine.estimates import STORED_STATE_BYTES
from speculators.recipe.facts import VerifierFacts, facts_from_config

TOKENS = 1000

#: Keys by which a config tells of attention with compressed keys, whose states vLLM does not hand out.
COMPRESSED = ("kv_lora_rank",)


#: What joins a draft's inputs, as no language model has it.
JOINING = {"fc.weight", "model.fc.weight", "draft_model.fc.weight"}


class Line(NamedTuple):
    """One answer; ``ok`` is False where something is missing, None where nobody knows."""

    name: str
    ok: bool | None
    detail: str


class VerifierReport(NamedTuple):
    """What ``inspect MODEL`` found; ``facts`` for programs, ``lines`` for people."""

    facts: dict[str, Any]
    lines: list[Line]

    @property
    def missing(self) -> list[Line]:
        return [line for line in self.lines if line.ok is False]


def is_model(folder: Path) -> bool:
    """Whether the folder holds a language model, and not a draft of any layout, however broken.

    The weights tell, in whatever file they are.  Where they are not here or cannot be read, the config does.
    """
    try:
        config = read_object(folder / CONFIG_NAME)
    except StageError:
        return False
    if names_a_draft(config):
        return False
    if not has_weights(folder):
        return not JOINING & indexed(folder).keys()
    try:
        source = open_source(str(folder))
        kind, _ = detect(source)
    except StageError:
        return True
    except RecipeError:  # of no layout that can be read
        return not JOINING & source.tensors.keys()
    return kind.name == "mtp"  # the layout of a model with a head of its own


def has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any((folder / name).is_file() for name in PICKLES)


def indexed(folder: Path) -> Mapping[str, Any]:
    """Every tensor's file by its name, of the index alone; empty where there is none."""
    if not (folder / INDEX_NAME).is_file():
        return {}
    listed = read_object(folder / INDEX_NAME).get("weight_map")
    return listed if isinstance(listed, Mapping) else {}


def looked_at(name: str) -> Path:
    """The folder of a checkpoint by its name, of the hub with its weights only where nothing else tells.

    What it is shows without them, but for drafts with the class of a plain model: these have no index of
    several files, and seldom a tokenizer of their own or more than one layer.

    Raises:
        RecipeError, MachineError: there is no such checkpoint.
    """
    folder = local_folder(name, wanted=SMALL_FILES)
    try:
        config = read_object(folder / CONFIG_NAME)
    except StageError:  # said by whoever looks at it
        return folder
    single = text_config(config).get("num_hidden_layers") == 1
    if has_weights(folder) or indexed(folder) or not (single or tokenizer_of(folder) is None):
        return folder
    return folder if names_a_draft(config) else draft_files(name)


def draft_files(name: str) -> Path:
    """The folder of a draft with its weights, pickled ones only where there are no others.

    Raises:
        RecipeError, MachineError: there is no such checkpoint.
    """
    folder = local_folder(name)
    return folder if has_weights(folder) else local_folder(name, wanted=(*WANTED, *PICKLES))


def inspect_verifier(folder: Path) -> VerifierReport:
    """Look at the model in ``folder``, of which only the small files need to be there.

    Raises:
        RecipeError: it is no language model.
        StageError: ``config.json`` or a weight file's header is damaged.
    """
    config = read_object(folder / CONFIG_NAME)
    with config_of(folder):
        known = facts_from_config(config, CONFIG_NAME)
    if known is None:
        raise RecipeError(
            f"{folder}: neither a draft in the speculators format nor a language model",
            hint="a draft of another trainer: speculators convert SOURCE --to DIR; a model's config.json has "
            "hidden_size, num_hidden_layers and vocab_size, also within text_config",
            rule="not-a-model",
        )
    support = AUX_STATES.get(known.architecture)
    lines = [aux_line(known, support), *capture_lines(text_config(config), support), depth_line(known)]
    dtypes, weights = stored_types(folder)
    lines.append(weights)
    head, layout = head_line(config, dtypes, str(folder))
    lines += [head, quantisation_line(config, layout, dtypes), *tokenizer_lines(folder)]
    size = states_bytes(
        TOKENS, len(default_layers(known.num_hidden_layers)) + 1, known.hidden_size, STORED_STATE_BYTES
    )
    lines.append(Line("hidden states", True, f"{size / 1e6:.1f} MB of disk for {TOKENS} tokens, in bfloat16"))
    facts = {
        "architecture": known.architecture,
        "model_type": known.model_type,
        "num_hidden_layers": known.num_hidden_layers,
        "hidden_size": known.hidden_size,
        "vocab_size": known.vocab_size,
        "max_position_embeddings": known.max_position_embeddings,
        "rope_parameters": rope_parameters(verifier_text(config)),
        "aux_states": None if support is None else support.how,
        "default_aux_layers": default_ids(known.num_hidden_layers),
        "head": None if layout is None else head_facts(layout),
        "quantisation": quantisation(config),
        "state_bytes_per_1000_tokens": size,
    }
    return VerifierReport(facts, lines)


def aux_line(known: VerifierFacts, support: Support | None) -> Line:
    """Whether the engine's class hands out the states between layers."""
    name = "aux states"
    if support is None:
        return Line(
            name, None, f"{known.architecture or 'no architecture named'}: in no table; ask the engine"
        )
    return Line(name, support.how != NO, f"{known.architecture}: {support.says}")


def capture_lines(text: Mapping[str, Any], support: Support | None) -> Iterator[Line]:
    """What keeps states from being captured although drafts are served."""
    if any(text.get(key) for key in COMPRESSED):
        detail = "attention with compressed keys (MLA): vLLM's hidden-state connector refuses it"
        yield Line("capture", False, detail)
    elif support is not None and support.hybrid:
        detail = "layers without attention: the connector has handed out zeros for such models; probe first"
        yield Line("capture", None, detail)


def depth_line(known: VerifierFacts) -> Line:
    ids = default_ids(known.num_hidden_layers)
    shape = f"{known.num_hidden_layers} layers of {known.hidden_size}, {known.vocab_size} tokens"
    if ids is None:
        return Line("depth", True, f"{shape}; too few layers for default ids: a recipe must name them")
    return Line("depth", True, f"{shape}; default ids {ids}")


def stored_types(folder: Path) -> tuple[dict[str, str], Line]:
    """Every tensor's type by its name; "" for a file that is not here, which the index tells of."""
    try:
        files = tensor_files(folder)
    except StageError as error:
        listed = indexed(folder)
        if not listed:
            return {}, Line("weights", None, f"not at hand: {error.message}")
        here = {path.name for path in folder.glob("*.safetensors")}
        lacking = sorted(set(map(str, listed.values())) - here)
        return dict.fromkeys(listed, ""), Line(
            "weights", None, f"{len(lacking)} files of the index are not here"
        )
    found: dict[str, str] = {}
    for path in sorted(set(files.values())):
        found |= {name: piece.dtype for name, piece in read_header(path)[0].items()}
    return found, Line("weights", True, f"{len(found)} tensors in {len(set(files.values()))} files")


def head_line(
    config: Mapping[str, Any], names: Mapping[str, str], place: str
) -> tuple[Line, VerifierLayout | None]:
    """Where the head is and what lies between it and the logits."""
    if not names:
        return Line("head", None, "tensor names are not at hand"), None
    try:
        layout = verifier_layout(config, names.keys(), place)
    except StageError as error:
        return Line("head", False, error.message), None
    facts = head_facts(layout)
    said = [facts["kind"]]
    said += [f"scaled by {facts['scale']:g}"] if facts["scale"] != 1.0 else []
    said += [f"soft-capped at {facts['soft_cap']:g}"] if facts["soft_cap"] else []
    return Line("head", True, f"{', '.join(said)}; final norm {facts['norm']}"), layout


def head_facts(layout: VerifierLayout) -> dict[str, Any]:
    rule = layout.rule
    norm = "LayerNorm" if rule.centred else "RMSNorm times (1 + weight)" if rule.one_plus else "RMSNorm"
    return {
        "kind": "tied to the embedding" if layout.head is None else "untied",
        "scale": rule.logit_scale,
        "soft_cap": rule.soft_cap,
        "norm": norm,
    }


def quantisation(config: Mapping[str, Any]) -> str | None:
    """The method that the config names, of itself or of its language model; None where it names none."""
    block = config.get("quantization_config") or text_config(config).get("quantization_config")
    return str(block.get("quant_method") or "unnamed") if isinstance(block, Mapping) else None


def quantisation_line(
    config: Mapping[str, Any], layout: VerifierLayout | None, dtypes: Mapping[str, str]
) -> Line:
    """How layers and ends are stored; ends that are quantised are computed back for training."""
    method = quantisation(config)
    ends = [] if layout is None else [layout.embedding, *([layout.head] if layout.head else [])]
    stored = {
        end: sorted({part for part in PARTS if part != "weight" and f"{end}.{part}" in dtypes})
        for end in ends
    }
    quantised = [f"{end} ({', '.join(parts)})" for end, parts in stored.items() if parts]
    said = "none" if method is None else method
    if quantised:
        return Line("quantisation", True, f"{said}; quantised too: {', '.join(quantised)}")
    return Line("quantisation", True, said if method is None else f"{said}; embedding and head are plain")


def tokenizer_lines(folder: Path) -> Iterator[Line]:
    there = tokenizer_of(folder) is not None
    yield Line(
        "tokenizer", there, "found" if there else "none of tokenizer.json, tokenizer.model, tekken.json"
    )
    template = bool(chat_template(folder))
    detail = "found" if template else "none: speculators are trained on chats, choose an instruct model"
    yield Line("chat template", template, detail)
