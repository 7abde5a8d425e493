"""What ``inspect`` makes of whole drafts: nothing of sound ones, whatever kind and history they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.checkpoint.config import to_document
from speculators.checkpoint.model import SpeculatorModel
from speculators.checkpoint.package import assemble, write_checkpoint
from speculators.checkpoint.read import read_checkpoint
from speculators.checkpoint.trained_as import BLOCKS, TRAINED_AS, trained_as
from speculators.checkpoint.weights_file import load_stored, read_header, write_weights
from speculators.cli.app import main
from speculators.convert.retarget import retarget
from speculators.convert.run import Request, convert
from speculators.datagen.probe import reference_model
from speculators.errors import StageError
from speculators.inspection.draft import Inspection, inspect_draft
from speculators.inspection.foreign import read_foreign
from speculators.inspection.mending import mend
from tests.convert import sources
from tests.convert.test_retarget import write_tokenizer
from tests.inspection.faults import (
    NAME,
    Subject,
    config,
    draft_ids,
    edit_config,
    forget,
    good,
    layer,
    permuted_fc,
    random_like,
    tensors,
)
from tests.inspection.incidents import dflash
from tests.models import tiny
from tests.models.words import write_words_model


def names(found: Inspection) -> list[str]:
    return [one.name for one in found.findings]


def turned(share: float, *ends: str):
    """Each tensor moved by ``share`` of its length, as fine-tuning and training on do."""
    noise = torch.Generator().manual_seed(1)

    def change(found: dict[str, torch.Tensor]) -> None:
        for name in ends or tuple(found):
            step = torch.randn(found[name].shape, generator=noise)
            found[name] = (found[name].float() * (1 + share * step)).to(found[name].dtype)

    return change


def test_a_draft_that_retarget_took_is_no_defect_of_its_new_verifier(tmp_path: Path) -> None:
    subject = good(tmp_path, 31)
    write_tokenizer(subject.verifier)
    finetune = tmp_path / "finetune"
    finetune.mkdir()
    for path in subject.verifier.iterdir():
        (finetune / path.name).write_bytes(path.read_bytes())
    own = load_file(finetune / "model.safetensors")
    turned(0.02)(own)
    save_file(own, finetune / "model.safetensors")
    retarget(subject.folder, str(finetune), tmp_path / "new", str(subject.verifier))
    found = inspect_draft(tmp_path / "new", finetune)
    assert found.defects == []
    ends = {"embed_tokens.weight is the verifier's", "lm_head.weight is the verifier's"}
    assert ends <= set(names(found))  # worth a look


def test_ends_that_were_both_trained_are_no_other_model(tmp_path: Path) -> None:
    subject = good(tmp_path, 32)
    tensors(turned(0.05, "embed_tokens.weight", "lm_head.weight"))(subject)
    forget(subject)
    config(embed_requires_grad=True)(subject)
    assert inspect_draft(subject.folder, subject.verifier).defects == []
    random_like("embed_tokens.weight")(subject)  # far from the verifier's, and said to be trained
    random_like("lm_head.weight")(subject)
    assert inspect_draft(subject.folder, subject.verifier).defects == []


def test_strange_rows_in_both_ends_are_another_model(tmp_path: Path) -> None:
    subject = good(tmp_path, 33)
    forget(subject)
    random_like("embed_tokens.weight")(subject)
    random_like("lm_head.weight")(subject)
    assert [one.name for one in inspect_draft(subject.folder, subject.verifier).defects] == [
        "verifier is the one meant"
    ]


V, H, RANK, BLOCK = tiny.CONFIG.vocab_size, tiny.CONFIG.hidden_size, 4, 4

#: Tensors that such drafts have beside DFlash's, and keys of their configs, as speculators 0.9.0 writes them.
KIN: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "dspark": (
        {"markov_head.markov_w1.weight": (V, RANK), "markov_head.markov_w2.weight": (20, RANK),
         "confidence_head.proj.weight": (1, H + RANK), "confidence_head.proj.bias": (1,)},
        {"markov_rank": RANK, "markov_head_type": "vanilla", "sample_from_anchor": True,
         "enable_confidence_head": True, "confidence_head_with_markov": True},
    ),
    "dflash2": (
        {"layers.0.attention_conv.base_kernel": (2, 2, H),
         "candidate_selector.predecessor_codebook": (V, RANK)},
        {"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": RANK, "selector_top_k": 16},
    ),
    "xpress": (
        {"refiner_head.token_embed": (V, RANK), "refiner_head.down_h": (RANK, H)}, {"xpress_rank": RANK},
    ),
}  # fmt: skip


def kin_draft(kind: str, root: Path, *breakings: Any) -> Subject:
    more, keys = KIN[kind]
    named = config(speculators_model_type=kind, block_size=BLOCK, **keys)
    extra = tensors(lambda found: found.update({name: torch.rand(shape) for name, shape in more.items()}))
    return dflash(named, extra, *breakings)(root)


@pytest.mark.parametrize("kind", KIN)
def test_a_kind_that_only_others_train_is_compared_as_the_one_it_is_kin_of(kind: str, tmp_path: Path) -> None:
    subject = kin_draft(kind, tmp_path / "good")
    for verifier in (subject.verifier, None):
        found = inspect_draft(subject.folder, verifier)
        assert found.defects == []
        assert ("engine serves the kind" in found.passed) is (kind != "xpress")
    broken = {
        "no tensor missing": tensors(lambda found: found.pop("hidden_norm.weight")),
        "aux layers exist": config(aux_hidden_state_layer_ids=[1, 2, 9]),
        "aux layers ascend": config(aux_hidden_state_layer_ids=None),
    }
    for cause, breaking in broken.items():
        subject = kin_draft(kind, tmp_path / cause, breaking)
        assert cause in {one.name for one in inspect_draft(subject.folder, subject.verifier).defects}


def test_a_native_head_that_was_taken_out_is_no_defect_and_its_way_is_said(tmp_path: Path) -> None:
    verifier = sources.mtp(tmp_path / "verifier")
    convert(Request(str(verifier)), tmp_path / "head")
    for given in (verifier, None):
        (one,) = inspect_draft(tmp_path / "head", given).findings
        assert (one.name, one.is_defect) == ("engine serves the kind", False)
        assert "--stitch" in one.what


@pytest.mark.parametrize("layout", ["safeailab", "nvidia", "dflash"])
def test_in_another_layout_nothing_is_mended(layout: str, tmp_path: Path, capsys: Any) -> None:
    folder = getattr(sources, layout)(tmp_path / layout)
    assert main(["inspect", str(folder), "--fix", str(tmp_path / "new")]) == 2
    assert "speculators convert SOURCE" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": "12"},
        {"hidden_size": "wide"},
        {"rms_norm_eps": "small"},
        {"architectures": 5},
        {"architectures": [{"name": 1}]},
        {"rope_scaling": [1], "rope_parameters": None},
    ],
)
def test_what_is_wrong_with_the_verifier_is_not_the_drafts_fault(
    changes: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    native, foreign = good(tmp_path / "native", 34).folder, sources.safeailab(tmp_path / "foreign")
    verifier = sources.verifier(tmp_path / "verifier", **changes)
    for folder in (native, foreign):
        assert main(["inspect", str(folder), "--verifier", str(verifier)]) == 3
        assert "verifier/config.json: the config says " in capsys.readouterr().err


@pytest.mark.parametrize("said", ["x", {"config_groups": [1]}, {"weight_block_size": 5}])
def test_a_quantised_head_that_cannot_be_read_is_not_the_drafts_fault(said: Any, tmp_path: Path) -> None:
    subject = good(tmp_path, 34)
    path, place = subject.verifier / "model.safetensors", subject.verifier / "config.json"
    own = load_file(path)
    own["lm_head.weight_scale"] = torch.ones(len(own["lm_head.weight"]), 1)
    own["lm_head.weight"] = own["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(own, path)
    place.write_text(json.dumps({**json.loads(place.read_text()), "quantization_config": said}))
    (one,) = inspect_draft(subject.folder, subject.verifier).findings
    assert (one.name, one.is_defect) == ("verifier's ends readable", False)
    assert one.what.startswith(f"{subject.verifier}: lm_head.weight is stored so that it cannot be read")


def test_a_flat_fc_is_the_weights_fault(tmp_path: Path) -> None:
    flat = tensors(lambda found: found.update({"fc.weight": found["fc.weight"].flatten()}))
    subject = good(tmp_path / "native", 35)
    flat(subject)
    assert "tensor shapes" in {one.name for one in inspect_draft(subject.folder, subject.verifier).defects}
    for layout in (sources.safeailab, sources.eagle1, sources.dflash):
        subject = Subject(
            layout(tmp_path / layout.__name__), sources.verifier(tmp_path / f"{layout.__name__}-v"), 0
        )
        flat(subject)
        found = {one.name for one in inspect_draft(subject.folder, subject.verifier).defects}
        assert found == {"tensor shapes"}
        assert main(["inspect", str(subject.folder)]) == 6


def absolute(subject: Subject, marked: bool, ids: torch.Tensor) -> None:
    """A whole map of ``ids``, stored as they are, and the head's rows of them."""
    own = load_file(subject.verifier / "model.safetensors")
    members = torch.zeros(V, dtype=torch.bool).index_fill(0, ids, True)
    head = own["lm_head.weight"][ids].clone()

    def change(found: dict[str, torch.Tensor]) -> None:
        found |= {"d2t": ids.clone(), "lm_head.weight": head, "t2d": members}
        if not marked:
            del found["t2d"]

    tensors(change)(subject)


LOW = torch.arange(2, 22)  # in range however they are read


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("seed", [36, 37])
def test_absolute_ids_are_called_so_and_nothing_else(recorded: bool, seed: int, tmp_path: Path) -> None:
    for marked, ids in ((True, LOW), (True, draft_ids(seed)), (False, draft_ids(seed))):
        subject = good(tmp_path / f"{marked}-{int(ids[0])}-{int(ids[-1])}", seed)
        absolute(subject, marked, ids)
        if not recorded:
            forget(subject)
        for verifier in (subject.verifier, None):
            defects = [one for one in inspect_draft(subject.folder, verifier).defects if one.trap == "D3"]
            assert [one.name for one in defects] == ["d2t holds offsets"]
            assert "absolute ids" in defects[0].what


def test_a_map_that_can_be_read_both_ways_is_worth_a_look(tmp_path: Path) -> None:
    subject = good(tmp_path, 38)
    absolute(subject, False, LOW)
    forget(subject)
    (one,) = inspect_draft(subject.folder).findings
    assert (one.name, one.is_defect) == ("d2t holds offsets", False)
    (one,) = inspect_draft(subject.folder, subject.verifier).defects  # its head tells
    assert one.name == "d2t holds offsets"
    assert "the head's rows are those of these tokens" in one.what


def test_some_new_columns_are_told_from_all_in_another_order(tmp_path: Path) -> None:
    def one_new(found: dict[str, torch.Tensor]) -> None:
        found["fc.weight"][:, H : 2 * H] += 1

    subject = good(tmp_path, 39)
    tensors(one_new)(subject)
    (one,) = inspect_draft(subject.folder, subject.verifier).defects
    assert one.name == "fc is the trained one"
    assert one.what.startswith("1 of 3 column blocks")


def packaged_with(subject: Subject, fused: torch.Tensor) -> None:
    """The same draft as the package stage writes it with these columns."""
    path = subject.folder / "model.safetensors"
    whole = load_file(path) | {"fc.weight": fused}
    write_checkpoint(subject.folder, json.loads((subject.folder / "config.json").read_text()), whole)


def test_equal_columns_are_each_in_their_own_place(tmp_path: Path) -> None:
    subject = good(tmp_path, 41)
    fused = load_file(subject.folder / "model.safetensors")["fc.weight"]
    fused[:, H : 2 * H] = fused[:, 2 * H :]  # as of layers that are not read
    packaged_with(subject, fused)
    assert inspect_draft(subject.folder, subject.verifier).findings == []
    tensors(permuted_fc)(subject)
    (one,) = inspect_draft(subject.folder, subject.verifier).defects
    assert one.name == "fc reads its states in order"
    mend(subject.folder, tmp_path / "mended", subject.verifier)
    assert inspect_draft(tmp_path / "mended", subject.verifier).findings == []


@pytest.mark.parametrize("record", ["[[1], 2, 3]", "[1, 2, 3]", "{}", "[]", "5"])
def test_a_record_of_columns_that_is_none_says_nothing(record: str, tmp_path: Path) -> None:
    subject = good(tmp_path, 42)
    path = subject.folder / "model.safetensors"
    stored, metadata = read_header(path)
    whole = {name: load_stored(piece) for name, piece in stored.items()}
    write_weights(path, whole, {**metadata, BLOCKS: record})
    assert inspect_draft(subject.folder, subject.verifier).findings == []


def test_a_cast_is_worth_a_look_and_another_fc_in_the_same_type_is_a_defect(
    tmp_path: Path, capsys: Any
) -> None:
    def cast(found: dict[str, torch.Tensor]) -> None:
        found.update({name: x.bfloat16() for name, x in found.items() if x.dtype == torch.float32})

    subject = good(tmp_path, 43)
    tensors(cast)(subject)
    (one,) = inspect_draft(subject.folder, subject.verifier).findings
    assert (one.name, one.is_defect) == ("tensors of the written type", False)
    assert "fc.weight is BF16, was F32" in one.what
    assert main(["inspect", str(subject.folder)]) == 0
    assert "only --probe sees another fc or head" in capsys.readouterr().out
    other = good(tmp_path / "other", 43)
    random_like("fc.weight")(other)
    assert [one.name for one in inspect_draft(other.folder).defects] == ["fc is the trained one"]


def test_a_value_of_another_kind_is_told_from_the_trained_one(tmp_path: Path) -> None:
    subject = good(tmp_path, 44)
    layer(vocab_size="50")(subject)
    found = {one.name: one.what for one in inspect_draft(subject.folder).defects}
    assert "vocab_size is '50', the weights were trained with 50" in found["config is as trained"]


def test_a_made_for_that_is_no_list_is_no_other_model(tmp_path: Path) -> None:
    subject = good(tmp_path, 45)
    edit_config(subject, lambda d: d["speculators_config"]["verifier"].update(architectures="Llama"))
    assert inspect_draft(subject.folder, subject.verifier).findings == []


def test_a_block_that_is_a_list_is_shown(tmp_path: Path) -> None:
    subject = good(tmp_path, 46)
    config(speculators_config=[1])(subject)
    found = {one.name: one.what for one in inspect_draft(subject.folder).defects}
    assert found["proposal and verifier named"].startswith("speculators_config is [1], without proposal_")


def test_what_no_file_shows_is_said_where_there_is_no_record(tmp_path: Path, capsys: Any) -> None:
    subject = good(tmp_path, 40)
    assert main(["inspect", str(subject.folder)]) == 0
    assert "--probe" not in capsys.readouterr().out
    forget(subject)
    assert main(["inspect", str(subject.folder)]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert "without a record of its training only --probe sees layer ids one off, " in said
    assert "a flipped norm_before_residual, a flipped norm_output, another RoPE or norm epsilon" in said
    assert "another fc or head, fc's columns in another order" in said
    foreign = sources.safeailab(tmp_path / "foreign")
    assert main(["inspect", str(foreign), "--json"]) == 0
    assert "layer ids one off" in json.loads(capsys.readouterr().out)["unseen"]


def test_a_probe_wants_a_whole_verifier_and_says_nothing_while_it_loads(tmp_path: Path, capfd: Any) -> None:
    subject = good(tmp_path, 41)  # of the verifier the files hold the ends only
    command = ["inspect", str(subject.folder), "--verifier", str(subject.verifier), "--probe"]
    assert main(command) == 3
    said = capfd.readouterr().err
    assert "the files lack 54 of its weights: model.layers.0." in said
    assert "it/s" not in said
    assert "MISSING" not in said
    write_words_model(tmp_path / "words")
    capfd.readouterr()
    assert reference_model(tmp_path / "words").config.num_hidden_layers == 4
    assert capfd.readouterr() == ("", "")


def test_ids_outside_a_block_that_says_null_are_those_that_can_be_read_two_ways(tmp_path: Path) -> None:
    ids = "eagle_aux_hidden_state_layer_ids"
    folder = sources.nvidia(tmp_path / "draft")
    document = json.loads((folder / "config.json").read_text())
    document |= {"eagle_config": {ids: None, "target_hidden_size": None}, ids: [3, 7, 10]}
    (folder / "config.json").write_text(json.dumps(document))
    found = read_foreign(folder, sources.verifier(tmp_path / "verifier"))
    assert found.plan is not None
    assert found.plan.document[ids] == [3, 7, 10]
    assert {check.name for check in found.checks if not check.ok} == {"layer ids can be told"}


@pytest.mark.parametrize("name", sources.VERIFIERS)
def test_a_verifier_that_leaves_sizes_to_its_class_is_compared_by_what_it_says(
    name: str, tmp_path: Path
) -> None:
    verifier = sources.verifier(tmp_path / "verifier")
    (verifier / "config.json").write_text(json.dumps(sources.VERIFIERS[name]))
    for layout in (sources.safeailab, sources.eagle1, sources.dflash):
        found = {one.name for one in inspect_draft(layout(tmp_path / layout.__name__), verifier).findings}
        assert not found & {"layout complete", "config readable", "verifier vocabulary", "verifier width"}


def test_an_open_key_that_is_written_as_readers_take_it_is_no_change(tmp_path: Path) -> None:
    subject = good(tmp_path, 47)
    edit_config(subject, lambda document: document.pop("norm_output"))
    assert "config is as trained" in names(inspect_draft(subject.folder))  # it was trained with true
    source = sources.eagle1(tmp_path / "source")
    convert(Request(str(source), str(sources.verifier(tmp_path / "v"))), tmp_path / "eagle")
    model = SpeculatorModel.from_pretrained(tmp_path / "eagle")
    model.metadata[TRAINED_AS] = trained_as(model.config.to_document())
    model.config = model.config.explicit()
    assert "fusion_bias" in model.config.to_document()
    model.save_pretrained(tmp_path / "explicit")
    assert inspect_draft(tmp_path / "explicit").defects == []
    edit_config(
        subject._replace(folder=tmp_path / "explicit"), lambda document: document.update(fusion_bias=True)
    )
    assert names(inspect_draft(tmp_path / "explicit"))[0] == "config is as trained"


def test_what_a_converter_read_is_no_record_of_a_training(tmp_path: Path, capsys: Any) -> None:
    """A probe may say that other layer ids are right: then they are written by hand."""
    source, verifier = sources.nvidia(tmp_path / "source"), sources.verifier(tmp_path / "verifier")
    convert(Request(str(source), str(verifier)), tmp_path / "draft")
    config(eagle_aux_hidden_state_layer_ids=[3, 7, 10])(Subject(tmp_path / "draft", verifier, 0))
    assert main(["inspect", str(tmp_path / "draft"), "--verifier", str(verifier)]) == 0
    assert "only --probe sees layer ids one off" in capsys.readouterr().out


def test_recorded_layer_ids_are_in_the_convention_whatever_they_are(tmp_path: Path) -> None:
    subject = good(tmp_path, 48)  # of layers 1, 2 and 4
    config(num_hidden_layers=7)(subject._replace(folder=subject.verifier))
    shape = tiny.config(norm_before_residual=True, norm_output=True, head_dim=32, aux_layers=(1, 2, 3))
    state = tiny.draft(shape, seed=48, dtype=torch.float32).state_dict()
    whole = assemble(state, draft_ids(48), tiny.weights(dtype=torch.bfloat16))
    write_checkpoint(subject.folder, to_document(shape, 3, NAME), whole)
    assert inspect_draft(subject.folder, subject.verifier).findings == []
    forget(subject)
    assert "layer id convention" in names(inspect_draft(subject.folder, subject.verifier))


def test_a_flat_fc_of_an_eagle_draft_is_not_its_configs_fault(tmp_path: Path) -> None:
    source, verifier = sources.eagle1(tmp_path / "source"), sources.verifier(tmp_path / "verifier")
    convert(Request(str(source), str(verifier)), tmp_path / "draft")
    subject = Subject(tmp_path / "draft", verifier, 0)
    tensors(lambda found: found.update({"fc.weight": found["fc.weight"].flatten()}))(subject)
    assert names(inspect_draft(subject.folder))[:1] == ["tensor shapes"]
    assert "config readable" not in names(inspect_draft(subject.folder))


def test_a_map_of_another_number_of_tokens_than_the_head_is_not_written(tmp_path: Path) -> None:
    subject = good(tmp_path, 49)

    def change(found: dict[str, torch.Tensor]) -> None:
        del found["d2t"]
        found["t2d"][found["t2d"].nonzero()[0]] = False

    tensors(change)(subject)
    assert not [note for note in mend(subject.folder, tmp_path / "new") if note.startswith("d2t")]


@pytest.mark.parametrize("layout", ["native", "foreign"])
def test_a_quantised_draft_is_worth_a_look_and_no_defect(layout: str, tmp_path: Path) -> None:
    """As compressors leave it: FP8 matrices, each with its scale, and a config that says so."""
    if layout == "native":
        subject = good(tmp_path, 50)
        forget(subject)
        layer(quantization_config={"quant_method": "fp8"})(subject)
    else:
        subject = Subject(sources.safeailab(tmp_path / "draft"), sources.verifier(tmp_path / "verifier"), 0)
        config(quantization_config={"quant_method": "fp8"})(subject)

    def change(found: dict[str, torch.Tensor]) -> None:
        for name in [name for name in found if name.endswith(("_proj.weight", "fc.weight"))]:
            found[name] = found[name].to(torch.float8_e4m3fn)
            found[f"{name}_scale"] = torch.ones(1)

    tensors(change)(subject)
    found = inspect_draft(subject.folder, subject.verifier)
    assert found.defects == []
    assert "tensors are plain" in names(found)
    if layout == "native":
        with pytest.raises(StageError, match="do not compute quantised weights"):
            read_checkpoint(subject.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            config(eagle_aux_hidden_state_layer_ids=-1),
            "eagle_aux_hidden_state_layer_ids -1, not a list of whole",
        ),
        (config(transformer_layer_config="x"), "transformer_layer_config 'x', not an object"),
        (layer(rope_parameters=[1]), "transformer_layer_config.rope_parameters [1], not an object"),
    ],
)
def test_a_value_that_no_check_can_read_is_called_by_its_key(change: Any, said: str, tmp_path: Path) -> None:
    subject = good(tmp_path, 51)
    forget(subject)
    change(subject)
    found = {one.name: one.what for one in inspect_draft(subject.folder, subject.verifier).defects}
    assert said in found["config readable"]


def test_a_null_flag_that_every_reader_takes_alike_is_written(tmp_path: Path) -> None:
    subject = good(tmp_path, 52)
    forget(subject)
    config(norm_output=None, norm_before_residual=None)(subject)
    assert "norm_output written: false" in mend(subject.folder, tmp_path / "new")
    document = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (document["norm_output"], document["norm_before_residual"]) == (False, None)  # readers differ
