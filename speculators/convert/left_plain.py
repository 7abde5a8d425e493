"""Which modules a quantised verifier's config says are not quantised.

Engines make every linear module of such a model for quantised weights, but those that its config leaves out.
A plain head in another place loads without its scales, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.verifier_layout import text_config
from speculators.convert.source import unfit

#: ModelOpt's own file, which vLLM reads where the config says nothing (``transformers_utils/config.py``).
MODELOPT_NAME = "hf_quant_config.json"
MODELOPT = "modelopt"

#: What vLLM makes plain whatever the config lists (``model_executor/models/qwen3_next.py``), and in NVFP4
#: models besides (``qwen3_next_mtp.py``).
ROUTERS = (".gate", ".shared_expert_gate")
OF_NVFP4 = ("mtp.fc",)


def listed(rule: str, module: str) -> bool:
    """By its name; experts, which are one module in engines, also by theirs."""
    return rule in (module, re.sub(r"(\.experts)\..*", r"\1", module))


def matched(rule: str, module: str) -> bool:
    """By its name, or by an expression that it begins with."""
    return bool(re.match(rule[3:], module)) if rule.startswith("re:") else rule == module


def contained(rule: str, module: str) -> bool:
    return rule in module


def globbed(rule: str, module: str) -> bool:
    return rule in module or fnmatchcase(module, rule)


def left_out(rule: str, module: str) -> bool:
    """By an expression after ``-:``; others change how a module is quantised."""
    return rule.startswith("-:") and bool(re.match(rule[2:], module))


class Rules(NamedTuple):
    """Where a method lists what it leaves plain, the first that is not empty, and how a rule is read."""

    keys: tuple[str, ...]
    covers: Callable[[str, str], bool]


#: ``quant_method`` up to an underscore -> its rules (vLLM 0.32, ``layers/quantization``).
METHODS = {
    "fp8": Rules(("ignored_layers", "modules_to_not_convert"), listed),
    "compressed-tensors": Rules(("ignore",), matched),
    "awq": Rules(("modules_to_not_convert",), contained),
    "gptq": Rules(("dynamic",), left_out),
    MODELOPT: Rules(("ignore", "exclude_modules"), globbed),
}


def require_plain(names: Iterable[str], verifier: Path, config: Mapping[str, Any]) -> None:
    """Refuse plain tensors ``names`` of linear modules in a verifier that is quantised where they stand.

    Raises:
        StageError: naming the first such module, and where it would have to be listed.
    """
    place, block = quantisation_block(verifier, config)
    if not block:
        return
    method = str(block.get("quant_method") if isinstance(block, Mapping) else block)
    rules = METHODS.get(method.partition("_")[0])
    modules = [name.removesuffix(".weight") for name in names]
    if taken := [module for module in modules if not is_plain(module, rules, block)]:
        more = f" and {len(taken) - 1} more modules" if taken[1:] else ""
        way = f", or list the head's modules in {rules.keys[0]} of {place}" if rules else ""
        raise unfit(
            place,
            f"the verifier is quantised ({method}), in {taken[0]}{more} too, and the head is not",
            f"nothing was written; name the verifier that is not quantised{way}",
        )


def is_plain(module: str, rules: Rules | None, block: Any) -> bool:
    """Whether engines take the module's weight as it is, by what ``block`` lists."""
    if module.endswith(ROUTERS):
        return True
    if rules is None or not isinstance(block, Mapping):
        return False
    if block.get("quant_algo") == "NVFP4" and module in OF_NVFP4:
        return True
    said = next((block[key] for key in rules.keys if block.get(key)), ())
    return isinstance(said, Iterable) and any(covered(rules, rule, module) for rule in said)


def covered(rules: Rules, rule: Any, module: str) -> bool:
    """Whether ``rule`` is one, and leaves the module plain."""
    try:
        return isinstance(rule, str) and rules.covers(rule, module)
    except re.error:
        return False


def quantisation_block(verifier: Path, config: Mapping[str, Any]) -> tuple[str, Any]:
    """Where a verifier says how it is quantised, and what; None where it is not."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            if block := part.get(key):
                return f"{verifier / CONFIG_NAME}: {key}", block
    if not (path := verifier / MODELOPT_NAME).is_file():
        return "", None
    return str(path), {"quant_method": MODELOPT, **(read_object(path).get("quantization") or {})}
