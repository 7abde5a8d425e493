"""A training of the reference system (its ``run.yaml``) said as a recipe, with an account of every value.

vllm-project/speculators 0.9.0 leaves beside its checkpoints a ``run.yaml`` with a ``train:`` block: the
values that its user gave.  What was left at a default of *theirs* shaped the draft just as much, so the
recipe states those too.

Pure: the file's data and what is known of the verifier in, a recipe's data and lines of account out.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from speculators.errors import RecipeError
from speculators.recipe.facts import VerifierFacts, committed_revision
from speculators.recipe.reference_fields import ALWAYS, COMPUTED, DIFFERS, NEEDLESS, RENAMED
from speculators.recipe.schema import SCHEMA_ID
from speculators.recipe.suggestions import listing

__all__ = ["Run", "Translation", "is_reference_run", "translate", "verifier_block"]

STAGE = "train"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
#: Kinds of both systems.
KINDS = ("eagle3", "peagle", "dflash")
PROMPTS = "prompts/benchmark.jsonl"

LOSSES = {
    "kl_div": "forward_kl",
    "rkl": "reverse_kl",
    "jsd": "jensen_shannon",
    "ce": "cross_entropy",
    "tv": "total_variation",
}
SCHEDULES = {"linear": "linear", "cosine": "cosine", "none": "constant"}
TRACKERS = ("tensorboard", "wandb", "mlflow")
#: Its warm-up where none was given, as a share of all steps.
WARMUP = 0.01
#: Its block of DFlash where none was given.
BLOCK = 16
DECIMALS = 6


class Translation(NamedTuple):
    """A recipe's data, and a line for each value of the run: where it went, or why nowhere."""

    data: dict[str, Any]
    account: list[str]


def is_reference_run(data: Any) -> bool:
    """Whether a YAML file's data are those of a ``run.yaml``."""
    return isinstance(data, Mapping) and isinstance(data.get(STAGE), Mapping) and "schema" not in data


class Run:
    """The values of a run: those that were given, and the reference's defaults for the others."""

    def __init__(self, data: Mapping[str, Any], place: str) -> None:
        self.place = place
        self.given: dict[str, Any] = {}
        for name, value in data[STAGE].items():
            block = value.items() if isinstance(value, Mapping) else None
            self.given |= {f"{name}.{key}": one for key, one in block} if block is not None else {name: value}

    def get(self, name: str) -> Any:
        """The value given for a field, or its default."""
        return self.given.get(name, {**RENAMED, **COMPUTED}[name][1])

    def number(self, name: str) -> float:
        value = self.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.refused(f"{name} is {value!r}, which is no number", "correct it")
        return value

    def refused(self, cause: str, hint: str) -> RecipeError:
        return RecipeError(f"{self.place}: {cause}", hint=hint, rule="run-yaml")


def verifier_block(run: Run) -> dict[str, Any]:
    """The recipe's ``verifier``: a folder where there is one of that name, else a repository.

    The run recorded no revision: that of the recipes that ship is taken, where one does.

    Raises:
        RecipeError: none is named.
    """
    name = run.get("verifier.verifier_name_or_path")
    if not isinstance(name, str) or not name:
        raise run.refused("it names no verifier", "add verifier_name_or_path below train: verifier:")
    if not _is_repository(name):
        return {"path": name}
    revision = committed_revision(name)
    return {"repository": name, **({"revision": revision} if revision else {})}


def _is_repository(name: str) -> bool:
    return bool(REPOSITORY.fullmatch(name)) and not os.path.isdir(name)


def translate(run: Run, facts: VerifierFacts | None) -> Translation:
    """The run as a recipe; ``facts`` are its verifier's, where they are known.

    Raises:
        RecipeError: it trains a kind that is not trained here, or a value cannot be said or is not known.
    """
    kind = run.get("speculator_type")
    if kind not in KINDS:
        raise run.refused(
            f"speculator_type is {kind!r}, which is not trained here",
            f"kinds of both systems: {', '.join(KINDS)}; checkpoints of others are converted and measured",
        )
    training = {
        "init_from": _start(run.get("draft.from_pretrained")),
        "losses": _losses(run, kind),
        "step_decay": _step_decay(run, kind),
        "schedule": _one_of(run, "scheduler.scheduler_type", SCHEDULES),
        "warmup_fraction": _warmup(run),
        "parallelism": "fsdp" if run.get("trainer.fsdp_shard") else "ddp",
        "trackers": [one for one in _loggers(run) if one in TRACKERS],
    }
    data: dict[str, Any] = {
        "schema": SCHEMA_ID,
        "name": recipe_name(run.get("verifier.verifier_name_or_path"), kind),
        "verifier": verifier_block(run),
        "algorithm": _algorithm(run, kind, facts),
        "datagen": {
            "prepared": run.get("data.data_path"),
            "prompts": {
                "validation_fraction": round(1 - run.number("data.train_data_ratio"), DECIMALS),
            },
        },
        "training": {key: value for key, value in training.items() if value not in (None, [])},
        "benchmark": {"prompts": PROMPTS},
    }
    for field, (path, _) in RENAMED.items():
        block, _, key = path.partition(".")
        data[block][key] = run.get(field)
    return Translation(data, list(_account(run, kind, data)))


def _algorithm(run: Run, kind: str, facts: VerifierFacts | None) -> dict[str, Any]:
    block: dict[str, Any] = {"kind": kind, "speculative_tokens": _speculative_tokens(run, kind)}
    if run.get("draft.from_pretrained"):
        return block  # the rest is the started draft's own
    block["aux_layers"] = _known(
        run, facts, "draft.target_layer_ids", lambda known: _usual_layers(known.num_hidden_layers)
    )
    block["layers"] = run.get("draft.num_layers") or (5 if kind == "dflash" else 1)
    block["draft_vocabulary"] = _known(run, facts, "draft.draft_vocab_size", lambda known: known.vocab_size)
    if kind == "dflash":
        block["anchors"] = run.get("data.max_anchors")
    else:
        block["norm_before_residual"] = run.get("draft.norm_before_residual")
        block["norm_before_fc"] = _flag(run, "draft.norm_before_fc", kind)
    if kind == "eagle3":
        block["fc_norm"] = run.get("draft.fc_norm")
        block["norm_output"] = _flag(run, "draft.norm_output", kind)
    else:
        block["mask_token_id"] = _known(run, None, "draft.mask_token_id", lambda _: None)
    return block


def _start(name: Any) -> str | None:
    return f"{name}@main" if name and _is_repository(str(name)) else name or None


def _usual_layers(depth: int) -> list[int]:
    return sorted({2, depth // 2, depth - 3})


def _known(run: Run, facts: VerifierFacts | None, name: str, usual: Callable[[VerifierFacts], Any]) -> Any:
    """A value that the reference takes from the verifier where it was not given."""
    if (value := run.get(name)) is not None:
        return value
    if facts is None:
        raise run.refused(
            f"{name} was left to the verifier, and nothing is known of that here",
            f"add {name.partition('.')[2]} below train: draft:, as its checkpoints say it in config.json",
        )
    return usual(facts)


def _flag(run: Run, name: str, kind: str) -> Any:
    value = run.get(name)
    return kind == "eagle3" if value is None else value


def _speculative_tokens(run: Run, kind: str) -> int:
    if kind == "dflash":  # a block begins with the token that is known
        return (int(run.number("dflash.block_size")) if run.get("dflash.block_size") else BLOCK) - 1
    return int(run.number("peagle.num_depths" if kind == "peagle" else "loss.ttt_steps"))


def _step_decay(run: Run, kind: str) -> Any:
    if kind == "dflash":  # w_k = exp(-(k - 1) / gamma) of losses/utils.py
        if (gamma := run.number("dflash.dflash_decay_gamma")) <= 0:
            raise run.refused(f"dflash.dflash_decay_gamma is {gamma}", "it must be above 0")
        return round(math.exp(-1 / gamma), DECIMALS)
    return run.get("loss.ttt_step_loss_decay") if kind == "eagle3" else None


def _losses(run: Run, kind: str) -> dict[str, float]:
    spec = run.get("loss.loss_fn") or ("ce" if kind == "dflash" else "kl_div")
    try:
        weights = json.loads(spec) if str(spec).lstrip().startswith("{") else {spec: 1.0}
        return {LOSSES[name]: float(weight) for name, weight in weights.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise run.refused(
            f"loss.loss_fn is {spec!r}",
            f"losses that are offered here: {', '.join(LOSSES)}, or weights of them",
        ) from error


def _one_of(run: Run, name: str, choices: Mapping[str, str]) -> str:
    value = run.get(name)
    if not isinstance(value, str) or value not in choices:
        raise run.refused(f"{name} is {value!r}", f"one of: {', '.join(choices)}")
    return choices[value]


def _warmup(run: Run) -> float:
    ratio = run.get("scheduler.scheduler_warmup_ratio")
    return WARMUP if ratio is None else run.number("scheduler.scheduler_warmup_ratio")


def _loggers(run: Run) -> list[str]:
    return [one.strip() for one in str(run.get("logging.logger")).split(",") if one.strip()]


def _account(run: Run, kind: str, data: Mapping[str, Any]) -> list[str]:
    """A line for each value that was given, and for what differs even where none was."""
    lines = []
    for name, value in run.given.items():
        if name in RENAMED or name in COMPUTED:
            lines.append(f"{name}: {_short(value)} -> {(RENAMED | COMPUTED)[name][0]}")
        elif name in DIFFERS:
            lines.append(f"{name}: {_short(value)} DIFFERS: {DIFFERS[name]}")
        elif name in NEEDLESS:
            lines.append(f"{name}: {_short(value)} left out: {NEEDLESS[name]}")
        else:
            lines.append(f"{name}: {_short(value)} left out: no field of the reference's 0.9.0")
    lines += [
        f"{name} (its default) DIFFERS: {DIFFERS[name]}" for name in ALWAYS[kind] if name not in run.given
    ]
    if kind == "dflash" and run.get("dflash.per_position_loss_weight") in (None, "dpace"):
        lines.append("dflash.per_position_loss_weight: dpace DIFFERS: weights decay by position here")
    if strange := [one for one in _loggers(run) if one not in TRACKERS]:
        lines.append(f"logging.logger DIFFERS: {listing(strange)} cannot follow a training here")
    if "repository" in data["verifier"]:
        lines.append(
            "verifier.revision: the run did not record it; "
            + ("this one is of the recipes that ship" if "revision" in data["verifier"] else "pin one")
        )
    if "draft.draft_vocab_size" in run.given:
        lines.append(
            "draft.draft_vocab_size: without a token_freq.pt the reference trained the full vocabulary all "
            "the same; here it holds"
        )
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def recipe_name(verifier: str, kind: str) -> str:
    """A recipe's name after what it makes: ``qwen3-8b-eagle3``."""
    model = verifier.rstrip("/").rpartition("/")[2].lower()
    return "".join(one if one.isalnum() or one in "._-" else "-" for one in f"{model}-{kind}").lstrip("._-")
