"""``inspect`` on a model: what a draft for it needs, from its files alone."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.verifier_layout import CLASS_DEFAULTS
from speculators.cli.app import main
from speculators.convert.source_config import names_a_draft
from speculators.inspection.draft import inspect_draft
from speculators.inspection.families import AUX_STATES, HAND_OUT, HYBRID, KEEP
from speculators.inspection.verifier import inspect_verifier, is_model
from speculators.recipe.facts import CLASS_VOCABULARIES
from tests.bundle.hub import standing_in
from tests.convert import sources
from tests.convert.test_retarget import write_tokenizer
from tests.inspection.faults import good
from tests.models import tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tiny.write_verifier(tmp_path / "model")
    write_tokenizer(folder)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(document))


def said(folder: Path) -> dict[str, tuple[bool | None, str]]:
    return {line.name: (line.ok, line.detail) for line in inspect_verifier(folder).lines}


def test_a_model_that_a_draft_can_be_trained_for(model: Path, capsys: pytest.CaptureFixture) -> None:
    assert inspect_verifier(model).facts["default_aux_layers"] is None  # 2, 3 and 3 of six
    edit(model, num_hidden_layers=12)
    assert main(["inspect", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["missing"]) == ("speculators/inspect-verifier/v1", [])
    assert (report["aux_states"], report["default_aux_layers"]) == ("yes", [2, 6, 9])
    assert report["head"] == {"kind": "untied", "scale": 1.0, "soft_cap": None, "norm": "RMSNorm"}
    assert report["quantisation"] is None
    assert report["state_bytes_per_1000_tokens"] == 1000 * 4 * 16 * 2
    assert main(["inspect", str(model)]) == 0
    assert "ok       head: untied; final norm RMSNorm" in capsys.readouterr().out


def test_what_lies_between_head_and_logits_is_said(model: Path) -> None:
    edit(
        model,
        tie_word_embeddings=True,
        final_logit_softcapping=30.0,
        logit_scale=0.5,
        model_type="gemma3_text",
    )
    scaled = "tied to the embedding, scaled by 0.5, soft-capped at 30"
    assert said(model)["head"] == (True, f"{scaled}; final norm RMSNorm times (1 + weight)")


@pytest.mark.parametrize(
    ("changes", "name", "complaint"),
    [
        ({"architectures": ["Gemma3ForCausalLM"]}, "aux states", "does not hand out its states"),
        ({"kv_lora_rank": 512}, "capture", "MLA"),
        ({"model_type": "olmo"}, "head", "its final norm has no weight"),
    ],
)
def test_what_is_missing_is_exit_code_6(
    changes, name, complaint, model: Path, capsys: pytest.CaptureFixture
) -> None:
    edit(model, **changes)
    assert main(["inspect", str(model)]) == 6
    assert any(line.startswith(f"missing  {name}: ") and complaint in line
               for line in capsys.readouterr().out.splitlines())  # fmt: skip


def test_what_nobody_knows_is_not_called_missing(model: Path) -> None:
    edit(model, architectures=["SomethingNewForCausalLM"])
    assert said(model)["aux states"][0] is None
    edit(model, architectures=["Qwen3NextForCausalLM"])
    assert said(model)["capture"] == (
        None, "layers without attention: the connector has handed out zeros for such models; probe first"
    )  # fmt: skip
    assert inspect_verifier(model).missing == []


def test_quantised_layers_and_a_quantised_head_are_told_apart(model: Path) -> None:
    edit(model, quantization_config={"quant_method": "compressed-tensors"})
    assert said(model)["quantisation"] == (True, "compressed-tensors; embedding and head are plain")
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight_scale"] = torch.ones(50, 1)
    save_file(tensors, model / "model.safetensors")
    assert said(model)["quantisation"][1] == "compressed-tensors; quantised too: lm_head (weight_scale)"


def test_without_the_weights_the_index_tells_where_the_head_is(model: Path) -> None:
    names = dict.fromkeys(load_file(model / "model.safetensors"), "model-00001-of-00009.safetensors")
    (model / "model.safetensors").unlink()
    assert said(model)["head"] == (None, "tensor names are not at hand")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert said(model)["head"][1].startswith("untied")
    assert said(model)["weights"] == (None, "1 files of the index are not here")


def test_drafts_and_models_are_told_apart(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert is_model(model)
    assert is_model(sources.mtp(tmp_path / "mtp"))
    for layout in (sources.specforge, sources.eagle1, sources.dflash):
        assert not is_model(layout(tmp_path / layout.__name__))
    draft = good(tmp_path / "good", 1).folder
    assert not is_model(draft)
    (draft / "config.json").write_text('{"a":')
    assert not is_model(draft)
    assert main(["inspect", str(model), "--fix", str(tmp_path / "new")]) == 2
    assert "--verifier, --fix, --probe, --run and --serve are for drafts" in capsys.readouterr().err
    (model / "config.json").write_text('{"model_type": "vit"}')
    assert main(["inspect", str(model)]) == 2
    assert "neither a draft in the speculators format nor a language model" in capsys.readouterr().err


def pickled(folder: Path) -> Path:
    """The same weights as ``torch.save`` writes them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("layout", ["safeailab", "specforge", "eagle1", "dflash"])
def test_a_draft_with_pickled_weights_is_no_model(layout: str, model: Path, tmp_path: Path) -> None:
    folder = pickled(getattr(sources, layout)(tmp_path / layout))
    assert not is_model(folder)
    assert inspect_draft(folder, sources.verifier(tmp_path / "verifier")).defects == []
    assert is_model(pickled(model))


def test_a_value_that_no_model_has_is_said_of_the_models_config(
    model: Path, capsys: pytest.CaptureFixture
) -> None:
    document = json.loads((model / "config.json").read_text()) | {
        "rope_parameters": None,
        "rope_scaling": [3],
    }
    (model / "config.json").write_text(json.dumps(document))
    assert main(["inspect", str(model)]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"{model / 'config.json'}: a value is not what is read there" in said


def test_without_weights_keys_and_names_tell_drafts_from_models(model: Path, tmp_path: Path) -> None:
    for layout in (sources.safeailab, sources.nvidia, sources.nemo, sources.dflash):
        folder = layout(tmp_path / layout.__name__)
        (folder / "model.safetensors").unlink()
        assert not is_model(folder)
    index = {"weight_map": {"fc.weight": "a.safetensors", "layers.0.mlp.up_proj.weight": "b.safetensors"}}
    (model / "model.safetensors").unlink()
    assert is_model(model)
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_model(model)
    index = {"weight_map": {"h.0.mlp.c_fc.weight": "a.safetensors", "mtp.fc.weight": "b.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert is_model(model)
    assert not [name for name in AUX_STATES if names_a_draft({"architectures": [name]})]


@pytest.mark.parametrize("kept", ["model.safetensors", "pytorch_model.bin"])
def test_of_a_repository_weights_are_fetched_where_nothing_else_tells(
    kept: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    draft = sources.eagle1(tmp_path / "draft")  # the class of a plain model
    if kept != "model.safetensors":
        pickled(draft)
    with standing_in() as hub:
        for name, folder in {"own/draft": draft, "own/model": model}.items():
            hub.repositories[name] = {path.name: path.read_bytes() for path in folder.iterdir()}
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        assert main(["inspect", "own/draft", "--verifier", str(sources.verifier(tmp_path / "verifier"))]) == 0
        assert "own/draft: no defect" in capsys.readouterr().out
        main(["inspect", "own/model"])
        assert "ok       tokenizer" in capsys.readouterr().out
        fetched = {path.split("/resolve/")[0] for command, path in hub.requests if path.endswith(kept)}
    assert fetched == {"/own/draft"}


def classes_of(root: Path) -> dict[str, set[str]]:
    """Names of classes below the engine's model folders, and of what they inherit."""
    found: dict[str, set[str]] = {}
    for folder in (root / "model_executor" / "models", root / "models"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    bases = (base.value if isinstance(base, ast.Subscript) else base for base in node.bases)
                    names = {
                        base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in bases
                    }
                    found.setdefault(node.name, set()).update(names)
                elif isinstance(node, ast.ImportFrom):
                    for alias in node.names:
                        if alias.asname:
                            found.setdefault(alias.asname, set()).add(alias.name)
    return found


def registered(root: Path) -> Iterator[tuple[str, str]]:
    """Architecture and class of every generating model in the engine's registry."""
    wanted = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
    tree = ast.parse((root / "model_executor" / "models" / "registry.py").read_text(encoding="utf-8"))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in wanted and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined] # both kinds of assignment have a value
            for key, value in zip(node.value.keys, node.value.values):  # type: ignore[attr-defined] # as above
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    yield key.value, ast.literal_eval(value.elts[1])


@pytest.mark.integration
def test_the_table_of_families_is_what_the_installed_engines_classes_say() -> None:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("no vLLM here")
    root = Path(spec.origin).parent
    inherits = classes_of(root)

    def has(name: str, wanted: str, seen: frozenset[str] = frozenset()) -> bool:
        if name == wanted:
            return True
        return any(has(base, wanted, seen | {name}) for base in inherits.get(name, set()) - seen)

    known = dict(registered(root))
    assert len(known) > 200
    assert {name for name, kind in known.items() if has(kind, "SupportsEagle3")} == set(HAND_OUT)
    assert known.keys() - set(HAND_OUT) == set(KEEP)
    assert {name for name, kind in known.items() if has(kind, "IsHybrid")} == set(HYBRID)


def test_the_published_gemma_3_is_a_language_model(tmp_path: Path) -> None:
    """Of google/gemma-3-12b-it's config, what is written of the language model."""
    text = {"hidden_size": 3840, "intermediate_size": 15360, "model_type": "gemma3_text",
            "num_attention_heads": 16, "num_hidden_layers": 48, "num_key_value_heads": 8,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text,
    }))  # fmt: skip
    facts = inspect_verifier(tmp_path).facts
    assert (facts["vocab_size"], facts["max_position_embeddings"]) == (262208, 131072)
    assert facts["rope_parameters"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    assert facts["default_aux_layers"] == [2, 24, 45]


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_what_is_filled_in_is_what_the_class_has() -> None:
    from transformers import AutoConfig

    for kind, row in CLASS_DEFAULTS.items():
        known = AutoConfig.for_model(kind)
        filled = {**known.to_dict(), "rope_theta": known.rope_parameters["full_attention"]["rope_theta"]}
        assert {key: filled[key] for key in row} == row
        assert known.vocab_size == CLASS_VOCABULARIES[kind]
