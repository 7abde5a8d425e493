"""Native heads are taken out without loading them, and put into a verifier that they fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.weights_file import Joined, Stored, read_header
from speculators.cli.app import main
from speculators.convert.account import Fate, flattened
from speculators.convert.mtp import plan, stitch
from speculators.convert.run import Request, convert, options_of
from speculators.convert.source import open_source
from speculators.errors import RecipeError, SpeculatorsError, StageError
from tests.convert import sources

EXPERTS = 3


def retensored(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def configured(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(document))


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return sources.mtp(tmp_path / "verifier", EXPERTS)


@pytest.fixture
def head(tmp_path: Path, verifier: Path) -> Path:
    convert(Request(str(verifier)), tmp_path / "head", checked=False)
    return tmp_path / "head"


def test_experts_are_laid_side_by_side_without_being_loaded(tmp_path: Path, verifier: Path) -> None:
    source = open_source(str(verifier))
    pieces = plan(source, options_of(Request(str(verifier)), source.config)).pieces
    fused = [piece for piece in pieces.values() if isinstance(piece, Joined)]
    assert len(fused) == 2
    lying = [
        part for piece in pieces.values() for part in (piece.parts if isinstance(piece, Joined) else (piece,))
    ]
    assert all(isinstance(part, Stored) for part in lying)


@pytest.mark.parametrize("nested", [False, True])
def test_every_key_of_the_verifiers_config_is_accounted_for(
    nested: bool, tmp_path: Path, verifier: Path
) -> None:
    config = json.loads((verifier / "config.json").read_text())
    config |= {"quantization_config": {"quant_method": "fp8"}, "use_cache": True}
    config = {"text_config": config, "vision_config": {"depth": 2}, "image_token_id": 9} if nested else config
    (verifier / "config.json").write_text(json.dumps(config))
    source = open_source(str(verifier))
    made = plan(source, options_of(Request(str(verifier)), source.config))
    fates = {fate.name: fate for fate in made.fields}
    start = "text_config." if nested else ""
    unsaid = [path for path in flattened(config) if path not in fates and path.partition(".")[0] not in fates]
    assert unsaid == []
    assert fates[f"{start}hidden_size"].fate == "kept"
    assert (
        fates[f"{start}quantization_config.quant_method" if nested else "quantization_config"].fate
        == "dropped"
    )
    assert fates["num_nextn_predict_layers"] == Fate(
        "num_nextn_predict_layers", "derived", "1", "layers of the head that was taken out"
    )
    assert {fate.name for fate in made.fields if fate.fate == "derived"} >= {
        "architectures",
        "speculators_version",
    }
    if nested:
        assert fates["vision_config"].fate == fates["image_token_id"].fate == "dropped"


MEASURE = """
import gc, sys, threading
from pathlib import Path
from speculators.convert.run import Request, convert
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
convert(Request(sys.argv[1]), Path(sys.argv[2]) / "small", checked=False)
gc.collect()
before = peak = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
convert(Request(sys.argv[3]), Path(sys.argv[2]) / "large", checked=False)
done.set()
thread.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_a_head_of_many_experts_takes_no_memory_of_its_size(tmp_path: Path, verifier: Path) -> None:
    """Other code of this process could allocate meanwhile, so it is measured in one of its own."""
    large = tmp_path / "large_source"
    large.mkdir()
    (large / "config.json").write_bytes((verifier / "config.json").read_bytes())
    tensors = load_file(verifier / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name] = torch.zeros(1024, 1024)
    for index in range(EXPERTS, 16):
        tensors |= {f"mtp.layers.0.mlp.experts.{index}.{part}_proj.weight": torch.zeros(1024, 1024)
                    for part in ("gate", "up", "down")}  # fmt: skip
    save_file(tensors, large / "model.safetensors")
    assert (large / "model.safetensors").stat().st_size > 200e6
    asked = [sys.executable, "-c", MEASURE, str(verifier), str(tmp_path), str(large)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert int(found.stdout) < 20_000  # kB


UNFIT_SOURCES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "an expert of another width": (
        lambda t: t.update({"mtp.layers.0.mlp.experts.1.up_proj.weight": torch.ones(5, 16)}),
        r"experts\.1\.up_proj is",
    ),
    "an expert of another type": (
        lambda t: t.update({"mtp.layers.0.mlp.experts.2.down_proj.weight": torch.ones(16, 4).half()}),
        r"experts\.2\.down_proj is \('F16'",
    ),
    "an expert without a part": (
        lambda t: t.pop("mtp.layers.0.mlp.experts.1.up_proj.weight"),
        "lacks parts of its 3",
    ),
    "quantised": (
        lambda t: t.update({"mtp.fc.weight": torch.ones(16, 32).to(torch.float8_e4m3fn)}),
        "is F8_E4M3: a quantised",
    ),
}


@pytest.mark.parametrize("harm", UNFIT_SOURCES)
def test_a_head_that_cannot_be_taken_out_is_refused(harm: str, tmp_path: Path, verifier: Path) -> None:
    change, complaint = UNFIT_SOURCES[harm]
    retensored(verifier, change)
    with pytest.raises(StageError, match=complaint):
        convert(Request(str(verifier)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("family", "key"), [("qwen3_next", "num_nextn_predict_layers"), ("qwen3_5_text", "mtp_num_hidden_layers")]
)
def test_a_verifier_without_a_head_promises_the_one_that_was_put_in(
    family: str, key: str, tmp_path: Path, verifier: Path, head: Path
) -> None:
    original = load_file(verifier / "model.safetensors")
    retensored(verifier, lambda t: [t.pop(name) for name in list(t) if name.startswith("mtp.")])
    text = json.loads((verifier / "config.json").read_text()) | {"model_type": family}
    (verifier / "config.json").write_text(json.dumps({"text_config": text, "architectures": ["X"]}))
    stitch(head, verifier, tmp_path / "whole")
    document = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert document == {"text_config": {**text, key: 1}, "architectures": ["X"]}
    put_in = load_file(tmp_path / "whole" / "model-mtp.safetensors")
    assert put_in.keys() == {name for name in original if name.startswith("mtp.")}
    assert all(torch.equal(put_in[name], original[name]) for name in put_in)


@pytest.mark.parametrize("shards", [1, 2])
def test_the_verifiers_own_head_is_in_no_file_of_the_whole(
    shards: int, tmp_path: Path, verifier: Path, head: Path
) -> None:
    """Whatever the index says, vLLM loads every tensor of a file, and of two of one name the last."""
    retensored(
        verifier, lambda t: t.update({name: one + 1 for name, one in t.items() if name.startswith("mtp.")})
    )
    own, new = load_file(verifier / "model.safetensors"), load_file(head / "model.safetensors")
    if shards == 2:
        (verifier / "model.safetensors").unlink()
        files = {name: "b.safetensors" if name > "mtp.layers.0.mlp" else "a.safetensors" for name in own}
        for file in ("a.safetensors", "b.safetensors"):
            save_file({name: own[name] for name in own if files[name] == file}, verifier / file)
        (verifier / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    names = stitch(head, verifier, tmp_path / "whole")
    stored = [load_file(path) for path in sorted((tmp_path / "whole").glob("*.safetensors"))]
    assert sorted(name for file in stored for name in file) == sorted(own)
    whole = {name: tensor for file in stored for name, tensor in file.items()}
    assert torch.equal(whole["mtp.fc.weight"], new["mtp_layers.0.input_proj.weight"])
    assert all(torch.equal(whole[name], own[name]) for name in own if name not in names)


def test_what_the_reference_leaves_beside_a_head_is_the_verifiers(
    tmp_path: Path, verifier: Path, head: Path
) -> None:
    names = stitch(head, verifier, tmp_path / "whole")
    more = {"verifier_lm_head.weight": torch.full((50, 16), torch.nan)}
    retensored(head, lambda found: found.update(more))
    assert stitch(head, verifier, tmp_path / "again") == names


def test_experts_stay_side_by_side_where_the_verifier_keeps_them_so(
    tmp_path: Path, verifier: Path, head: Path
) -> None:
    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".experts." in name]:
            del tensors[name]
        tensors["mtp.layers.0.mlp.experts.gate_up_proj"] = torch.zeros(EXPERTS, 8, 16)
        tensors["mtp.layers.0.mlp.experts.down_proj"] = torch.zeros(EXPERTS, 16, 4)

    retensored(verifier, fuse)
    names = stitch(head, verifier, tmp_path / "whole")
    assert "mtp.layers.0.mlp.experts.gate_up_proj" in names
    assert not [name for name in names if ".experts.0." in name]


def misnamed(head: Path, verifier: Path) -> None:
    (verifier / "model.safetensors").rename(verifier / "model-mtp.safetensors")


def pickled(head: Path, verifier: Path) -> None:
    torch.save(load_file(verifier / "model.safetensors"), verifier / "pytorch_model.bin")
    (verifier / "model.safetensors").unlink()


def quantised(method: str, **said: Any) -> Callable[[Path, Path], None]:
    block = {"quant_method": method, **said}
    return lambda head, verifier: configured(verifier, quantization_config=block)


LINEAR = [
    "mtp.fc", *(f"mtp.layers.0.self_attn.{name}_proj" for name in "qkvo"),
    *(f"mtp.layers.0.mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")),
]  # fmt: skip
EXPERTS_APART = [
    f"mtp.layers.0.mlp.experts.{index}.{name}_proj"
    for index in range(EXPERTS)
    for name in ("gate", "up", "down")
]

UNFIT: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "an empty head": (
        lambda head, _: retensored(head, lambda t: t.clear()),
        "lacks mtp_layers.0.final_layernorm",
    ),
    "a head without a part": (
        lambda head, _: retensored(head, lambda t: t.pop("mtp_layers.0.self_attn.o_proj.weight")),
        "lacks .*o_proj",
    ),
    "a head without half its experts": (
        lambda head, _: retensored(head, lambda t: t.pop("mtp_layers.0.mlp.experts.down_proj")),
        "lacks .*down_proj",
    ),
    "a head with a stranger": (
        lambda head, _: retensored(head, lambda t: t.update(x=torch.ones(1))),
        "x has no native name",
    ),
    "a verifier of another width": (
        lambda _, verifier: configured(verifier, hidden_size=32),
        "the verifier's hidden_size 32",
    ),
    "a verifier that does not say its width": (
        lambda _, verifier: configured(verifier, hidden_size="16"),
        "the verifier's hidden_size '16'",
    ),
    "a verifier with another number of experts a token": (
        lambda _, verifier: configured(verifier, num_experts_per_tok=1),
        "num_experts_per_tok 1 instead of 2",
    ),
    "a verifier of another RoPE": (
        lambda _, verifier: configured(verifier, rope_parameters={"rope_theta": 5.0}),
        r"partial_rotary_factor|rope_theta 5\.0 instead of",
    ),
    "a verifier of other heads": (
        lambda _, verifier: configured(verifier, num_key_value_heads=1, rms_norm_eps=1e-3),
        r"num_key_value_heads 1 instead of 2, rms_norm_eps 0\.001",
    ),
    "a verifier whose RoPE cannot be read": (
        lambda _, verifier: configured(verifier, rope_parameters=None, rope_scaling=[1]),
        "a value is not what is read there",
    ),
    "a verifier whose own head is another": (
        lambda _, verifier: retensored(
            verifier, lambda t: t.update({"mtp.layers.0.self_attn.q_norm.weight": torch.ones(9)})
        ),
        "the verifier's own",
    ),
    "a verifier whose layers lie in the file of a head": (misnamed, "holds more than a head"),
    "a pickled verifier": (pickled, "its weights are a pickle"),
    "a verifier in FP8": (quantised("fp8"), r"quantised \(fp8\), in mtp.fc and 16 more modules too"),
    "a verifier in FP8 but for a part of the head": (
        quantised("fp8", modules_to_not_convert=[*LINEAR, *EXPERTS_APART[1:]]),
        r"in mtp.layers.0.mlp.experts.0.gate_proj too",
    ),
    "a verifier in FP8 but for names like these": (quantised("fp8", ignored_layers=["mtp"]), "in mtp.fc"),
    "a verifier with an expression that is none": (
        quantised("compressed-tensors", ignore=["re:mtp(", 5]),
        "in mtp.fc and",
    ),
    "a GPTQ verifier with the head in other bits": (
        quantised("gptq", dynamic={"+:mtp.*": {"bits": 8}}),
        "in mtp.fc",
    ),
    "a verifier quantised in a way nobody knows": (quantised("swirl", ignore=["re:mtp.*"]), r"\(swirl\)"),
    "a quantised verifier that does not say how": (
        lambda _, verifier: configured(verifier, quantization_config="fp8"),
        r"\(fp8\), in mtp.fc",
    ),
}


@pytest.mark.parametrize("harm", UNFIT)
def test_a_head_that_does_not_fit_is_not_put_in(
    harm: str, tmp_path: Path, verifier: Path, head: Path
) -> None:
    change, complaint = UNFIT[harm]
    change(head, verifier)
    with pytest.raises((StageError, RecipeError), match=complaint) as refused:
        stitch(head, verifier, tmp_path / "new")
    assert isinstance(refused.value, SpeculatorsError)
    assert refused.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "block",
    [
        {"quant_method": "fp8", "modules_to_not_convert": [*LINEAR, *EXPERTS_APART]},
        {"quant_method": "fp8", "ignored_layers": [*LINEAR, "mtp.layers.0.mlp.experts"]},
        {"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:^mtp.*"]},
        {"quant_method": "awq", "modules_to_not_convert": ["mtp"]},
        {"quant_method": "gptq", "dynamic": {"-:.*mtp.*": {}}},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["mtp.layers.0*"]},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_head_is_put_where_a_quantised_verifier_leaves_it_plain(
    nested: bool, block: dict, tmp_path: Path, verifier: Path, head: Path
) -> None:
    document = json.loads((verifier / "config.json").read_text()) | {"quantization_config": block}
    (verifier / "config.json").write_text(json.dumps({"text_config": document} if nested else document))
    stitch(head, verifier, tmp_path / "whole")
    assert (tmp_path / "whole" / "model-mtp.safetensors").is_file()


def test_modelopts_own_file_is_read_where_the_config_says_nothing(
    tmp_path: Path, verifier: Path, head: Path
) -> None:
    said = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (verifier / "hf_quant_config.json").write_text(json.dumps(said))
    with pytest.raises(StageError, match=r"hf_quant_config.json: the verifier is quantised .* in mtp.fc"):
        stitch(head, verifier, tmp_path / "new")
    said["quantization"]["exclude_modules"] += ["mtp*"]
    (verifier / "hf_quant_config.json").write_text(json.dumps(said))
    stitch(head, verifier, tmp_path / "whole")


def test_stitching_says_what_it_did_as_json_and_takes_no_option_of_converting(
    tmp_path: Path, verifier: Path, head: Path, capsys: pytest.CaptureFixture
) -> None:
    asked = ["convert", str(head), "--to", str(tmp_path / "new"), "--stitch", "--verifier", str(verifier)]
    for option in (["--tokens", "3"], ["--norm", "fc_norm=true"], ["--aux-layers", "1"], ["--from", "mtp"]):
        assert main([*asked, *option]) == 2
        assert f"{option[0]} is of converting" in " ".join(capsys.readouterr().err.split())
    assert main([*asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "speculators/stitch/v1"
    assert said["tensors"] == sorted(read_header(tmp_path / "new" / "model-mtp.safetensors")[0])
