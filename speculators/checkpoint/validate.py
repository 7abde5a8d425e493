"""Does vLLM get all it needs from this folder?  Every check it does not make itself.

A draft with a missing tensor, an unwritten flag or a shifted vocabulary map loads and serves
without a word, at an acceptance near zero.  Shapes and names come from the file's header; only the
numerical checks read tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speculators.checkpoint.check import Check, failures
from speculators.checkpoint.config import CONFIG_NAME, compared_format
from speculators.checkpoint.config_checks import config_checks, fit_checks
from speculators.checkpoint.folder import read_object
from speculators.checkpoint.format import Format
from speculators.checkpoint.tensors import (
    EMBED_TOKENS,
    LM_HEAD,
    Shape,
    canonical_name,
    is_reduced,
)
from speculators.checkpoint.tokenizer import tokenizer_checks
from speculators.checkpoint.verifier_layout import verifier_text
from speculators.checkpoint.verifier_weights import VerifierWeights, load_verifier_weights
from speculators.checkpoint.vocabulary import from_offsets
from speculators.checkpoint.weights_file import described, mapped, read_header, torch_names
from speculators.documents import read_json
from speculators.errors import StageError

ROWS_AT_ONCE = 4096

#: Tensors that hold whole numbers.
MAPS = {"d2t", "t2d"}

#: Distance of two rows that are one, over their length: rounding to four bits and fine-tuning stay below.
NEAR = 0.4


class Subject(NamedTuple):
    """What is checked: a config and its tensors by their canonical names, and the folder they are from."""

    folder: Path
    format: Format
    document: Mapping[str, Any]
    pieces: dict[str, Any]  # weights_file.Stored or torch.Tensor

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: described(piece)[1] for name, piece in self.pieces.items()}

    @property
    def is_kin(self) -> bool:
        """Whether it is of a kind that only others train: it has tensors that the format does not know."""
        return self.document.get("speculators_model_type") in self.format.kin

    def tensor(self, name: str) -> torch.Tensor:
        return mapped(self.pieces[name])


def validate(
    folder: Path,
    verifier_dir: Path | None = None,
    *,
    own_ends: bool = False,
    broken: Collection[str] | None = None,
) -> list[Check]:
    """Check the checkpoint in ``folder``, against its verifier's files if given.

    ``own_ends``: embedding and head may be the draft's own (other trainers train them), so a
    difference from the verifier's is a warning.  ``broken``: tensors with values that are not finite, from
    a writer that watched for them (``Watch``); None reads all weights to find them.  Later checks need what
    earlier ones establish, so a folder that cannot be read yields only the checks up to there.
    """
    checks = list(file_checks(folder))
    if failures(checks):
        return checks
    (weights,) = folder.glob("*.safetensors")
    pieces, _ = read_header(weights)
    severity = "warning" if own_ends else "error"
    document = read_json(folder / CONFIG_NAME)
    return checks + content_checks(folder, document, pieces, verifier_dir, severity, broken)


def content_checks(
    folder: Path,
    document: Mapping[str, Any],
    pieces: Mapping[str, Any],
    verifier_dir: Path | None = None,
    severity: str = "error",
    broken: Collection[str] | None = None,
) -> list[Check]:
    """The checks of a config and its tensors (``weights_file.Stored`` or torch's), as made of ``folder``.

    ``severity``: of an embedding or head that is not the verifier's; ``broken``: as ``validate`` takes it.
    """
    checks = list(config_checks(document))
    known = compared_format(document)
    if failures(checks) or known is None:
        return checks
    subject = Subject(folder, known, document, by_canonical_name(pieces))
    checks += shape_checks(subject)
    if failures(checks):
        return checks
    checks += value_checks(subject, broken)
    if verifier_dir is not None and not failures(checks):
        checks += verifier_checks(subject, verifier_dir, severity)
    return checks


def subject_of(folder: Path, document: Mapping[str, Any], known: Format) -> Subject:
    """The checkpoint in ``folder``, whose files have been found readable."""
    (weights,) = folder.glob("*.safetensors")
    return Subject(folder, known, document, by_canonical_name(read_header(weights)[0]))


def by_canonical_name(pieces: Mapping[str, Any]) -> dict[str, Any]:
    return {canonical_name(name): piece for name, piece in pieces.items()}


def file_checks(folder: Path) -> Iterator[Check]:
    """The files themselves: one readable weight file, a readable config, no code."""
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    # vLLM loads every safetensors file that it finds, so a second one overwrites or breaks the first.
    yield Check("one weight file", len(weights) == 1, f"{len(weights)}: {', '.join(weights) or 'none'}")
    code = sorted(path.name for path in folder.glob("*.py"))
    yield Check("no Python file", not code, ", ".join(code) or "none")
    for name in weights:
        try:
            yield Check("weights readable", True, f"{name}: {len(read_header(folder / name)[0])} tensors")
        except StageError as error:
            yield Check("weights readable", False, error.message)
    try:
        read_object(folder / CONFIG_NAME)
    except StageError as error:
        yield Check("config readable", False, error.message)
    else:
        yield Check("config readable", True, f"{CONFIG_NAME}: one JSON object")


def shape_checks(subject: Subject) -> Iterator[Check]:
    """Names and shapes against what the flags call for."""
    wanted = subject.format.tensors(subject.document)
    known = wanted.required | wanted.optional
    missing = sorted(wanted.required.keys() - subject.shapes.keys())
    yield Check("no tensor missing", not missing, ", ".join(missing) or f"{len(wanted.required)} required")
    if not subject.is_kin:
        # Engines rebuild RoPE tables and skip stored ones.
        unknown = sorted(name for name in subject.shapes.keys() - known.keys() if "rotary_emb" not in name)
        yield Check("no unknown tensor", not unknown, ", ".join(unknown) or "none")
    wrong = [
        f"{name} {list(shape)}, not {list(known[name])}"
        for name, shape in sorted(subject.shapes.items())
        if name in known and shape != known[name]
    ]
    types = {name: described(piece)[0] for name, piece in subject.pieces.items()}
    whole = [
        f"{name} {types[name]}"
        for name in sorted(known.keys() & types.keys() - MAPS)
        if not types[name].startswith(("F", "BF"))
    ]
    yield Check("tensor types", not whole, ", ".join(whole) or "all floating but the maps")
    yield Check("tensor shapes", not wrong, "; ".join(wrong) or "as the flags say")


def value_checks(subject: Subject, broken: Collection[str] | None = None) -> Iterator[Check]:
    """Finite weights and a sound vocabulary map."""
    if broken is None:
        broken = [name for name in subject.shapes if not is_finite(subject.tensor(name))]
    yield Check("finite weights", not broken, ", ".join(sorted(broken)) or "all finite")
    if is_reduced(subject.document):
        yield from vocabulary_checks(subject)
    if not subject.is_kin:
        yield from subject.format.checks(subject.document, subject.tensor)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither infinity nor NaN, as whole numbers never do.

    By its ends, which a NaN becomes too: twenty times faster than asking every element, and without a
    mask half as large as an embedding.
    """
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:  # torch has no order for 8-bit floats
        tensor = tensor.float()
    return all(math.isfinite(end.item()) for end in tensor.aminmax())


class Watch:
    """Looks at weights while they are written (``write_weights``), so that no check reads them again.

    While it is entered torch computes in one thread: a part of a file is too little to be shared, and
    threads that wait for the next one keep the cores from reading and writing.

    Raises:
        StageError: when called with a type that no draft is stored in.
    """

    def __init__(self) -> None:
        self.broken: set[str] = set()  # names of tensors that are not finite
        self.types = {name: dtype for dtype, name in torch_names().items()}

    def __enter__(self) -> Watch:
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.threads)

    def __call__(self, name: str, dtype: str, part: memoryview) -> None:
        if dtype not in self.types:
            hint = "export the draft again, in a floating type"
            raise StageError(f"{name} is of type {dtype}, as no draft is", hint=hint, rule="source-tensors")
        if not is_finite(torch.frombuffer(part, dtype=self.types[dtype])):
            self.broken.add(name)


def vocabulary_checks(subject: Subject) -> Iterator[Check]:
    """``d2t`` holds offsets that lead to distinct, ascending verifier ids, as ``t2d`` says."""
    vocab_size = subject.document["transformer_layer_config"]["vocab_size"]
    d2t = subject.tensor("d2t")
    yield Check("d2t type", d2t.dtype == torch.int64, str(d2t.dtype))
    ids = from_offsets(d2t.to(torch.int64))  # [Vd]
    # Zeros lead to ids 0..Vd-1, arange to every second id: both are a map that was never filled in.
    unfilled = bool((d2t == 0).all()) or bool((d2t == torch.arange(len(d2t))).all())
    yield Check("d2t filled in", not unfilled, "zeros or arange" if unfilled else "neither zeros nor arange")
    rising = bool((ids[1:] > ids[:-1]).all())
    yield Check("d2t ascends", rising, "ids ascend" if rising else "ids repeat or fall")
    inside = bool((ids >= 0).all() and (ids < vocab_size).all())
    yield Check("d2t in range", inside, f"ids {int(ids.min())}..{int(ids.max())} of {vocab_size}")
    if "t2d" in subject.shapes:
        members = subject.tensor("t2d").bool().nonzero().flatten()
        yield Check("t2d agrees", torch.equal(members, ids), f"{len(members)} marked, {len(ids)} mapped")


def verifier_checks(subject: Subject, verifier_dir: Path, severity: str) -> Iterator[Check]:
    """Widths, layers, tokenizer, embedding and head rows against the verifier's own files."""
    facts = verifier_text(read_json(verifier_dir / CONFIG_NAME))
    fits = list(fit_checks(subject.format, subject.document, facts))
    yield from fits
    yield from tokenizer_checks(subject.folder, subject.document, verifier_dir)
    hidden = subject.document["transformer_layer_config"]["hidden_size"]
    unlike = any(not check.ok for check in fits if check.name == "verifier vocabulary")
    if unlike or facts.get("hidden_size", hidden) != hidden:
        return
    try:
        verifier = load_verifier_weights(verifier_dir)
    except StageError as error:
        yield Check("verifier's ends readable", False, error.message, severity)
        return
    unsaid = {key: size for key, size in sizes_by_rows(verifier).items() if key not in facts}
    late = list(fit_checks(subject.format, subject.document, unsaid))
    yield from late
    if failures(late) or unsaid.get("hidden_size", hidden) != hidden:
        return
    for end in ends(subject, verifier):
        yield rows_check(end, severity)


def sizes_by_rows(verifier: VerifierWeights) -> dict[str, int]:
    """Vocabulary and width by the embedding [V, H], where a config leaves them to its class."""
    rows, width = verifier.embedding.shape
    return {"vocab_size": rows, "hidden_size": width}


class End(NamedTuple):
    """A stored embedding or head, and the verifier's rows that it should hold: [N, H] each."""

    name: str
    stored: torch.Tensor
    rows: torch.Tensor
    trained: bool  # on purpose, as the config says

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Some rows of both at a time, in float32: the whole of an embedding would be gigabytes."""
        for stored, rows in zip(self.stored.split(ROWS_AT_ONCE), self.rows.split(ROWS_AT_ONCE)):
            yield stored.float(), rows.to(self.stored.dtype).float()

    @property
    def equal(self) -> bool:
        return all(torch.equal(stored, rows) for stored, rows in self.parts())

    def distances(self) -> torch.Tensor:
        """How far each stored row lies from its own, as a part of that one's length [N]."""
        found = [
            (stored - rows).norm(dim=-1) / rows.norm(dim=-1).clamp_min(1e-12) for stored, rows in self.parts()
        ]
        return torch.cat(found)


def ends(subject: Subject, verifier: VerifierWeights) -> Iterator[End]:
    """Embedding and head as far as the draft stores them."""
    document = subject.document
    head = verifier.head[from_offsets(subject.tensor("d2t"))] if is_reduced(document) else verifier.head
    trained = {EMBED_TOKENS: document.get("embed_requires_grad") is True}
    for name, rows in ((EMBED_TOKENS, verifier.embedding), (LM_HEAD, head)):
        if name in subject.shapes:
            yield End(name, subject.tensor(name), rows, trained.get(name, False))


def rows_check(end: End, severity: str) -> Check:
    """Whether frozen rows equal the verifier's; if not, how many point another way.

    Rows that are merely near are a warning: rounded to another type, of a quantised or fine-tuned copy of the
    verifier, or trained further.
    """
    name = f"{end.name} is the verifier's"
    if end.equal:
        return Check(name, True, "equal")
    distances = end.distances()
    strange = int((distances > NEAR).sum())
    detail = (
        f"differs; median distance of rows {float(distances.median()):.3f}, {strange} of {len(distances)} "
        f"above {NEAR} (a trained or rounded copy stays near 0, another row lies about 1 away)"
    )
    return Check(name, False, detail, "warning" if end.trained or not strange else severity)
