"""Which layout a checkpoint is in, told by its own keys and names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.verifier_layout import text_config
from speculators.convert.plan import Options, Plan
from speculators.convert.source import Source
from speculators.convert.source_config import require_sound
from speculators.errors import RecipeError


class Kind(NamedTuple):
    """A layout: ``module`` has its ``plan``; ``told`` says by what a source is one, or None.

    ``takes``: the fields of a request that mean something to it, beside the verifier.
    """

    name: str
    label: str
    module: str
    told: Callable[[Source], str | None]
    takes: frozenset[str]

    def plan(self, source: Source, options: Options) -> Plan:
        """What to write for ``source``, of this layout.

        Raises:
            StageError: its config says what it cannot mean, or converting it would lose or guess something.
            RecipeError: ``options`` ask for what it cannot do.
        """
        require_sound(source.config, str(source.folder / CONFIG_NAME))
        planned: Plan = import_module(self.module).plan(source, options)
        return planned


def _names(source: Source) -> set[str]:
    return {name.removeprefix("model.") for name in source.tensors}


def _architecture(source: Source) -> str:
    said = source.config.get("architectures")
    return str(said[0]) if isinstance(said, list) and said else ""


def _mtp(source: Source) -> str | None:
    return "it has tensors mtp.*" if "mtp.fc.weight" in source.tensors else None


def _dflash(source: Source) -> str | None:
    if "dflash_config" in source.config:
        return "its config has a dflash_config"
    return None


def _is_eagle3(source: Source) -> bool:
    names = _names(source)
    normed = {"midlayer.hidden_norm.weight", "layers.0.hidden_norm.weight"} & names
    return "fc.weight" in names and bool(normed)


def _nvidia(source: Source) -> str | None:
    found = sorted({"eagle_architecture_config", "parallel_draft_step"} & source.config.keys())
    producer = source.config.get("producer")
    if isinstance(producer, dict) and producer.get("name") == "modelopt":
        found.append("producer modelopt")
    return f"its config has {', '.join(found)}" if found and _is_eagle3(source) else None


def _nemo(source: Source) -> str | None:
    if not _is_eagle3(source) or not _architecture(source).startswith("LlamaEagle3"):
        return None
    return f"its architecture is {_architecture(source)}, as NeMo Automodel writes it"


def _specforge(source: Source) -> str | None:
    if not _is_eagle3(source) or _architecture(source) != "LlamaForCausalLMEagle3":
        return None
    return "its architecture is LlamaForCausalLMEagle3, as SpecForge and TorchSpec write it"


def _eagle3(source: Source) -> str | None:
    return "it has fc.weight and hidden_norm.weight in its first layer" if _is_eagle3(source) else None


def _eagle(source: Source) -> str | None:
    names = _names(source)
    if "fc.weight" in names and "layers.0.self_attn.q_proj.weight" in names and not _is_eagle3(source):
        shape = next(source.shape(name) for name in source.tensors if name.endswith("fc.weight"))
        joins = len(shape) == 2 and shape[1] == 2 * shape[0]
        return "its fc.weight is [H, 2H] and it has no hidden_norm" if joins else None
    return None


def _by_name_only(source: Source) -> str | None:
    """Of layouts that store nothing by which they differ from the one before."""
    return None


EAGLE3, EAGLE1 = "speculators.convert.eagle.eagle3", "speculators.convert.eagle.eagle1"

TOKENS = frozenset({"speculative_tokens"})
LAYERED = TOKENS | {"aux_layers"}
NORMED = LAYERED | {"flags"}

#: Keys by which a config promises native prediction heads.
PROMISES = ("mtp_num_hidden_layers", "num_nextn_predict_layers", "num_mtp_layers")

#: Asked in this order: what is more particular comes first.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("mtp", "a verifier with a native MTP head", "speculators.convert.mtp", _mtp, TOKENS),
        Kind("dflash", "z-lab DFlash", "speculators.convert.dflash", _dflash, LAYERED),
        Kind("nvidia", "NVIDIA ModelOpt EAGLE-3", EAGLE3, _nvidia, NORMED),
        Kind("nemo", "NVIDIA NeMo Automodel EAGLE-3", EAGLE3, _nemo, NORMED),
        Kind("specforge", "SpecForge or TorchSpec EAGLE-3", EAGLE3, _specforge, NORMED),
        Kind("torchspec", "TorchSpec EAGLE-3", EAGLE3, _by_name_only, NORMED),
        Kind("eagle3", "SafeAILab EAGLE-3", EAGLE3, _eagle3, NORMED),
        Kind("eagle", "SafeAILab EAGLE or HASS", EAGLE1, _eagle, TOKENS),
        Kind("hass", "HASS", EAGLE1, _by_name_only, TOKENS),
    )
}


def detect(source: Source, asked: str | None = None) -> tuple[Kind, str]:
    """The layout of ``source`` and by what it was told; ``asked`` overrides.

    Raises:
        RecipeError: it is none that is known, or is in the speculators format already.
    """
    if asked is not None:
        if asked not in KINDS:
            hint = f"known are {', '.join(KINDS)}; leave it out to detect"
            raise RecipeError(f"--from {asked}: no such layout", hint=hint, rule="usage")
        return KINDS[asked], "as given"
    if "speculators_config" in source.config:
        raise RecipeError(
            f"{source.folder}: is in the speculators format already",
            hint="'speculators inspect DIR' says whether it is sound, '--fix NEW' mends it",
            rule="nothing-to-convert",
        )
    for kind in KINDS.values():
        if by := kind.told(source):
            return kind, by
    if _is_whole(source):
        raise whole_model(source)
    raise RecipeError(
        f"{source.folder}: of no layout that is known ({', '.join(KINDS)}): {_seen(source)}",
        hint="say which: --from KIND",
        rule="unknown-layout",
    )


def whole_model(source: Source) -> RecipeError:
    """The refusal of a verifier, whose native head may be of a family that is not taken out here."""
    text = text_config(source.config)
    promised = [f"{key} {text[key]}" for key in PROMISES if text.get(key)]
    found = f"a whole model, {_architecture(source) or 'unnamed'}, not a draft"
    hint = "name the draft's folder as SOURCE and this one as --verifier"
    if promised:
        found = f"{found}; its config promises native heads ({', '.join(promised)})"
        hint = (
            "only heads under mtp.* (Qwen3-Next, Qwen3.5) are taken out; vLLM serves others where they are, "
            "with the speculative method mtp"
        )
    return RecipeError(f"{source.folder}: {found}", hint=hint, rule="not-a-draft")


def _is_whole(source: Source) -> bool:
    """Whether it embeds tokens and joins nothing to them, as a verifier does and no draft."""
    embeds, joins = (
        any(name.endswith(end) for name in source.tensors) for end in ("embed_tokens.weight", "fc.weight")
    )
    return embeds and not joins


def _seen(source: Source) -> str:
    names = ", ".join(sorted(source.tensors)[:4])
    return f"architecture {_architecture(source) or 'not said'}, tensors {names}, ..."
