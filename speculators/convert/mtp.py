"""Native multi-token-prediction heads: taken out of a verifier, and put back into one.

The format keeps a head apart, to be trained on; vLLM serves it inside its verifier only.  Names of
Qwen3-Next and Qwen3.5: ``mtp.fc`` joins embedding and state, ``mtp.layers.0`` is one decoder layer
(vLLM ``model_executor/models/qwen3_next_mtp.py``).
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import speculators
from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.folder import config_of, new_folder, read_object
from speculators.checkpoint.rope import rope_parameters
from speculators.checkpoint.verifier_layout import text_config
from speculators.checkpoint.verifier_weights import INDEX_NAME
from speculators.checkpoint.weights_file import (
    Joined,
    Stored,
    described,
    joined,
    read_header,
    rows_of,
    write_weights,
)
from speculators.convert.account import Fate, account, accounted, kept_or_renamed
from speculators.convert.left_plain import require_plain
from speculators.convert.plan import DEFAULT_TOKENS, Options, Plan, speculators_block
from speculators.convert.source import Source, folder_tensors, unfit
from speculators.documents import write_json
from speculators.errors import RecipeError

#: Native prefix -> the format's.  One of the format's begins the others; native ones do not.
PREFIXES = {
    "mtp.fc.": "mtp_layers.0.input_proj.",
    "mtp.norm.": "mtp_layers.0.final_layernorm.",
    "mtp.pre_fc_norm_hidden.": "mtp_layers.0.hidden_layernorm.",
    "mtp.pre_fc_norm_embedding.": "mtp_layers.0.token_layernorm.",
    "mtp.layers.0.": "mtp_layers.0.",
}

EXPERT = re.compile(
    r"(?P<experts>.+\.mlp\.experts)\.(?P<index>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight"
)
STITCH_HINT = "nothing was written; name a whole head, and the verifier that it was taken out of"
STITCHED_NAME = "model-mtp.safetensors"
PLAIN = ("F64", "F32", "F16", "BF16")

#: Tensors without which a head computes nothing, by the format's names; queries' and keys' norms are optional
#: in no family here.
_ONE = "mtp_layers.0."
NEEDED = {f"{_ONE}{name}.weight" for name in (
    "input_proj", "final_layernorm", "hidden_layernorm", "token_layernorm", "input_layernorm",
    "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "self_attn.q_norm", "self_attn.k_norm")}  # fmt: skip
DENSE = {f"{_ONE}mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
MIXED = {f"{_ONE}mlp.gate.weight", f"{_ONE}mlp.experts.gate_up_proj", f"{_ONE}mlp.experts.down_proj"}

#: The verifier's own, which speculators 0.9.0 leaves beside a head that it takes out.
ENDS = {"embed_tokens.weight", "lm_head.weight", "verifier_lm_head.weight", "verifier_norm.weight"}

#: Keys that a head is computed by, within its verifier's config.
ALIKE = (
    "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "hidden_act",
    "rms_norm_eps", "num_experts", "num_experts_per_tok", "norm_topk_prob", "moe_intermediate_size",
    "shared_expert_intermediate_size", "attn_output_gate", "rope_theta", "partial_rotary_factor",
)  # fmt: skip

#: Target's path -> where a value comes from that no verifier's config says.
REASONS = {
    "architectures": "the format's class of heads; vLLM serves one inside its verifier",
    "num_nextn_predict_layers": "layers of the head that was taken out",
    "tie_word_embeddings": "a head has neither embedding nor output of its own",
}

#: Families -> the key by which engines learn how many layers a native head has, where it is not that of
#: Qwen3.5 and what follows it (vLLM 0.32, ``config/speculative.py``).
LAYERS_KEYS = {"qwen3_next": "num_nextn_predict_layers"}
LAYERS_KEY = "mtp_num_hidden_layers"


def plan(source: Source, options: Options) -> Plan:
    """The head of the verifier in ``source``, apart from it.

    Raises:
        StageError: there is none, it has more than one layer, or is quantised.
    """
    place = str(source.folder)
    native = [name for name in source.tensors if name.startswith("mtp.")]
    renamed = {name: extracted_name(name) for name in native}
    if not native or "mtp.fc.weight" not in renamed:
        raise unfit(place, "no tensor mtp.fc.weight: no native head of a kind that is known")
    if unknown := [name for name, target in renamed.items() if target is None]:
        raise unfit(place, f"{unknown[0]} has no place in the format, which has one layer")
    if packed := [name for name in native if described(source.tensors[name])[0] not in PLAIN]:
        hint = "the format has no quantised heads: take it out of the model that is not quantised"
        raise unfit(
            place, f"{packed[0]} is {described(source.tensors[packed[0]])[0]}: a quantised head", hint
        )
    targets = {name: target for name, target in renamed.items() if target is not None}
    experts = {name: match for name, target in targets.items() if (match := EXPERT.fullmatch(target))}
    pieces = {target: source.tensors[name] for name, target in targets.items() if name not in experts}
    pieces |= fused_experts(source, experts, place)
    fates = [kept_or_renamed(name, target) for name, target in targets.items() if name not in experts]
    fates += [
        Fate(name, "derived", match["experts"], "experts side by side") for name, match in experts.items()
    ]
    text = dict(text_config(source.config))
    text.pop("quantization_config", None)
    document = {
        "architectures": ["MTPDraftModel"],
        "speculators_model_type": "mtp",
        "speculators_version": speculators.__version__,
        "num_nextn_predict_layers": 1,
        "tie_word_embeddings": False,
        "speculators_config": speculators_block("mtp", options.speculative_tokens or DEFAULT_TOKENS, options),
        "transformer_layer_config": text,
    }
    fields = account(source.config, document, REASONS)
    return Plan(document, pieces, fields, accounted(native, fates, {}, ""))


def extracted_name(name: str) -> str | None:
    """A native tensor's name in the format; None for one that it has no place for."""
    for prefix, target in PREFIXES.items():
        if name.startswith(prefix):
            return target + name.removeprefix(prefix)
    return None


def native_name(name: str) -> str | None:
    """The other way round; of prefixes that fit the longest."""
    fitting = [(target, prefix) for prefix, target in PREFIXES.items() if name.startswith(target)]
    target, prefix = max(fitting, key=lambda pair: len(pair[0]), default=("", None))
    return None if prefix is None else prefix + name.removeprefix(target)


def fused_experts(source: Source, experts: Mapping[str, re.Match[str]], place: str) -> dict[str, Joined]:
    """Experts apart, [I, H] and [H, I] each -> ``gate_up_proj`` [E, 2I, H] and ``down_proj`` [E, H, I].

    Raises:
        StageError: an expert lacks a part, or they are of several sizes or types.
    """
    parts: dict[str, dict[tuple[int, str], Any]] = {}
    for name, match in experts.items():
        parts.setdefault(match["experts"], {})[int(match["index"]), match["part"]] = source.tensors[name]
    fused = {}
    for module, found in parts.items():
        count = 1 + max(index for index, _ in found)
        if len(found) != 3 * count:
            raise unfit(place, f"{module} lacks parts of its {count} experts")
        inner, hidden = sizes_of(found, module, place)
        rows = [found[index, part] for index in range(count) for part in ("gate_proj", "up_proj")]
        down = [found[index, "down_proj"] for index in range(count)]
        fused[f"{module}.gate_up_proj"] = joined((count, 2 * inner, hidden), rows)
        fused[f"{module}.down_proj"] = joined((count, hidden, inner), down)
    return fused


def sizes_of(experts: Mapping[tuple[int, str], Any], module: str, place: str) -> tuple[int, int]:
    """Inner and hidden width of experts that are all alike.

    Raises:
        StageError: one is not.
    """
    dtype, shape = described(experts[0, "gate_proj"])
    for (index, part), piece in experts.items():
        wanted = shape[::-1] if part == "down_proj" else shape
        if len(shape) != 2 or described(piece) != (dtype, wanted):
            first = f"the first's gate_proj {(dtype, shape)}"
            raise unfit(place, f"{module}.{index}.{part} is {described(piece)}, {first}")
    return shape[0], shape[1]


def stitch(head: Path, verifier: Path, target: Path) -> list[str]:
    """Write into ``target`` the verifier with the head of ``head`` as its native one.

    The verifier's files are copied, its config with the key by which engines know of a head, and without
    its own head, if it has one.  Returns the names of the head's tensors.

    Raises:
        StageError: the head is not whole, does not fit the verifier, or is quantised in its place.
        RecipeError: ``head`` and ``target`` are no such folders, or the verifier is no safetensors model.
    """
    from speculators.checkpoint.model import read_config
    from speculators.checkpoint.weights_file import WEIGHTS_NAME

    config = read_config(head)
    if config.speculators_model_type != "mtp":
        raise RecipeError(
            f"{head}: not an mtp checkpoint", hint="stitch takes what convert --from mtp made", rule="usage"
        )
    document = read_object(verifier / CONFIG_NAME)
    own = folder_tensors(verifier)
    if not all(isinstance(piece, Stored) for piece in own.values()):
        raise RecipeError(
            f"{verifier}: its weights are a pickle, which no head is put beside",
            hint="save the verifier as safetensors first",
            rule="usage",
        )
    stored = {name: piece for name, piece in read_header(head / WEIGHTS_NAME)[0].items() if name not in ENDS}
    require_fit(head, stored, document)
    with config_of(verifier):
        require_alike(head, config.transformer_layer_config, text_config(document))
    pieces: dict[str, Any] = {}
    for name, piece in stored.items():
        pieces |= native_pieces(name, piece, own)
    require_plain((name for name, piece in pieces.items() if len(piece.shape) > 1), verifier, document)
    for name, piece in pieces.items():
        if name in own and own[name].shape != tuple(piece.shape):
            raise unfit(
                head,
                f"{name} is {list(piece.shape)}, the verifier's own {list(own[name].shape)}",
                STITCH_HINT,
            )
    weight_map = {name: piece.path.name for name, piece in own.items() if not name.startswith("mtp.")}
    weight_map |= dict.fromkeys(pieces, STITCHED_NAME)
    with new_folder(target) as partial:
        copy_beside(verifier, partial, weight_map)
        write_json(partial / CONFIG_NAME, promised(document))
        write_weights(partial / STITCHED_NAME, pieces)
        total = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        write_json(partial / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return sorted(pieces)


def copy_beside(verifier: Path, target: Path, weight_map: Mapping[str, str]) -> None:
    """The verifier's files, but its index and config, and without the tensors of its own head.

    An index does not hide a tensor: vLLM loads all that a listed file has, the last of a name wins, and
    ``model.safetensors`` comes after the head's file (``model_loader/weight_utils.py``).

    Raises:
        StageError: its file of the new head's name holds more than a head.
    """
    for path in sorted(verifier.iterdir()):
        if not path.is_file() or path.name in (INDEX_NAME, CONFIG_NAME):
            continue
        if path.suffix != ".safetensors":
            shutil.copyfile(path, target / path.name)
            continue
        tensors, metadata = read_header(path)
        kept = {name: piece for name, piece in tensors.items() if weight_map.get(name) == path.name}
        if path.name == STITCHED_NAME and any(not name.startswith("mtp.") for name in kept):
            raise unfit(path, "holds more than a head", "rename that file, in the index too")
        if path.name == STITCHED_NAME or not kept:
            continue
        if len(kept) == len(tensors):
            shutil.copyfile(path, target / path.name)
        else:
            write_weights(target / path.name, kept, metadata)


def promised(document: Mapping[str, Any]) -> dict[str, Any]:
    """The verifier's config, saying that it has a head of one layer; engines look for none otherwise."""
    changed = copy.deepcopy(dict(document))
    text: Any = text_config(changed)  # the language model's part of ``changed`` itself
    of_family = LAYERS_KEYS.get(text.get("model_type"), LAYERS_KEY)
    text[next((key for key in LAYERS_KEYS.values() if key in text), of_family)] = 1
    return changed


def require_fit(head: Path, stored: Mapping[str, Stored], verifier: Mapping[str, Any]) -> None:
    """Whether the head is whole and as wide as the verifier.

    Raises:
        StageError: it is not.
    """
    if missing := sorted(NEEDED - stored.keys()):
        raise unfit(head, f"lacks {', '.join(missing)}", STITCH_HINT)
    moe = "mtp_layers.0.mlp.experts.gate_up_proj" in stored
    if missing := sorted((MIXED if moe else DENSE) - stored.keys()):
        raise unfit(head, f"lacks {', '.join(missing)}", STITCH_HINT)
    hidden = text_config(verifier).get("hidden_size")
    wanted = {
        "mtp_layers.0.input_proj.weight": (hidden, 2 * hidden if isinstance(hidden, int) else None),
        "mtp_layers.0.final_layernorm.weight": (hidden,),
        "mtp_layers.0.input_layernorm.weight": (hidden,),
    }
    for name, shape in wanted.items():
        if stored[name].shape != shape:
            raise unfit(
                head,
                f"{name} is {list(stored[name].shape)}, the verifier's hidden_size {hidden!r}",
                STITCH_HINT,
            )


def require_alike(head: Path, trained: Mapping[str, Any], verifier: Mapping[str, Any]) -> None:
    """Whether the verifier's config has engines compute what the head was taken out as.

    A RoPE may reach farther than the head's; its base may not be another.

    Raises:
        StageError: it has not.
    """
    was, now = ({**side, **rope_parameters(side)} for side in (trained, verifier))
    said = [key for key in ALIKE if was.get(key) is not None and now.get(key) is not None]
    if unlike := [f"{key} {now[key]!r} instead of {was[key]!r}" for key in said if now[key] != was[key]]:
        raise unfit(head, f"the verifier's config has {', '.join(unlike)}", STITCH_HINT)


def native_pieces(name: str, piece: Stored, own: Mapping[str, Any]) -> dict[str, Any]:
    """One tensor of the head under its native name, experts apart where the verifier keeps them so."""
    native = native_name(name)
    if native is None:
        raise unfit(piece.path, f"{name} has no native name", STITCH_HINT)
    module, _, part = native.rpartition(".")
    if part not in ("gate_up_proj", "down_proj") or not apart(module, own):
        return {native: piece}
    halves = ("gate_proj", "up_proj") if part == "gate_up_proj" else ("down_proj",)
    count, rows, *columns = piece.shape  # [E, 2I, H] or [E, H, I]
    flat, size = piece._replace(shape=(count * rows, *columns)), rows // len(halves)
    places = [(index, half) for index in range(count) for half in halves]
    return {
        f"{module}.{index}.{half}.weight": rows_of(flat, place * size, (place + 1) * size)
        for place, (index, half) in enumerate(places)
    }


def apart(module: str, own: Mapping[str, Any]) -> bool:
    """Whether the verifier keeps experts apart: its own head's, else its layers', else as is published."""
    fused = [name for name in own if name.endswith("mlp.experts.gate_up_proj")]
    return f"{module}.gate_up_proj" not in own and (f"{module}.0.down_proj.weight" in own or not fused)
