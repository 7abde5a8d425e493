"""``config.json`` as typed records: everything the format can say, one class an algorithm.

A record reads what a document says, keeps what it does not know, and gives back the same document.
What a document leaves open stays open when it is written again: readers disagree about what a missing
flag means (vLLM takes a missing ``norm_before_residual`` of EAGLE-3 to be true, the format's first
writer took it to be false), so filling it in unasked would change a checkpoint for one of them.
The attribute then shows what vLLM takes, and ``explicit`` writes it out.

This module imports no torch: configs are read where there is none.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import speculators
from speculators.errors import StageError

Document = Mapping[str, Any]
R = TypeVar("R", bound="Record")

#: Stands for the class of a record's own kind where nobody names one; no document can say it.
OWN_CLASS: tuple[str, ...] = ("",)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object: declared fields, ``extra`` keys that no field declares, and what was left open.

    ``unsaid``: names of fields that the document did not have; they are not written.  A null where a
    value must stand says nothing either: it is in ``unsaid``, and in ``extra`` to be written back.
    """

    extra: Document = field(default_factory=dict)
    unsaid: frozenset[str] = frozenset()

    @classmethod
    def from_document(cls: type[R], document: Document, place: str = "config.json") -> R:
        """Read a JSON object.

        Raises:
            StageError: naming ``place`` and key, when a value is of another type or a required one
                is missing.
        """
        if not isinstance(document, Mapping):
            raise _unreadable(place, f"is {type(document).__name__}, not an object")
        hints = _hints(cls)
        said = {
            name: _read(document[name], hint, f"{place}: {name}")
            for name, hint in hints.items()
            if document.get(name) is not None or (name in document and _may_be_null(hint))
        }
        unsaid = hints.keys() - said.keys()
        if missing := [name for name in _required(cls) if name in unsaid]:
            raise _unreadable(place, f"has no {', '.join(missing)}")
        extra = {key: copy.deepcopy(value) for key, value in document.items() if key not in said}
        # vLLM asks for the key before its value: a flag that is null is off, whatever one that is missing is.
        off = {name: False for name in unsaid & document.keys() if hints[name] is bool}
        return cls(**said, **off, extra=extra, unsaid=frozenset(unsaid))

    def to_document(self) -> dict[str, Any]:
        """The JSON object, keys in alphabetical order; only ``unsaid`` fields are left out."""
        said = {name: _written(getattr(self, name)) for name in _hints(type(self)) if name not in self.unsaid}
        whole = {**copy.deepcopy(dict(self.extra)), **said}  # a null gives way once the field is written
        return {key: whole[key] for key in sorted(whole)}

    def explicit(self: R) -> R:
        """The same record with nothing left open: every field is written as its attribute reads."""
        return dataclasses.replace(self, unsaid=frozenset())


@dataclass(frozen=True, kw_only=True)
class GreedyTokenProposalConfig(Record):
    """How tokens are proposed.  vLLM reads ``speculative_tokens`` of the first method only.

    Methods of other types have other keys; they stay plain documents.
    """

    proposal_type: str = "greedy"
    speculative_tokens: int = 5
    verifier_accept_k: int = 1
    accept_tolerance: float = 0.0

    @classmethod
    def describes(cls, document: Any) -> bool:
        """Whether a method is of this type, which it is where it does not say."""
        return isinstance(document, Mapping) and document.get("proposal_type") in (None, "greedy")


@dataclass(frozen=True, kw_only=True)
class VerifierConfig(Record):
    """Which verifier the draft was made for; this project adds ``id`` and ``digest`` (``extra``)."""

    name_or_path: str | None = None
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SpeculatorsConfig(Record):
    """The block by which vLLM recognises the format."""

    algorithm: str = ""
    proposal_methods: tuple[GreedyTokenProposalConfig | Document, ...] = ()
    default_proposal_method: str = "greedy"
    verifier: VerifierConfig = field(default_factory=VerifierConfig)


@dataclass(frozen=True, kw_only=True)
class SpeculatorModelConfig(Record):
    """What the configs of all algorithms have in common.

    ``transformer_layer_config`` is the draft decoder's Hugging Face config, as it stands: vLLM
    passes it on and fills in nothing.
    """

    kind: ClassVar[str] = ""
    architecture: ClassVar[str] = ""

    speculators_config: SpeculatorsConfig
    transformer_layer_config: Document
    speculators_model_type: str = ""
    speculators_version: str = speculators.__version__
    architectures: tuple[str, ...] = OWN_CLASS
    dtype: str | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        # A record made in code says which algorithm it is without being told.
        if not self.speculators_model_type:
            object.__setattr__(self, "speculators_model_type", self.kind)
        if self.architectures is OWN_CLASS:
            object.__setattr__(self, "architectures", (self.architecture,) if self.architecture else ())

    @classmethod
    def read(cls, document: Document, place: str = "config.json") -> SpeculatorModelConfig:
        """The record of the algorithm that ``document`` names.

        Raises:
            StageError: it names none that is known, or is not a checkpoint's config at all.
        """
        if not isinstance(document, Mapping) or "speculators_config" not in document:
            raise _unreadable(place, "has no speculators_config: not a checkpoint in this format")
        kind = document.get("speculators_model_type")
        if not isinstance(kind, str) or kind not in CONFIGS:
            raise _unreadable(
                place, f"speculators_model_type is {kind!r}; known: {', '.join(sorted(CONFIGS))}"
            )
        return CONFIGS[kind].from_document(document, place)

    @property
    def speculative_tokens(self) -> int | None:
        """How many tokens are proposed at once; None where the config does not say."""
        methods = self.speculators_config.proposal_methods
        first = methods[0] if methods else None
        if isinstance(first, GreedyTokenProposalConfig):
            return first.speculative_tokens
        said = None if first is None else first.get("speculative_tokens")
        return said if type(said) is int else None


@dataclass(frozen=True, kw_only=True)
class Eagle3SpeculatorConfig(SpeculatorModelConfig):
    """EAGLE-3 (arXiv 2503.01840)."""

    kind: ClassVar[str] = "eagle3"
    architecture: ClassVar[str] = "Eagle3DraftModel"

    draft_vocab_size: int | None = None  # None: the verifier's
    norm_before_residual: bool = True
    target_hidden_size: int | None = None  # None: the draft's own
    eagle_aux_hidden_state_layer_ids: tuple[int, ...] | None = None  # None: (2, N // 2, N - 3)
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False
    embed_requires_grad: bool = False


@dataclass(frozen=True, kw_only=True)
class PEagleSpeculatorConfig(Eagle3SpeculatorConfig):
    """P-EAGLE: EAGLE-3 that drafts all tokens in one pass."""

    kind: ClassVar[str] = "peagle"
    architecture: ClassVar[str] = "PEagleDraftModel"

    norm_before_residual: bool = False
    embed_requires_grad: bool = True
    mask_token_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class EagleSpeculatorConfig(SpeculatorModelConfig):
    """EAGLE (arXiv 2401.15077) and HASS (arXiv 2408.15766), which differ in training only."""

    kind: ClassVar[str] = "eagle"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    transformer_layer_architecture: str = "LlamaDecoderLayer"
    layernorms: bool = False
    fusion_bias: bool = False
    draft_vocab_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class MTPSpeculatorConfig(SpeculatorModelConfig):
    """A verifier's own multi-token-prediction head, apart from it; vLLM serves it inside it only."""

    kind: ClassVar[str] = "mtp"
    architecture: ClassVar[str] = "MTPDraftModel"

    num_nextn_predict_layers: int = 1


@dataclass(frozen=True, kw_only=True)
class DFlashSpeculatorConfig(SpeculatorModelConfig):
    """DFlash (arXiv 2602.06036)."""

    kind: ClassVar[str] = "dflash"
    architecture: ClassVar[str] = "DFlashDraftModel"

    draft_vocab_size: int | None = None
    block_size: int = 8
    target_hidden_size: int | None = None
    aux_hidden_state_layer_ids: tuple[int, ...] | None = None
    mask_token_id: int | None = None
    sliding_window_non_causal: bool = True
    sample_from_anchor: bool = False


@dataclass(frozen=True, kw_only=True)
class DSparkSpeculatorConfig(DFlashSpeculatorConfig):
    """DSpark: DFlash with a Markov head over the drafted tokens and a confidence head."""

    kind: ClassVar[str] = "dspark"
    architecture: ClassVar[str] = "DSparkDraftModel"

    markov_rank: int = 256
    markov_head_type: str = "vanilla"
    enable_confidence_head: bool = False  # the format's first writer has it on, and writes it
    confidence_head_with_markov: bool = False


@dataclass(frozen=True, kw_only=True)
class DFlash2SpeculatorConfig(DFlashSpeculatorConfig):
    """DFlash 2: DFlash with short convolutions and a candidate selector."""

    kind: ClassVar[str] = "dflash2"
    architecture: ClassVar[str] = "DFlash2DraftModel"

    conv_kernel_size: int = 2
    conv_group_size: int = 16
    selector_rank: int = 256
    selector_top_k: int = 16


@dataclass(frozen=True, kw_only=True)
class XPressSpeculatorConfig(DFlashSpeculatorConfig):
    """XPress: DFlash with a refiner; no released engine serves it."""

    kind: ClassVar[str] = "xpress"
    architecture: ClassVar[str] = "XPressDraftModel"

    xpress_rank: int = 256
    xpress_mlp_ratio: int = 2
    num_jacobi_passes: int = 6


#: ``speculators_model_type`` -> the record that reads it.
CONFIGS: dict[str, type[SpeculatorModelConfig]] = {
    config.kind: config
    for config in (
        Eagle3SpeculatorConfig,
        PEagleSpeculatorConfig,
        EagleSpeculatorConfig,
        MTPSpeculatorConfig,
        DFlashSpeculatorConfig,
        DSparkSpeculatorConfig,
        DFlash2SpeculatorConfig,
        XPressSpeculatorConfig,
    )
}


def _hints(record: type[Record]) -> dict[str, Any]:
    """The declared fields of a record and their types."""
    hints = get_type_hints(record)
    own = [one.name for one in dataclasses.fields(record) if one.name not in ("extra", "unsaid")]
    return {name: hints[name] for name in own}


def _required(record: type[Record]) -> list[str]:
    missing = dataclasses.MISSING
    return [
        one.name
        for one in dataclasses.fields(record)
        if one.default is missing and one.default_factory is missing
    ]


def _read(value: Any, hint: Any, place: str) -> Any:
    """``value`` as the type ``hint``: a record, a tuple of something, a mapping or a plain value."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise _unreadable(place, f"is {value!r}, not a list")
        return tuple(_read(one, get_args(hint)[0], f"{place}[{index}]") for index, one in enumerate(value))
    if get_origin(hint) in (Union, UnionType):
        if value is None and _may_be_null(hint):
            return None
        typed = (option for option in options if hasattr(option, "describes") and option.describes(value))
        return _read(value, next(typed, options[-1]), place)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_document(value, place)
    if get_origin(hint) is not None:
        if not isinstance(value, Mapping):
            raise _unreadable(place, f"is {value!r}, not an object")
        return copy.deepcopy(dict(value))
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise _unreadable(place, f"is {value!r}, not {hint.__name__}")
    return value


def _may_be_null(hint: Any) -> bool:
    return type(None) in get_args(hint)


def _written(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_document()
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return copy.deepcopy(dict(value)) if isinstance(value, Mapping) else value


def _unreadable(place: str, problem: str) -> StageError:
    return StageError(
        f"{place} {problem}",
        hint="correct the config, or convert the checkpoint: speculators convert SOURCE --to DIR",
        rule="checkpoint-config",
    )
