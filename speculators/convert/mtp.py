"""Native multi-token-prediction heads: taken out of a verifier, and put back into one.

The format keeps a head apart, to be trained on; vLLM serves it inside its verifier only.  Names of
Qwen3-Next and Qwen3.5: ``mtp.fc`` joins embedding and state, ``mtp.layers.0`` is one decoder layer
(vLLM ``model_executor/models/qwen3_next_mtp.py``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import speculators
from speculators.checkpoint.folder import new_folder
from speculators.checkpoint.verifier_layout import text_config
from speculators.checkpoint.weights_file import read_header, write_weights
from speculators.convert.account import Fate, accounted, kept_or_renamed
from speculators.convert.plan import DEFAULT_TOKENS, Options, Plan, speculators_block
from speculators.convert.source import Source, folder_tensors
from speculators.documents import write_json
from speculators.errors import RecipeError, StageError

#: Native prefix -> the format's.  Both ways: no prefix begins another.
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
STITCHED_NAME = "model-mtp.safetensors"


def plan(source: Source, options: Options) -> Plan:
    """The head of the verifier in ``source``, apart from it.

    Raises:
        StageError: there is none, it has more than one layer, or is quantised.
    """
    place = str(source.folder)
    native = [name for name in source.tensors if name.startswith("mtp.")]
    renamed = {name: extracted_name(name) for name in native}
    if not native or "mtp.fc.weight" not in renamed:
        raise StageError(
            f"{place}: no tensor mtp.fc.weight: no native head of a kind that is known", rule="source-tensors"
        )
    if unknown := [name for name, target in renamed.items() if target is None]:
        raise StageError(
            f"{place}: {unknown[0]} has no place in the format, which has one layer", rule="source-tensors"
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
    fields = [Fate(name, "kept", "transformer_layer_config") for name in text]
    return Plan(document, pieces, fields, accounted(native, fates, {}, ""))


def extracted_name(name: str) -> str | None:
    """A native tensor's name in the format; None for one that it has no place for."""
    for prefix, target in PREFIXES.items():
        if name.startswith(prefix):
            return target + name.removeprefix(prefix)
    return None


def native_name(name: str) -> str | None:
    """The other way round; of equal prefixes the longest."""
    for prefix, native in sorted(
        ((there, here) for here, there in PREFIXES.items()), key=lambda pair: -len(pair[0])
    ):
        if name.startswith(prefix):
            return native + name.removeprefix(prefix)
    return None


def fused_experts(
    source: Source, experts: Mapping[str, re.Match[str]], place: str
) -> dict[str, torch.Tensor]:
    """Experts apart, [I, H] and [H, I] each -> ``gate_up_proj`` [E, 2I, H] and ``down_proj`` [E, H, I]."""
    parts: dict[str, dict[tuple[int, str], torch.Tensor]] = {}
    for name, match in experts.items():
        parts.setdefault(match["experts"], {})[int(match["index"]), match["part"]] = source.load(name)
    fused = {}
    for module, found in parts.items():
        count = 1 + max(index for index, _ in found)
        if len(found) != 3 * count:
            raise StageError(f"{place}: {module} lacks parts of its {count} experts", rule="source-tensors")
        rows = [torch.cat([found[index, "gate_proj"], found[index, "up_proj"]]) for index in range(count)]
        fused[f"{module}.gate_up_proj"] = torch.stack(rows)
        fused[f"{module}.down_proj"] = torch.stack([found[index, "down_proj"] for index in range(count)])
    return fused


def stitch(head: Path, verifier: Path, target: Path) -> list[str]:
    """Write into ``target`` the verifier with the head of ``head`` as its native one.

    The verifier's other files are linked where the file system can, else copied; its own head, if
    it has one, is left out of the index.  Returns the names of the head's tensors.

    Raises:
        StageError: a tensor of the head has no native name or another shape than the verifier's own.
        RecipeError: ``head`` and ``target`` are no such folders.
    """
    from speculators.checkpoint.model import read_config
    from speculators.checkpoint.verifier_weights import INDEX_NAME
    from speculators.checkpoint.weights_file import WEIGHTS_NAME

    if read_config(head).speculators_model_type != "mtp":
        raise RecipeError(
            f"{head}: not an mtp checkpoint", hint="stitch takes what convert --from mtp made", rule="usage"
        )
    own = folder_tensors(verifier)
    pieces: dict[str, Any] = {}
    for name, piece in read_header(head / WEIGHTS_NAME)[0].items():
        pieces |= native_pieces(name, piece, own)
    for name, piece in pieces.items():
        if name in own and tuple(own[name].shape) != tuple(piece.shape):
            raise StageError(
                f"{head}: {name} is {list(piece.shape)}, the verifier's own {list(own[name].shape)}",
                rule="source-tensors",
            )
    weight_map = {name: piece.path.name for name, piece in own.items() if not name.startswith("mtp.")}
    weight_map |= dict.fromkeys(pieces, STITCHED_NAME)
    kept_files = set(weight_map.values()) - {STITCHED_NAME}
    with new_folder(target) as partial:
        for path in sorted(verifier.iterdir()):
            if (
                path.is_file()
                and path.name != INDEX_NAME
                and (path.suffix != ".safetensors" or path.name in kept_files)
            ):
                shutil.copyfile(path, partial / path.name)
        write_weights(partial / STITCHED_NAME, pieces)
        total = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        write_json(partial / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return sorted(pieces)


def native_pieces(name: str, piece: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """One tensor of the head under its native name, experts apart where the verifier keeps them so."""
    from speculators.checkpoint.weights_file import load_stored

    native = native_name(name)
    if native is None:
        raise StageError(f"{name} has no native name", rule="source-tensors")
    module, _, part = native.rpartition(".")
    if part in ("gate_up_proj", "down_proj") and f"{module}.0.down_proj.weight" in own:
        whole = load_stored(piece)  # [E, 2I, H] or [E, H, I]
        halves = ("gate_proj", "up_proj") if part == "gate_up_proj" else ("down_proj",)
        return {
            f"{module}.{index}.{half}.weight": chunk
            for index, expert in enumerate(whole)
            for half, chunk in zip(halves, expert.chunk(len(halves)))
        }
    return {native: piece}
