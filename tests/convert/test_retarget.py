"""A draft goes to a verifier that agrees with its own in all that it depends on, and to no other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.check import failures
from speculators.checkpoint.records import CONFIGS
from speculators.checkpoint.tokenizer import tokenizer_of
from speculators.cli.app import main
from speculators.convert.retarget import retarget
from speculators.convert.run import Request, convert
from speculators.errors import StageError
from speculators.inspection.draft import inspect_draft
from tests.convert import sources
from tests.inspection.faults import Subject, edit_config, good
from tests.models import tiny

TOKENS = {f"t{number}": number for number in range(tiny.CONFIG.vocab_size)}


def write_tokenizer(folder: Path, *, spaced: bool = True, template: str = "{{ messages }}", **changes: int):
    """The same tokenizer in either spelling of its merges, with other ids for some tokens."""
    pairs = [["t1", "t2"], ["t3", "t4"]]
    merges = [" ".join(one) for one in pairs] if spaced else pairs
    model = {"type": "BPE", "vocab": TOKENS | changes, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    made = good(tmp_path, 11)
    write_tokenizer(made.verifier)
    name = {"name_or_path": str(made.verifier), **tokenizer_of(made.verifier).recorded()}
    edit_config(made, lambda document: document["speculators_config"]["verifier"].update(name))
    return made


def quantised(subject: Subject, folder: Path) -> Path:
    """The verifier with its head in float8, saved by another version of the tokenizers library."""
    tensors = load_file(subject.verifier / "model.safetensors")
    head = tensors.pop("lm_head.weight").float()
    scale = head.abs().amax(dim=1, keepdim=True) / 448
    tensors["lm_head.weight"] = (head / scale).to(torch.float8_e4m3fn)
    tensors["lm_head.weight_scale"] = scale
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((subject.verifier / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, spaced=False)
    return folder


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(document))

    return change


def test_a_quantised_twin_takes_the_drafts_verifiers_place(subject: Subject, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in subject.folder.iterdir()}
    twin = quantised(subject, tmp_path / "fp8")
    done = retarget(subject.folder, str(twin), tmp_path / "new")
    assert {path.name: path.read_bytes() for path in subject.folder.iterdir()} == before
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == before["model.safetensors"]
    old, new = (json.loads((one / "config.json").read_text()) for one in (subject.folder, tmp_path / "new"))
    original, named = (one["speculators_config"].pop("verifier") for one in (old, new))
    assert old == new
    assert named["name_or_path"] == str(twin.resolve())
    assert named["trained_for"] == original == done.before
    assert "digest" not in named
    (rounded,) = [check for check in done.checks if not check.ok]
    assert (rounded.name, rounded.severity) == ("lm_head.weight is the verifier's", "warning")
    assert "0 of 20 above" in rounded.detail
    assert inspect_draft(tmp_path / "new", twin).defects == []
    again = retarget(tmp_path / "new", str(subject.verifier), tmp_path / "back")
    assert again.verifier["trained_for"] == original


def foreign_rows(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: torch.randn(one.shape).to(one.dtype) for name, one in tensors.items()},
              folder / "model.safetensors")  # fmt: skip


DIFFERENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "width": (config(hidden_size=32), r"verifier width \(16 against 32\)"),
    "vocabulary": (config(vocab_size=64), r"verifier vocabulary \(50 against 64\)"),
    "depth": (config(num_hidden_layers=8), r"verifier depth \(8 layers, trained for 6\)"),
    "no such layer": (config(num_hidden_layers=3), r"aux layers exist"),
    "family": (config(architectures=["Qwen3ForCausalLM"]), "verifier family"),
    "RoPE": (
        config(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        "verifier RoPE .*rope_theta: 10000.0 against 500000.0",
    ),
    "tokens": (lambda f: write_tokenizer(f, t7=8, t8=7), "2 tokens differ, such as 't7': 7 against 8"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "rows": (foreign_rows, r"lm_head.weight is the verifier's \(differs; median distance of rows 1\.\d+"),
    "no language model": (lambda f: (f / "config.json").write_text("{}"), "no language model"),
}  # fmt: skip


@pytest.mark.parametrize("change", DIFFERENT)
def test_a_verifier_that_differs_is_refused_and_nothing_written(change, subject: Subject, tmp_path) -> None:
    twin = quantised(subject, tmp_path / "fp8")
    spoil, complaint = DIFFERENT[change]
    spoil(twin)
    with pytest.raises(StageError, match=complaint):
        retarget(subject.folder, str(twin), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["draft", "fp8", "verifier"]


def cut_shard(folder: Path) -> None:
    """An index, and a file that ends before its tensors do."""
    names = load_file(folder / "model.safetensors").keys()
    shard = (folder / "model.safetensors").rename(folder / "m1.safetensors")
    shard.write_bytes(shard.read_bytes()[:-40])
    weight_map = {"weight_map": dict.fromkeys(names, shard.name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))


def false_index(folder: Path) -> None:
    """An index that names a tensor which its file does not have."""
    names = load_file(folder / "model.safetensors").keys()
    weight_map = {"weight_map": dict.fromkeys([*names, "lm_head.weight"], "model.safetensors")}
    save_file(
        {name: one for name, one in load_file(folder / "model.safetensors").items() if "lm_head" not in name},
        folder / "model.safetensors",
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))


DAMAGED_VERIFIERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a cut shard": (cut_shard, r"m1\.safetensors: .*truncated"),
    "a false index": (false_index, r"model\.safetensors: has no lm_head"),
    "depth in words": (config(num_hidden_layers="twelve"), "num_hidden_layers 'twelve'"),
    "an epsilon in words": (config(rms_norm_eps="x"), "rms_norm_eps is 'x', not a finite number"),
    "RoPE as a list": (
        config(rope_parameters=None, rope_scaling=[1]),
        r"fp8/config\.json: a value is not what",
    ),
    "classes as a number": (
        config(architectures=7),
        r"fp8: verifier family \(architectures is 7, not a list",
    ),
    "classes as a text": (config(architectures="Llama"), "architectures is 'Llama', not a list of texts"),
}


@pytest.mark.parametrize("change", DAMAGED_VERIFIERS)
def test_a_damaged_verifier_is_refused_and_named(
    change: str, subject: Subject, tmp_path: Path, capsys
) -> None:
    twin = quantised(subject, tmp_path / "fp8")
    spoil, complaint = DAMAGED_VERIFIERS[change]
    spoil(twin)
    asked = ["retarget", str(subject.folder), "--verifier", str(twin), "--to", str(tmp_path / "new")]
    assert main(asked) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(complaint, said), said
    assert not (tmp_path / "new").exists()


DAMAGED_DRAFTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list for its kind": lambda c: c.update(speculators_model_type=["eagle3"]),
    "ids in words": lambda c: c.update(eagle_aux_hidden_state_layer_ids=["a", 1]),
    "a number for layer types": lambda c: c["transformer_layer_config"].update(layer_types=5),
    "text for RoPE": lambda c: c["transformer_layer_config"].update(rope_parameters="x"),
    "text for its layer": lambda c: c.update(transformer_layer_config="x"),
    "text for its verifier": lambda c: c["speculators_config"].update(verifier="x"),
    "a number for a method": lambda c: c["speculators_config"].update(proposal_methods=[7]),
}


@pytest.mark.parametrize("change", DAMAGED_DRAFTS)
def test_a_damaged_draft_is_refused_and_named(change: str, subject: Subject, tmp_path: Path, capsys) -> None:
    edit_config(subject, DAMAGED_DRAFTS[change])
    asked = [
        "retarget",
        str(subject.folder),
        "--verifier",
        str(subject.verifier),
        "--to",
        str(tmp_path / "new"),
    ]
    assert main(asked) == 3
    assert str(subject.folder) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_the_original_the_draft_itself_is_asked(subject: Subject, tmp_path: Path) -> None:
    twin = quantised(subject, tmp_path / "fp8")
    for path in sorted(subject.verifier.iterdir()):
        path.unlink()
    subject.verifier.rmdir()
    retarget(subject.folder, str(twin), tmp_path / "new")
    write_tokenizer(twin, t7=8, t8=7)
    with pytest.raises(StageError, match="other token ids or merges"):
        retarget(subject.folder, str(twin), tmp_path / "other")


def test_a_draft_that_does_not_say_its_tokens_needs_a_witness(
    subject: Subject, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    twin = quantised(subject, tmp_path / "fp8")
    forget = {"name_or_path": "nowhere/to-be-found", "architectures": ["LlamaForCausalLM"]}
    edit_config(subject, lambda document: document["speculators_config"].update(verifier=forget))
    asked = ["retarget", str(subject.folder), "--verifier", str(twin)]
    assert main(asked) == 3
    assert "--trained-for MODEL names the one that does" in capsys.readouterr().err
    assert main([*asked, "--trained-for", str(subject.verifier), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "speculators/retarget/v1"
    assert report["before"] == forget
    written = subject.folder.with_name("draft-for-fp8")
    assert report["target"] == str(written)
    named = json.loads((written / "config.json").read_text())["speculators_config"]["verifier"]
    assert named["tokenizer"] == tokenizer_of(subject.verifier).tokens


def test_another_chat_template_is_a_note(subject: Subject, tmp_path: Path, capsys) -> None:
    twin = quantised(subject, tmp_path / "fp8")
    write_tokenizer(twin, template="{{ other }}")
    assert (
        main(["retarget", str(subject.folder), "--verifier", str(twin), "--to", str(tmp_path / "new")]) == 0
    )
    assert "note  chat template is the verifier's: another than" in capsys.readouterr().out


def test_a_broken_draft_is_not_passed_on(subject: Subject, tmp_path: Path) -> None:
    edit_config(subject, lambda document: document.pop("norm_output"))
    with pytest.raises(StageError, match="flags explicit"):
        retarget(subject.folder, str(subject.verifier), tmp_path / "new")


def dflash_like(subject: Subject, folder: Path, kind: str, **keys: Any) -> Path:
    """A draft of ``kind`` for the subject's verifier: DFlash's tensors, and one of its own."""
    source = sources.dflash(folder / "source")
    told = Request(str(source), str(subject.verifier), aux_layers=(1, 2, 4))
    convert(told, folder / "draft")
    document = json.loads((folder / "draft" / "config.json").read_text())
    record = CONFIGS[kind].from_document({**document, "speculators_model_type": kind, **keys})
    (folder / "draft" / "config.json").write_text(json.dumps(record.to_document()))
    tensors = load_file(folder / "draft" / "model.safetensors")
    save_file({**tensors, "markov_head.weight": torch.ones(4, 4)}, folder / "draft" / "model.safetensors")
    return folder / "draft"


@pytest.mark.parametrize(("kind", "keys"), [("dspark", {"markov_rank": 4}), ("dflash2", {"selector_rank": 4}),
                                            ("xpress", {"xpress_rank": 4})])  # fmt: skip
def test_a_kind_that_only_others_train_is_retargeted_and_its_tensors_are_not_judged(
    kind: str, keys: dict[str, Any], subject: Subject, tmp_path: Path
) -> None:
    draft, twin = dflash_like(subject, tmp_path / kind, kind, **keys), quantised(subject, tmp_path / "fp8")
    done = retarget(draft, str(twin), tmp_path / "new")
    (note,) = [check for check in done.checks if not check.ok]
    assert (note.name, note.severity) == ("tensors are those of its kind", "warning")
    was, now = (load_file(one / "model.safetensors") for one in (draft, tmp_path / "new"))
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    document = json.loads((tmp_path / "new" / "config.json").read_text())
    assert document["speculators_config"]["verifier"]["name_or_path"] == str(twin.resolve())
    assert document[next(iter(keys))] == 4
    config(num_hidden_layers=3)(twin)
    with pytest.raises(StageError, match="aux layers exist"):
        retarget(draft, str(twin), tmp_path / "shallow")


def test_a_native_head_is_stitched_not_retargeted(tmp_path: Path) -> None:
    source = sources.mtp(tmp_path / "model")
    convert(Request(str(source)), tmp_path / "head")
    with pytest.raises(StageError, match="served inside of one") as refused:
        retarget(tmp_path / "head", str(source), tmp_path / "new")
    assert "--stitch" in refused.value.hint


def test_a_draft_in_another_layout_is_sent_to_convert(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no draft in the speculators format") as refused:
        retarget(sources.safeailab(tmp_path / "source"), str(subject.verifier), tmp_path / "new")
    assert "speculators convert" in refused.value.hint
    assert not (tmp_path / "new").exists()


def test_what_is_no_draft_or_no_verifier_is_said(subject: Subject, tmp_path: Path, capsys) -> None:
    new = ["--to", str(tmp_path / "new")]
    weights = str(subject.folder / "model.safetensors")
    assert main(["retarget", str(tmp_path / "none"), "--verifier", str(subject.verifier), *new]) == 2
    assert "none: no such checkpoint folder" in capsys.readouterr().err
    assert main(["retarget", weights, "--verifier", str(subject.verifier), *new]) == 2
    assert "model.safetensors: is a file, not a checkpoint's folder" in capsys.readouterr().err
    assert main(["retarget", str(subject.folder), "--verifier", weights, *new]) == 2
    assert "model.safetensors: is a file, not a checkpoint's folder" in capsys.readouterr().err
    assert main(["retarget", str(subject.folder), "--verifier", str(subject.folder), *new]) == 3
    assert "no language model" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def gemma(folder: Path) -> None:
    """What Gemma 3 publishes: the vocabulary is left to the class, and is that of the embedding's rows."""
    document = json.loads((folder / "config.json").read_text())
    for key in ("vocab_size", "max_position_embeddings", "rms_norm_eps", "head_dim"):
        del document[key]
    text = document | {"model_type": "gemma3_text"}
    outer = {"architectures": document["architectures"], "model_type": "gemma3", "text_config": text}
    (folder / "config.json").write_text(json.dumps(outer))


@pytest.mark.parametrize("rows", [50, 64])
def test_a_vocabulary_that_is_left_to_the_class_is_that_of_the_embedding(
    rows: int, subject: Subject, tmp_path: Path
) -> None:
    shutil.copytree(subject.verifier, tmp_path / "gemma")
    gemma(tmp_path / "gemma")
    tensors = load_file(tmp_path / "gemma" / "model.safetensors")
    longer = {name: torch.cat([one, one])[:rows] if len(one) == 50 else one for name, one in tensors.items()}
    save_file(longer, tmp_path / "gemma" / "model.safetensors")
    found = {one.name for one in inspect_draft(subject.folder, tmp_path / "gemma").defects}
    if rows == 50:
        assert not found
        assert not failures(retarget(subject.folder, str(tmp_path / "gemma"), tmp_path / "new").checks)
    else:
        assert found == {"verifier vocabulary"}
        with pytest.raises(StageError, match=r"verifier vocabulary \(50 against 64\)"):
            retarget(subject.folder, str(tmp_path / "gemma"), tmp_path / "new")
