"""Values that no checkpoint should have: refused where they stand, with a way out, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.convert.account import flattened
from speculators.convert.kinds import KINDS, detect
from speculators.convert.plan import Options
from speculators.convert.run import Request, convert
from speculators.convert.source import Source, open_source
from speculators.errors import SpeculatorsError, StageError
from tests.convert import sources

MADE = {
    "eagle3": sources.safeailab, "nvidia": sources.nvidia, "eagle": sources.eagle1, "dflash": sources.dflash,
    "mtp": sources.mtp,
}  # fmt: skip
NAN = float("nan")
IDS = "eagle_aux_hidden_state_layer_ids"

#: Name -> layout, and what its config says instead; a key with a dot stands in a block.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ids: text": ("eagle3", {IDS: "2,6,9"}),
    "ids: an object": ("eagle3", {IDS: {}}),
    "ids: halves": ("eagle3", {IDS: [2.5, 6, 9]}),
    "ids: in a block, text": ("nvidia", {f"eagle_config.{IDS}": ["a"]}),
    "ids: beyond the verifier": ("eagle3", {IDS: [1, 2, 99]}),
    "block ids: text": ("dflash", {"dflash_config.target_layer_ids": ["a"]}),
    "block ids: beyond the verifier": ("dflash", {"dflash_config.target_layer_ids": [1, 5, 98]}),
    "block ids: before the embeddings": ("dflash", {"dflash_config.target_layer_ids": [-2, 5, 8]}),
    "a list for a block": ("nvidia", {"eagle_config": [1]}),
    "a list for DFlash's block": ("dflash", {"dflash_config": [1]}),
    "a block of one": ("dflash", {"block_size": 1}),
    "a block of text": ("dflash", {"block_size": "4"}),
    "a mask of text": ("dflash", {"dflash_config.mask_token_id": "x"}),
    "no mask": ("dflash", {"dflash_config.mask_token_id": None}),
    "a mask beyond the vocabulary": ("dflash", {"dflash_config.mask_token_id": 50}),
    "another vocabulary": ("dflash", {"vocab_size": 60}),
    "architectures: a number": ("eagle3", {"architectures": 5}),
    "architectures: an object": ("nvidia", {"architectures": {"a": 1}}),
    "a flag of text": ("eagle3", {"norm_before_residual": "true"}),
    "RoPE: a list": ("eagle3", {"rope_scaling": [1]}),
    "RoPE: a type nobody knows": ("eagle3", {"rope_scaling": {"type": "swirl"}}),
    "RoPE: a type that is a list": ("eagle3", {"rope_scaling": {"type": []}}),
    "RoPE: yarn from nowhere": (
        "eagle3", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": None},
    ),
    "RoPE: an original length of text": (
        "eagle3", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "original_max_position_embeddings": "8"},
    ),
    "RoPE: long without factors": (
        "eagle", {"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 8}},
    ),
    "RoPE: too few factors": (
        "eagle", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0],
                                   "original_max_position_embeddings": 8}},
    ),
    "RoPE: a bound of text": (
        "eagle", {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8,
                                   "beta_fast": "x"}},
    ),
    "RoPE: a base without logarithm": (
        "eagle", {"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0,
                                                      "original_max_position_embeddings": 8}},
    ),
    "RoPE: a factor of text": ("eagle", {"rope_scaling": {"type": "linear", "factor": "2"}}),
    "RoPE: a base of text": ("eagle3", {"rope_theta": "abc"}),
    "RoPE: half of each head and more": ("mtp", {"rope_parameters": {"partial_rotary_factor": 1.5}}),
    "epsilon: text": ("eagle3", {"rms_norm_eps": "abc"}),
    "epsilon: no number": ("eagle3", {"rms_norm_eps": NAN}),
    "epsilon: negative": ("eagle", {"rms_norm_eps": -1}),
    "epsilon: none": ("eagle3", {"rms_norm_eps": None}),
    "positions: text": ("eagle3", {"max_position_embeddings": "abc"}),
    "positions: without end": ("eagle3", {"max_position_embeddings": float("inf")}),
    "target width: text": ("eagle3", {"target_hidden_size": "x"}),
    "target width: huge": ("eagle3", {"target_hidden_size": 99999}),
    "another width": ("eagle3", {"hidden_size": 32}),
    "an odd head": ("eagle3", {"head_dim": 7}),
    "heads that cannot share": ("eagle3", {"num_attention_heads": 3}),
    "a head's verifier without heads": ("mtp", {"num_attention_heads": None}),
    "a head's verifier of text": ("mtp", {"hidden_size": "16"}),
}  # fmt: skip

TensorChange = Callable[[dict[str, torch.Tensor]], object]

#: The same of its tensors.
TENSORS: dict[str, tuple[str, TensorChange]] = {
    "fc: flat": ("eagle3", lambda t: t.update({"fc.weight": t["fc.weight"].flatten()})),
    "fc: flat, of EAGLE": ("eagle", lambda t: t.update({"fc.weight": t["fc.weight"].flatten()})),
    "fc: flat, of DFlash": ("dflash", lambda t: t.update({"fc.weight": t["fc.weight"].flatten()})),
    "fc: empty": ("eagle3", lambda t: t.update({"fc.weight": t["fc.weight"][:0]})),
    "fc: all zero": ("eagle", lambda t: t.update({"fc.weight": t["fc.weight"] * 0})),
    "a last norm of zeros": ("dflash", lambda t: t.update({"norm.weight": t["norm.weight"] * 0})),
    "a head that is a number": ("eagle3", lambda t: t.update({"lm_head.weight": torch.ones(())})),
    "no head to a map": ("eagle3", lambda t: t.pop("lm_head.weight")),
    "a map of halves": ("eagle3", lambda t: t.update(d2t=t["d2t"] + 0.5)),
    "a map in two dimensions": ("eagle3", lambda t: t.update(d2t=t["d2t"].reshape(2, 10))),
    "a map cut short": ("eagle3", lambda t: t.update(d2t=t["d2t"][:10])),
    "no map at all": ("eagle3", lambda t: t.update(d2t=t["d2t"][:0])),
    "marks in two dimensions": ("eagle3", lambda t: t.update(t2d=t["t2d"].reshape(2, 25))),
    "marks for fewer": ("eagle3", lambda t: (t.pop("d2t"), t["t2d"][2].fill_(False))),
    "a native matrix of another width": (
        "mtp", lambda t: t.update({"mtp.layers.0.mlp.up_proj.weight": torch.ones(4, 12)}),
    ),
}  # fmt: skip


def changed(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The config with another value of a key; of one with a dot, in a block."""
    key, _, rest = path.partition(".")
    return {**config, key: changed(config[key], rest, value) if rest else value}


def said(folder: Path, changes: dict[str, Any]) -> None:
    document = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        document = changed(document, path, value)
    (folder / "config.json").write_text(json.dumps(document))


def refused(source: Path, **asked: Any) -> SpeculatorsError:
    verifier = sources.verifier(source.parent / "verifier")
    before = {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")}
    with pytest.raises(SpeculatorsError) as caught:
        convert(Request(str(source), str(verifier), **asked), source.parent / "new" / "draft")
    assert {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")}.keys() == before.keys()
    assert str(source) in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", CONFIGS)
def test_a_value_that_a_config_cannot_mean_is_refused(name: str, tmp_path: Path) -> None:
    kind, changes = CONFIGS[name]
    source = MADE[kind](tmp_path / "source")
    said(source, changes)
    refused(source)


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_a_draft_cannot_have_is_refused(name: str, tmp_path: Path) -> None:
    kind, change = TENSORS[name]
    source = MADE[kind](tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file({key: one.contiguous() for key, one in tensors.items()}, source / "model.safetensors")
    refused(source)


def stopped(source: Source, options: Options) -> SpeculatorsError | None:
    """What keeps a plan from being made."""
    try:
        kind, _ = detect(source)
        kind.plan(source, options)
    except SpeculatorsError as error:
        return error
    return None


ODD: tuple[Any, ...] = (None, "x", "", -1, 0, 1.5, NAN, 10**30, True, [], [1], ["a"], {}, {"a": 1}, [[1]])


@pytest.mark.parametrize("kind", MADE)
def test_whatever_a_key_says_a_plan_is_made_or_refused(kind: str, tmp_path: Path) -> None:
    folder = MADE[kind](tmp_path / "source")
    source = open_source(str(folder))
    blocks = {key: inner for key, inner in source.config.items() if isinstance(inner, dict)}
    verifier = {"num_hidden_layers": sources.DEPTH, "vocab_size": sources.VOCAB, "hidden_size": 16}
    for path in (*source.config, *flattened(blocks)):
        for value in ODD:
            odd = source._replace(config=changed(source.config, path, value))
            error = stopped(odd, Options("verifier", verifier))
            assert error is None or (str(folder) in error.message and error.hint), (path, value, error)


VERIFIERS: dict[str, dict[str, Any]] = {
    "narrower": {"hidden_size": 32},
    "shallower": {"num_hidden_layers": 5},
    "of text": {"num_hidden_layers": "twelve"},
    "narrower, by another name": {"hidden_size": None, "n_embd": 32},
    "of text, by another name": {"num_hidden_layers": None, "n_layer": "12"},
    "of halves of a layer": {"num_hidden_layers": 12.5},
    "of endless tokens": {"vocab_size": 1 << 40},
    "of a list of parts": {"text_config": [1]},
    "of text inside": {"text_config": {"hidden_size": "16"}},
    "without positions": {"max_position_embeddings": "many"},
    "of a number's class": {"architectures": 5},
}


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("kind", ["nvidia", "dflash"])
def test_a_verifier_that_the_draft_does_not_fit_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    source = MADE[kind](tmp_path / "source")
    verifier = sources.verifier(tmp_path / "verifier")
    said(verifier, VERIFIERS[name])
    with pytest.raises(StageError) as caught:
        convert(Request(str(source), str(verifier)), tmp_path / "new")
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", sources.VERIFIERS)
@pytest.mark.parametrize("kind", ["eagle3", "eagle", "dflash"])
def test_what_a_verifier_leaves_to_its_class_or_calls_otherwise_is_no_reason_to_refuse(
    kind: str, name: str, tmp_path: Path
) -> None:
    source = MADE[kind](tmp_path / "source")
    verifier = sources.verifier(tmp_path / "verifier")
    (verifier / "config.json").write_text(json.dumps(sources.VERIFIERS[name]))
    asked = {"eagle3": sources.IDS}.get(kind)
    done = convert(Request(str(source), str(verifier), aux_layers=asked), tmp_path / "new")
    assert done.proof is not None
    assert done.proof.ok
    assert done.plan.document["transformer_layer_config"]["vocab_size"] == sources.VOCAB


PICKLES: dict[str, tuple[str, Callable[[torch.Tensor], Any]]] = {
    "complex": ("no type for", lambda t: t.to(torch.complex64)),
    "sparse": ("without plain elements", lambda t: t.to_sparse()),
    "of no memory": ("without plain elements", lambda t: t.to("meta")),
    "quantised": ("no type for", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "larger than its bytes": ("more elements than", lambda t: torch.zeros(1, 1).expand(1 << 20, 1 << 14)),
    "no tensor": ("not a tensor", lambda t: [1.0]),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickled_tensor_without_plain_elements_is_refused(name: str, tmp_path: Path) -> None:
    problem, change = PICKLES[name]
    source = sources.safeailab(tmp_path / "source", pickled=True)
    tensors = sources.eagle3_tensors()
    torch.save({**tensors, "norm.weight": change(tensors["norm.weight"])}, source / "pytorch_model.bin")
    assert problem in refused(source).message


def test_a_pickle_of_old_torch_is_read(tmp_path: Path) -> None:
    source = sources.safeailab(tmp_path / "source", pickled=True)
    tensors = sources.eagle3_tensors()
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = open_source(str(source))
    assert all(torch.equal(found.load(name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("made", "asked"), [("eagle3", "dflash"), ("dflash", "eagle3"), ("eagle3", "eagle"), ("eagle", "hass2")]
)
def test_another_layout_than_the_source_s_is_refused_with_a_way_out(made, asked, tmp_path: Path) -> None:
    source = MADE[made](tmp_path / "source")
    verifier = sources.verifier(tmp_path / "verifier")
    with pytest.raises(SpeculatorsError) as caught:
        convert(Request(str(source), str(verifier), asked), tmp_path / "new")
    assert "leave" in caught.value.hint
    assert asked in KINDS or "no such layout" in caught.value.message
