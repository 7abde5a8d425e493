"""``inspect --fix``: what can be mended in one way only, into a new folder.

Nothing is guessed: a value comes from the weights' own record, from the tensors, or from the rule
that every reader shares.  What else is wrong stays, and is said again by the next ``inspect``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.config import CONFIG_NAME, DEFAULT_AUX_LAYERS, stored_format
from speculators.checkpoint.folder import config_of, new_folder, read_object
from speculators.checkpoint.tensors import LM_HEAD, canonical_name
from speculators.checkpoint.trained_as import FUSED, block_order, changes
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.weights_file import WEIGHTS_NAME, load_stored, read_header, write_weights
from speculators.convert.layer_ids import default_ids
from speculators.convert.source_config import LAYERS
from speculators.convert.vocabulary_map import offsets, read_map
from speculators.documents import write_json
from speculators.errors import RecipeError, StageError
from speculators.inspection.draft import FORMAT_KEYS


class Patient(NamedTuple):
    """What is mended in place: config and tensors."""

    document: dict[str, Any]
    tensors: dict[str, Any]
    metadata: dict[str, str]
    depth: int | None  # decoder layers of the verifier, if it is at hand


def mend(folder: Path, target: Path, verifier_dir: Path | None = None) -> list[str]:
    """Write the mended draft into the new folder ``target``; returns what was mended.

    Only config and weights are taken along, so stray files stay behind.

    Raises:
        RecipeError: it is in another trainer's layout, whose keys have rules of their own.
        StageError: config or weights cannot be read, or the config says what no reader expects or what no
            JSON can hold, and no record in the weights knows better.
    """
    document = copy.deepcopy(read_object(folder / CONFIG_NAME))
    if not FORMAT_KEYS & document.keys():
        raise RecipeError(
            f"{folder}: not in the speculators format, and nothing is mended in another layout",
            hint="convert it, then mend: speculators convert SOURCE --to DIR --verifier MODEL",
            rule="nothing-to-mend",
        )
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise StageError(f"{folder}: no {WEIGHTS_NAME}", hint="nothing can be mended", rule="draft-weights")
    tensors, metadata = read_header(weights)
    depth = None
    if verifier_dir is not None:
        depth = verifier_text(read_object(verifier_dir / CONFIG_NAME)).get("num_hidden_layers")
    patient = Patient(document, dict(tensors), metadata, depth if isinstance(depth, int) else None)
    with config_of(folder):
        done = [note for cure in CURES for note in cure(patient)]
    strays = sorted(path.name for path in folder.iterdir() if path.suffix in (".py", ".safetensors"))
    done += [f"{name} left out" for name in strays if name != WEIGHTS_NAME]
    with config_of(folder), new_folder(target) as partial:
        write_weights(partial / WEIGHTS_NAME, patient.tensors, metadata)
        write_json(partial / CONFIG_NAME, patient.document)
    return done


def put_back(patient: Patient) -> list[str]:
    """Values that the weights' own record knows."""
    notes = []
    for change in changes(patient.metadata, patient.document):
        inner = change.key.startswith("transformer_layer_config.")
        if inner and not isinstance(patient.document.get("transformer_layer_config"), dict):
            patient.document["transformer_layer_config"] = {}  # all of its keys are in the record
        place = patient.document["transformer_layer_config"] if inner else patient.document
        key = change.key.rpartition(".")[2]
        if change.trained is None:
            place.pop(key, None)
        else:
            place[key] = change.trained
        notes.append(f"{change.key}: {change.now!r} -> {change.trained!r}, as the weights were trained")
    return notes


def remove_keys(patient: Patient) -> list[str]:
    """Keys that only hide the format or point at code."""
    known = stored_format(patient.document)
    flat = known is not None and known.flat
    names = ["auto_map", *([] if flat else ["model_type"])]
    notes = [f"{name} removed" for name in names if patient.document.pop(name, None) is not None]
    layer = patient.document.get("transformer_layer_config")
    if isinstance(layer, dict) and layer.get("rope_scaling", 0) is None:
        del layer["rope_scaling"]
        notes.append("a null rope_scaling removed")
    plain = all(
        piece.dtype not in ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2") for piece in patient.tensors.values()
    )
    for place in (patient.document, layer if isinstance(layer, dict) else {}):
        if plain and place.pop("quantization_config", None) is not None:
            notes.append("quantization_config removed: every tensor is plain")
    return notes


def write_flags(patient: Patient) -> list[str]:
    """Flags that tensors show, and those that every reader takes to be the same where they are missing."""
    known = stored_format(patient.document)
    if known is None:
        return []
    shown = known.shown_flags({canonical_name(name) for name in patient.tensors})
    # The format's first writer takes every missing flag to be false.
    agreed = {flag: False for flag, taken in known.open_flags.items() if not taken}
    notes = []
    for flag, value in (agreed | shown).items():
        if patient.document.get(flag) is None or (flag in shown and patient.document[flag] is not value):
            patient.document[flag] = value
            notes.append(f"{flag} written: {str(value).lower()}")
    return notes


def write_layers(patient: Patient) -> list[str]:
    """Null ids are what every engine takes them to be; their number is written where vLLM needs it."""
    known = stored_format(patient.document)
    if known is None or not known.layers_key or not known.layers_assumed:
        return []
    notes, key = [], known.layers_key
    said = patient.document.get(key)
    if said is not None and not LAYERS.holds(said):  # which layers are meant nothing tells
        return []
    assumed = default_ids(patient.depth or 0)
    if not patient.document.get(key) and assumed is not None:
        patient.document[key] = assumed
        notes.append(f"{key} written: {assumed}, every engine's default")
    count, layer = len(patient.document.get(key) or ()), patient.document.get("transformer_layer_config")
    if not isinstance(layer, dict) or layer.get("model_type") != "llama":
        return notes
    if count and layer.get("num_aux_hidden_states", DEFAULT_AUX_LAYERS) != count:
        layer["num_aux_hidden_states"] = count
        notes.append(f"num_aux_hidden_states written: {count}")
    return notes


def reorder(patient: Patient) -> list[str]:
    """The column blocks of ``fc``, where the weights' own record knows each of them and their order."""
    order = block_order(patient.metadata, patient.tensors[FUSED]) if FUSED in patient.tensors else []
    places = list(range(len(order)))
    if order == places or set(order) != set(places):
        return []
    blocks = load_stored(patient.tensors[FUSED]).chunk(len(order), dim=1)
    patient.tensors[FUSED] = torch.cat([blocks[order.index(place)] for place in places], dim=1)
    return [f"{FUSED}: its column blocks put in the order in which they were trained"]


def mend_map(patient: Patient) -> list[str]:
    """A map that t2d tells how to read, or that t2d alone gives."""
    names = {canonical_name(name): name for name in patient.tensors}
    layer = patient.document.get("transformer_layer_config")
    vocab_size = layer.get("vocab_size") if isinstance(layer, dict) else None
    if "t2d" not in names or not isinstance(vocab_size, int):
        return []
    t2d = load_stored(patient.tensors["t2d"])
    stored = load_stored(patient.tensors["d2t"]) if "d2t" in names else None
    marked = int(t2d.sum())
    if LM_HEAD in names and patient.tensors[names[LM_HEAD]].shape[:1] != (marked,):  # of another training
        return []
    try:
        vocabulary = read_map(stored, t2d, vocab_size, "d2t")
    except StageError:
        if stored is None or bool((stored.sort().values != stored).any() or len(stored) != marked):
            return []
        unfilled = torch.equal(stored, torch.zeros_like(stored)) or torch.equal(
            stored, torch.arange(len(stored))
        )
        if not unfilled:
            return []
        vocabulary = read_map(None, t2d, vocab_size, "d2t")
    if vocabulary.order is not None or (stored is not None and torch.equal(stored, offsets(vocabulary))):
        return []
    patient.tensors["d2t"] = offsets(vocabulary)
    return [f"d2t written as offsets ({vocabulary.by})"]


#: In this order: the weights' own record settles most, rules fill in what it does not know.
CURES: tuple[Callable[[Patient], list[str]], ...] = (
    put_back,
    remove_keys,
    write_flags,
    write_layers,
    reorder,
    mend_map,
)
