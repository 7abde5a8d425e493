"""A draft to train further: what it brings to a recipe, and where the two disagree.

Read from its ``config.json`` alone, so that ``check`` and ``plan`` refuse what training would.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.config import completed, from_document, stored_format
from speculators.checkpoint.format import Format
from speculators.checkpoint.shape import OF_VERIFIER, DraftConfig
from speculators.errors import SpeculatorsError
from speculators.recipe.diagnostics import Diagnostic
from speculators.recipe.facts import VerifierFacts, find_facts
from speculators.recipe.hub_cache import model_folder
from speculators.recipe.schema import fitting_names, load_schema
from speculators.recipe.view import View, named, trains
from speculators.training.architectures import ARCHITECTURES

INIT_FROM = "training.init_from"


class Start(NamedTuple):
    """What a checkpoint's config says, in the recipe's words.

    ``values`` are those of the ``algorithm`` block; ``keys`` the config's own names of them;
    ``verifier`` what it shares with its own; ``config`` all of it.  ``problem``: why it cannot be trained
    further.
    """

    source: str
    stored_as: str = ""
    values: Mapping[str, Any] = {}
    keys: Mapping[str, str] = {}
    verifier: Mapping[str, int] = {}
    problem: str = ""
    config: DraftConfig | None = None


def planned_shape(
    data: Any, folder: Path, environ: Mapping[str, str], facts: VerifierFacts
) -> DraftConfig | None:
    """The draft that a resolved recipe trains for a verifier with ``facts``.

    None where nothing is trained, or the draft that training starts from is not at hand: its widths are its
    own.
    """
    if not trains(data):
        return None
    if named(data, INIT_FROM):
        start = find_start(data, folder, environ)
        return start.config if start else None
    return new_shape(data["algorithm"], facts)


def new_shape(algorithm: Mapping[str, Any], facts: VerifierFacts) -> DraftConfig:
    """A draft that starts from random weights."""
    return ARCHITECTURES[algorithm["kind"]].format.config.for_verifier(facts._asdict(), algorithm)


def inherit(data: Any, folder: Path, environ: Mapping[str, str]) -> Any:
    """A recipe's data with what its ``algorithm`` block leaves to the draft that training starts from.

    Data that has no such draft, or none that can be read here, comes back as it is.
    """
    start = find_start(data, folder, environ)
    if start is None or start.problem:
        return data
    algorithm = data["algorithm"]
    fitting = fitting_names(load_schema()["properties"]["algorithm"], algorithm)
    missing = {name: value for name, value in start.values.items() if name in fitting - set(algorithm)}
    return {**data, "algorithm": {**algorithm, **copy.deepcopy(missing)}}


def find_start(data: Any, folder: Path, environ: Mapping[str, str]) -> Start | None:
    """What ``training.init_from`` brings; None when nothing is named, or it is not at hand."""
    name = named(data, INIT_FROM)
    if not isinstance(named(data, "algorithm"), Mapping) or not isinstance(name, str) or not name:
        return None
    if (place := model_folder(name, folder, environ)) is None:
        return None
    verifier = named(data, "verifier")
    facts = find_facts(verifier, folder, environ) if isinstance(verifier, Mapping) else None
    return read_start(place, name, facts.num_hidden_layers if facts else 0)


def read_start(folder: Path, name: str, verifier_layers: int) -> Start:
    """The config of the draft in ``folder``, which the recipe calls ``name``."""
    source = f"{name}/config.json"
    try:
        document, _ = completed(json.loads((folder / "config.json").read_text("utf-8")), verifier_layers)
        known = stored_format(document)
        config = from_document(document)
    except SpeculatorsError as error:
        return Start(source, problem=error.message)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Start(source, problem=f"not the config of a draft ({type(error).__name__}: {error})")
    assert known is not None  # from_document refused it otherwise
    keys = config_keys(known)
    fields = {"aux_layers": list(config.aux_layers), "draft_vocabulary": config.draft_vocab_size}
    values = {field: fields[field] if field in fields else getattr(config, field) for field in keys}
    of_verifier = {field: getattr(config, field) for field in OF_VERIFIER}
    return Start(source, known.stored_as, values, keys, of_verifier, config=config)


def config_keys(known: Format) -> dict[str, str]:
    """The config's names of what a recipe says of drafts of this format."""
    layers = {"aux_layers": known.layers_key} if known.layers_key else {}
    flags = [flag for flag in known.flags if flag not in known.fixed]
    return {
        "layers": "transformer_layer_config.num_hidden_layers",
        "draft_vocabulary": "draft_vocab_size",
        **layers,
        **{name: name for name in (*flags, *known.numbers)},
    }


def start_fits(view: View) -> Iterator[Diagnostic]:
    start = find_start(view.data, view.folder, os.environ)
    if start is None:
        return
    if start.problem:
        message = f"{start.source}: {start.problem}"
        yield view.problem("error", "init-from", INIT_FROM, message, "name a draft in the speculators format")
        return
    kind = view.get("algorithm.kind")
    if kind not in ARCHITECTURES:
        return
    if ARCHITECTURES[kind].format.stored_as != start.stored_as:
        message = f"kind is '{kind}', but {start.source} has speculators_model_type '{start.stored_as}'"
        yield view.problem("error", "init-from", "algorithm.kind", message, "train a draft of its own kind")
        return
    for name, value in start.values.items():
        dotted = f"algorithm.{name}"
        if view.has(dotted) and view.get(dotted) != value:
            written, stored = json.dumps(view.get(dotted)), json.dumps(value)
            message = f"{name} is {written}, but {start.source} has {start.keys[name]} {stored}"
            hint = f"leave {name} out to inherit it, or training.init_from to start from random weights"
            yield view.problem("error", "init-from", dotted, message, hint)


def start_of_this_verifier(view: View) -> Iterator[Diagnostic]:
    """Where the verifier is not at hand yet, training says it."""
    start = find_start(view.data, view.folder, os.environ)
    if start is None or view.facts is None:
        return
    for name, stored in start.verifier.items():
        if stored != (wanted := getattr(view.facts, name)):
            message = f"the verifier's {name} is {wanted}, but {start.source} has {stored}"
            hint = "name a draft of this verifier, or leave training.init_from out to start anew"
            yield view.problem("error", "init-from", INIT_FROM, message, hint)
