from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.convert import proof as proofs
from speculators.convert.eagle.eagle3_converter import Eagle3Converter
from speculators.convert.mtp import stitch
from speculators.convert.plan import Options
from speculators.convert.run import Conversion, Request, convert
from speculators.convert.source import open_source
from speculators.errors import RecipeError, StageError
from tests.convert import sources
from tests.models import tiny


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return sources.verifier(tmp_path / "verifier")


def run(source: Path, verifier: Path | None, **asked: object) -> Conversion:
    name = None if verifier is None else str(verifier)
    return convert(Request(str(source), name, **asked), source.parent / "converted")  # type: ignore[arg-type]


def written(source: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    folder = source.parent / "converted"
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "eagle3": sources.safeailab, "specforge": sources.specforge, "nvidia": sources.nvidia,
    "nemo": sources.nemo,
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_same_eagle3_draft_in_every_layout_becomes_the_same_tensors(kind, tmp_path, verifier) -> None:
    source = LAYOUTS[kind](tmp_path / "source")
    done = run(source, verifier)
    assert done.kind == kind
    document, tensors = written(source)
    expected = sources.eagle3_tensors("layers.0")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert tensors.keys() - expected.keys() <= {"embed_tokens.weight"}
    assert document["eagle_aux_hidden_state_layer_ids"] == [2, 6, 9]
    assert document["speculators_config"]["verifier"]["name_or_path"] == str(verifier.resolve())
    flags = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
    assert [document[flag] for flag in flags] == [False] * 4
    assert "model_type" not in document
    assert done.proof is not None
    assert done.proof.largest < 1e-5
    assert done.proof.tokens == 1.0


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_key_and_tensor_of_the_source_is_accounted_for(kind, tmp_path, verifier) -> None:
    source = LAYOUTS[kind](tmp_path / "source")
    done = run(source, verifier)
    config = json.loads((source / "config.json").read_text())
    assert config.keys() <= {fate.name.partition(".")[0] for fate in done.plan.fields}
    assert load_file(source / "model.safetensors").keys() <= {fate.name for fate in done.plan.tensors}
    assert all(fate.why for fate in (*done.plan.fields, *done.plan.tensors) if fate.fate == "dropped")
    (unknown,) = [fate for fate in done.plan.fields if fate.name == "somebody_elses"]
    assert unknown.fate == "dropped"


def test_a_pickle_of_plain_tensors_is_read(tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source", pickled=True)
    run(source, verifier)
    assert torch.equal(written(source)[1]["fc.weight"], sources.eagle3_tensors()["fc.weight"])


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_with_code_is_refused_and_its_code_not_run(tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source", pickled=True)
    torch.save({"fc.weight": torch.ones(1), "x": Bomb(tmp_path / "ran")}, source / "pytorch_model.bin")
    with pytest.raises(StageError, match="no plain tensors in it"):
        run(source, verifier)
    assert not (tmp_path / "ran").exists()


def edit(source: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (lambda t: t.update(d2t=sources.DRAFT_IDS), "absolute ids"),
        (lambda t: t.pop("d2t"), "t2d: its marked tokens"),
        (lambda t: t.pop("t2d"), "the only sound reading"),
    ],
)
def test_a_map_in_another_form_becomes_the_same_map(change, by, tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source")
    edit(source, change)
    done = run(source, verifier)
    _, tensors = written(source)
    expected = sources.eagle3_tensors()
    assert torch.equal(tensors["d2t"], expected["d2t"])
    assert torch.equal(tensors["t2d"], expected["t2d"])
    assert any(by in fate.why for fate in done.plan.tensors)


def test_a_map_out_of_order_is_put_in_order_together_with_the_head(tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source")
    order = torch.randperm(sources.DRAFT_VOCAB, generator=torch.Generator().manual_seed(1))

    def shuffle(tensors: dict) -> None:
        tensors["d2t"] = sources.DRAFT_IDS[order]
        tensors["lm_head.weight"] = tensors["lm_head.weight"][order]

    edit(source, shuffle)
    done = run(source, verifier)
    _, tensors = written(source)
    expected = sources.eagle3_tensors()
    assert torch.equal(tensors["lm_head.weight"], expected["lm_head.weight"])
    assert torch.equal(tensors["d2t"], expected["d2t"])
    assert done.proof is not None
    assert done.proof.tokens == 1.0


REFUSED: dict[str, tuple[Callable[[dict], object], str]] = {
    "a bias after fc": (lambda t: t.update({"fc.bias": torch.ones(16)}), r"fc\.bias is not zero"),
    "no map": (lambda t: (t.pop("d2t"), t.pop("t2d")), "neither d2t nor t2d"),
    "a map that t2d contradicts": (lambda t: t.update(d2t=t["d2t"] + 1), "neither offsets nor absolute ids"),
    "a map that can be both": (
        lambda t: (t.update(d2t=torch.arange(20) + 3), t.pop("t2d")),
        "can be read both ways",
    ),
    "an unfilled map": (
        lambda t: (t.update(d2t=torch.zeros(20, dtype=torch.int64)), t.pop("t2d")),
        "neither offsets nor absolute ids",
    ),
    "no last norm": (lambda t: t.pop("norm.weight"), r"no tensor norm\.weight"),
    "a missing matrix": (lambda t: t.pop("midlayer.mlp.up_proj.weight"), "no tensor missing"),
    "an unknown tensor": (lambda t: t.update(extra=torch.ones(1)), "no unknown tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_converted_without_loss_is_refused(case, tmp_path, verifier) -> None:
    change, complaint = case
    source = sources.safeailab(tmp_path / "source")
    edit(source, change)
    with pytest.raises(StageError, match=complaint):
        run(source, verifier)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "verifier"]


def test_a_bias_of_zeros_is_dropped_and_said(tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source")
    edit(source, lambda tensors: tensors.update({"fc.bias": torch.zeros(16)}))
    done = run(source, verifier)
    assert ("fc.bias", "dropped") in [(fate.name, fate.fate) for fate in done.plan.tensors]


def test_layer_ids_that_can_mean_two_things_stop_with_both(tmp_path, verifier) -> None:
    source = sources.nvidia(tmp_path / "source", ids=(1, 4, 8))
    with pytest.raises(StageError, match=r"after \[1, 4, 8\] layers.*after \[2, 5, 9\] layers"):
        run(source, verifier)
    done = run(source, verifier, aux_layers=(1, 4, 8))
    assert written(source)[0]["eagle_aux_hidden_state_layer_ids"] == [1, 4, 8]
    assert any(fate.why == "as given" for fate in done.plan.fields)


def test_the_class_interface_takes_maverick_s_ids_as_vllm_counts_them(tmp_path) -> None:
    verifier = sources.verifier(tmp_path / "verifier", num_hidden_layers=48)
    source = sources.nvidia(tmp_path / "source", ids=(1, 23, 44))
    Eagle3Converter().convert(
        input_path=source,
        output_path=tmp_path / "converted",
        base_model=str(verifier),
        validate=True,
        norm_before_residual=True,
        eagle_aux_hidden_state_layer_ids=[1, 23, 44],
    )
    document, _ = written(source)
    assert document["eagle_aux_hidden_state_layer_ids"] == [1, 23, 44]
    assert document["norm_before_residual"] is True


def test_a_proof_that_fails_leaves_nothing(tmp_path, verifier, monkeypatch) -> None:
    def spoiled(loaded, aux, embeddings):
        return [logits + torch.randn_like(logits) for logits in unspoiled(loaded, aux, embeddings)]

    unspoiled = proofs.stepped
    monkeypatch.setattr(proofs, "stepped", spoiled)
    with pytest.raises(StageError, match="differs by"):
        run(sources.safeailab(tmp_path / "source"), verifier)
    assert not (tmp_path / "converted").exists()


def test_eagle_becomes_what_vllm_s_eagle_method_loads(tmp_path, verifier) -> None:
    source = sources.eagle1(tmp_path / "source")
    done = run(source, verifier)
    document, tensors = written(source)
    assert (done.kind, document["model_type"], document["speculators_model_type"]) == (
        "eagle",
        "llama",
        "eagle",
    )
    stored = load_file(source / "model.safetensors")
    assert tensors.keys() == stored.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored.items())
    assert done.proof is not None
    assert done.proof.ok


def test_dflash_ids_count_outputs_and_are_translated(tmp_path, verifier) -> None:
    source = sources.dflash(tmp_path / "source")
    done = run(source, verifier)
    document, tensors = written(source)
    assert document["aux_hidden_state_layer_ids"] == [2, 6, 9]
    assert (document["mask_token_id"], document["block_size"]) == (49, 4)
    assert document["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 3
    stored = load_file(source / "model.safetensors")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored.items())
    assert done.proof is not None
    assert done.proof.ok


@pytest.mark.parametrize("experts", [0, 3])
def test_a_native_head_taken_out_and_put_back_is_the_same(experts: int, tmp_path) -> None:
    source = sources.mtp(tmp_path / "source", experts)
    done = run(source, None)
    document, tensors = written(source)
    assert done.kind == "mtp"
    assert "mtp_layers.0.input_proj.weight" in tensors
    assert ("mtp_layers.0.mlp.experts.gate_up_proj" in tensors) == bool(experts)
    assert document["transformer_layer_config"]["hidden_size"] == 16
    assert done.proof is not None
    assert done.proof.ok
    names = stitch(tmp_path / "converted", source, tmp_path / "stitched")
    original, again = load_file(source / "model.safetensors"), {}
    for path in (tmp_path / "stitched").glob("*.safetensors"):
        again |= {
            name: tensor for name, tensor in load_file(path).items() if path.name == "model-mtp.safetensors"
        }
    assert sorted(again) == names == sorted(name for name in original if name.startswith("mtp."))
    assert all(torch.equal(again[name], original[name]) for name in names)
    index = json.loads((tmp_path / "stitched" / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == original.keys()


def test_a_checkpoint_in_the_format_and_an_unknown_one_are_told_apart(tmp_path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source")
    run(source, verifier)
    with pytest.raises(RecipeError, match="in the speculators format already"):
        convert(Request(str(tmp_path / "converted"), str(verifier)), tmp_path / "again")
    odd = sources.write(tmp_path / "odd", sources.LLAMA, {"x.weight": torch.ones(2)})
    with pytest.raises(RecipeError, match="of no layout that is known"):
        convert(Request(str(odd), str(verifier)), tmp_path / "again")
    with pytest.raises(RecipeError, match="no verifier is named"):
        convert(Request(str(source)), tmp_path / "again")
    with pytest.raises(RecipeError, match="not an empty folder"):
        convert(Request(str(source), str(verifier)), tmp_path / "converted")


def test_a_verifier_given_as_the_draft_is_called_one(tmp_path: Path, verifier: Path) -> None:
    model = tiny.write_verifier(tmp_path / "model")
    with pytest.raises(RecipeError, match="a whole model, LlamaForCausalLM, not a draft") as refused:
        run(model, verifier)
    assert "--verifier" in refused.value.hint


@pytest.mark.parametrize("layout", ["nvidia", "specforge"])
def test_a_draft_given_as_the_verifier_is_called_one(layout: str, tmp_path: Path) -> None:
    source = LAYOUTS[layout](tmp_path / "source")
    with pytest.raises(StageError, match="of a draft, not of a verifier") as refused:
        run(source, source)
    assert "trained for" in refused.value.hint


def test_a_config_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, verifier: Path) -> None:
    source = sources.safeailab(tmp_path / "source")
    (source / "config.json").unlink()
    (source / "config.json").mkdir()
    with pytest.raises(StageError, match=r"config.json: cannot be read: not a regular file"):
        run(source, verifier)


def test_layers_that_the_user_names_for_a_dflash_draft_are_those_proved(tmp_path: Path, verifier) -> None:
    done = run(sources.dflash(tmp_path / "source"), verifier, aux_layers=(1, 2, 4))
    assert done.plan.document["aux_hidden_state_layer_ids"] == [1, 2, 4]
    assert done.proof is not None
    assert done.proof.ok


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_that_is_not_finite_is_seen_on_the_way(value: float, tmp_path: Path, verifier) -> None:
    source = sources.safeailab(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["fc.weight"].view(-1)[-1] = value
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(StageError, match=r"finite weights \(fc.weight\)"):
        run(source, verifier)
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("layout", "asked", "option"),
    [
        (sources.eagle1, {"aux_layers": (1, 2)}, "--aux-layers"),
        (sources.eagle1, {"flags": {"norm_output": True}}, "--norm"),
        (sources.dflash, {"flags": {"norm_output": True}}, "--norm"),
        (sources.mtp, {"aux_layers": (1, 2), "flags": {"fc_norm": True}}, "--aux-layers, --norm"),
        (sources.dflash, {"speculative_tokens": 4}, "--tokens 4"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(layout, asked, option, tmp_path, verifier) -> None:
    with pytest.raises(RecipeError, match=option) as refused:
        run(layout(tmp_path / "source"), verifier, **asked)
    assert refused.value.hint
    assert not (tmp_path / "converted").exists()


def test_the_class_interface_converts_eagle3_only(tmp_path: Path, verifier: Path) -> None:
    source = sources.dflash(tmp_path / "source")
    with pytest.raises(RecipeError, match="z-lab DFlash"):
        Eagle3Converter().convert(source, tmp_path / "converted", str(verifier))
    assert not (tmp_path / "converted").exists()


def test_a_draft_that_shares_its_verifier_s_head_is_proved_with_any(tmp_path: Path, verifier: Path) -> None:
    source = sources.safeailab(tmp_path / "source")
    edit(source, lambda tensors: [tensors.pop(name) for name in ("lm_head.weight", "d2t", "t2d")])
    done = run(source, verifier)
    assert "lm_head.weight" not in written(source)[1]
    assert done.plan.document["draft_vocab_size"] == sources.VOCAB
    assert done.proof is not None
    assert done.proof.tokens == 1.0


@pytest.mark.parametrize("lost", ["norm_output", "norm_before_residual", "d2t"])
def test_the_proof_reads_flags_and_map_from_the_source(lost: str, tmp_path: Path, verifier: Path) -> None:
    source = sources.safeailab(tmp_path / "source")
    run(source, verifier, flags={"norm_output": True})
    document, tensors = written(source)
    asked = Options(str(verifier), {}, flags={"norm_output": True})
    proof = proofs.prove("eagle3", open_source(str(source)), tmp_path / "converted", asked)
    assert proof is not None
    assert proof.tokens == 1.0
    if lost == "d2t":
        tensors["d2t"][-1] += 1
        save_file(tensors, tmp_path / "converted" / "model.safetensors")
    else:
        document[lost] = not document[lost]
        (tmp_path / "converted" / "config.json").write_text(json.dumps(document))
    with pytest.raises(StageError, match="differs by"):
        proofs.prove("eagle3", open_source(str(source)), tmp_path / "converted", asked)


def test_a_native_head_of_another_family_is_said_to_stay_where_it_is(tmp_path: Path, verifier: Path) -> None:
    names = ("model.embed_tokens", "model.layers.2.eh_proj", "model.layers.2.self_attn.q_proj")
    config = {**sources.LLAMA, "architectures": ["DeepseekV3ForCausalLM"], "num_nextn_predict_layers": 1}
    source = sources.write(
        tmp_path / "source", config, {f"{name}.weight": torch.ones(2, 2) for name in names}
    )
    with pytest.raises(RecipeError, match=r"promises native heads \(num_nextn_predict_layers 1\)") as refused:
        run(source, verifier)
    assert "vLLM serves others where they are" in refused.value.hint


def test_a_layout_that_two_trainers_share_is_called_by_both(tmp_path: Path, verifier: Path) -> None:
    assert run(sources.eagle1(tmp_path / "source"), verifier).label == "SafeAILab EAGLE or HASS"
    named = convert(Request(str(tmp_path / "source"), str(verifier), "hass"), tmp_path / "again")
    assert (named.kind, named.label) == ("hass", "HASS")


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "yarn", "factor": 4.0},
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"type": "su", "short_factor": [1.0, 1.5, 1.0, 3.0], "long_factor": [1.0, 2.0, 2.0, 2.0]},
    ],
)
def test_the_length_beside_ropes_block_is_read_as_vllm_does(
    scaling: dict, tmp_path: Path, verifier: Path
) -> None:
    source = sources.safeailab(tmp_path / "source")
    document = json.loads((source / "config.json").read_text())
    said = {"rope_scaling": scaling, "original_max_position_embeddings": 8}
    (source / "config.json").write_text(json.dumps({**document, **said}))
    done = run(source, verifier)
    rope = done.plan.document["transformer_layer_config"]["rope_parameters"]
    assert rope["original_max_position_embeddings"] == 8
    assert done.proof is not None
    assert done.proof.tokens == 1.0


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "mrope", "mrope_section": [1, 1, 2]},
        {"type": "linear", "factor": 4.0},
        {"type": "dynamic", "factor": 2.0},
        {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        {"type": "yarn", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32},
    ],
)  # fmt: skip
def test_every_kind_of_rope_is_carried_over_and_proved(scaling: dict, tmp_path: Path, verifier: Path) -> None:
    source = sources.safeailab(tmp_path / "source")
    document = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**document, "rope_scaling": scaling}))
    done = run(source, verifier)
    rope = done.plan.document["transformer_layer_config"]["rope_parameters"]
    kind = scaling.get("type") or scaling["rope_type"]
    assert rope["rope_type"] == ("default" if kind == "mrope" else kind)
    assert rope.items() >= {key: value for key, value in scaling.items() if "type" not in key}.items()
    assert done.proof is not None
    assert done.proof.tokens == 1.0


def said(source: Path, **changes: object) -> Path:
    document = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**document, **changes}))
    return source


def test_a_null_in_a_block_leaves_what_stands_outside(tmp_path: Path, verifier: Path) -> None:
    ids = "eagle_aux_hidden_state_layer_ids"
    source = said(
        sources.write(tmp_path / "source", sources.LLAMA, sources.eagle3_tensors()),
        architectures=["LlamaForCausalLMEagle3"],
        norm_before_residual=True,
        eagle_config={"norm_before_residual": None, ids: None, "target_hidden_size": None},
        **{ids: [3, 7, 12]},
    )
    done = run(source, verifier)
    assert (done.plan.document["norm_before_residual"], done.plan.document[ids]) == (True, [3, 7, 12])
    document, _ = written(source)
    document["norm_before_residual"] = False
    (tmp_path / "converted" / "config.json").write_text(json.dumps(document))
    with pytest.raises(StageError, match="differs by"):
        proofs.prove("eagle3", open_source(str(source)), tmp_path / "converted", Options(str(verifier), {}))


def test_the_reach_of_longrope_stays_and_with_it_the_attention_factor(tmp_path: Path, verifier: Path) -> None:
    long = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 2.0, 2.0],
            "original_max_position_embeddings": 32}  # fmt: skip
    for name, asked in {"eagle3": {}, "dflash": {"aux_layers": (2, 6, 9)}}.items():
        made = {"eagle3": sources.safeailab, "dflash": sources.dflash}[name]
        source = said(made(tmp_path / name / "source"), rope_scaling=long)
        done = run(source, sources.verifier(tmp_path / name / "v", max_position_embeddings=256), **asked)
        assert done.plan.document["transformer_layer_config"]["max_position_embeddings"] == 64


def test_rope_by_kinds_of_attention_layers_is_proved_by_the_full_one(tmp_path: Path, verifier: Path) -> None:
    kinds = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
             "full_attention": {"rope_type": "default", "rope_theta": 5000.0}}  # fmt: skip
    source = said(sources.safeailab(tmp_path / "source"), rope_parameters=kinds)
    layer = run(source, verifier).plan.document["transformer_layer_config"]
    assert layer["rope_parameters"]["rope_theta"] == 5000.0


def test_what_a_config_lacks_is_to_be_written_there(tmp_path: Path, verifier: Path) -> None:
    source = said(sources.safeailab(tmp_path / "source"), rms_norm_eps=None)
    with pytest.raises(StageError, match=r"config\.json: does not say rms_norm_eps") as refused:
        run(source, verifier)
    assert refused.value.hint.startswith("write it there")
