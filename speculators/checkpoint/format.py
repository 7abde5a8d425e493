"""How drafts of one architecture are stored and served: one record each, read by writer and reader,
validator, packaging and the server's command line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from speculators.checkpoint.check import Check
from speculators.checkpoint.records import SpeculatorModelConfig
from speculators.checkpoint.shape import DraftConfig
from speculators.checkpoint.tensors import EMBED_TOKENS, LM_HEAD, Layout, Shape

if TYPE_CHECKING:
    import torch

Document = Mapping[str, Any]


def no_checks(document: Document, tensor: Callable[[str], torch.Tensor]) -> Iterator[Check]:
    """For architectures without a question of their own."""
    yield from ()


def tell_nothing(shapes: Mapping[str, Shape]) -> bool:
    """For architectures whose tensors others have as well."""
    return False


class Format(NamedTuple):
    """One row of what ``config.json``, the weight file and vLLM's command line have to say.

    Values of ``flags`` and ``numbers`` stand in the config record under the same names.
    """

    record: type[SpeculatorModelConfig]  # names it, and knows what vLLM takes a missing flag to be
    label: str  # for people
    config: type[DraftConfig]
    family: str  # transformer_layer_config.model_type of what we write and compute
    families: tuple[str, ...]  # those that vLLM loads
    tensors: Callable[[Document], Layout]
    serve: Mapping[str, Any]  # vLLM's speculative config, without model and number of tokens
    layers_key: str | None = None  # the key of the captured layers' ids; None: the last layer only
    layers_assumed: bool = False  # vLLM takes layers of its own choice where none are written
    flags: tuple[str, ...] = ()  # that change arithmetic
    numbers: tuple[str, ...] = ()  # whole numbers that must be written
    fixed: Mapping[str, bool] = {}  # flags that our model does not vary, and their value
    copies: tuple[str, ...] = (EMBED_TOKENS, LM_HEAD)  # frozen tensors that are written even where optional
    windowed: bool = True  # our model computes sliding windows
    #: Further checks of the stored tensors, given the config and a reader of tensors by name.
    checks: Callable[[Document, Callable[[str], torch.Tensor]], Iterator[Check]] = no_checks
    #: The layer's keys stand at the top level as well, as plain Hugging Face configs have them: vLLM has
    #: no reader of the speculators format for this architecture.
    flat: bool = False
    at_once: bool = False  # all tokens come from one pass: it is trained for so many and no more
    flag_tensors: Mapping[str, str] = {}  # flags that leave tensors -> how the names of those begin
    #: Whether a draft with these shapes, by canonical names, can be of this architecture, one of its
    #: tensors missing or not.  Where no architecture says so, the tensors tell nothing.
    told_by: Callable[[Mapping[str, Shape]], bool] = tell_nothing
    #: Kinds that only others train: their tensors tell of this one, and they hang on a verifier as it does.
    kin: tuple[str, ...] = ()

    @property
    def stored_as(self) -> str:
        """The ``speculators_model_type``."""
        return self.record.kind

    @property
    def architecture(self) -> str:
        """The first of ``architectures``."""
        return self.record.architecture

    @property
    def open_flags(self) -> dict[str, bool]:
        """What vLLM takes each flag to be where it is not written."""
        defaults = {field.name: field.default for field in fields(self.record)}
        return {flag: bool(defaults[flag]) for flag in self.flags}

    def shown_flags(self, names: Collection[str]) -> dict[str, bool]:
        """The flags that leave a tensor, as a draft with tensors of these names must have them."""
        return {
            flag: any(name.startswith(start) for name in names) for flag, start in self.flag_tensors.items()
        }

    def aux_layers(self, document: Document) -> tuple[int, ...]:
        """The ids of the captured layers, as written."""
        return tuple(document[self.layers_key]) if self.layers_key else ()
