"""``inspect`` and ``convert`` from the command line: what is printed, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speculators.cli.app import main
from tests.convert import sources
from tests.inspection.faults import FAULTS, good


def test_a_sound_draft_is_exit_code_0_and_a_defect_6(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    subject = good(tmp_path, 3)
    assert main(["inspect", str(subject.folder), "--verifier", str(subject.verifier)]) == 0
    assert "no defect" in capsys.readouterr().out
    FAULTS["norm_output flipped"].inject(subject)
    assert main(["inspect", str(subject.folder)]) == 6
    said = capsys.readouterr().out
    assert (
        "certain: norm_output is False, the weights were trained with True [D5 config is as trained]" in said
    )
    assert "      = why: " in said
    assert "      = help: " in said


def test_a_mended_draft_is_judged_by_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    subject = good(tmp_path, 3)
    FAULTS["norm_output flipped"].inject(subject)
    asked = ["inspect", str(subject.folder), "--fix", str(tmp_path / "mended"), "--json"]
    assert main(asked) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["schema"], report["defect"], report["left"]) == ("speculators/inspect/v1", True, [])
    assert report["mended"] == ["norm_output: False -> True, as the weights were trained"]
    FAULTS["fc random"].inject(subject)
    assert main([*asked[:3], str(tmp_path / "again")]) == 6


def test_what_is_no_checkpoint_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "no such checkpoint folder [no-checkpoint]" in capsys.readouterr().err


def test_convert_accounts_and_proves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    verifier = sources.verifier(tmp_path / "verifier")
    source = sources.specforge(tmp_path / "source")
    asked = ["convert", str(source), "--to", str(tmp_path / "new"), "--verifier", str(verifier)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "SpecForge or TorchSpec EAGLE-3 (specforge): its architecture is LlamaForCausalLMEagle3" in said
    assert "renamed  midlayer.hidden_norm.weight -> layers.0.hidden_norm.weight" in said
    assert "dropped  somebody_elses  (no reader of the format has a use for it)" in said
    assert "100% of tokens agree" in said
    assert main(asked) == 2
    assert main(["inspect", str(tmp_path / "new"), "--json"]) == 0


def test_a_native_head_is_taken_out_and_stitched_in(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = sources.mtp(tmp_path / "source")
    assert main(["convert", str(source), "--to", str(tmp_path / "head")]) == 0
    asked = ["convert", str(tmp_path / "head"), "--to", str(tmp_path / "whole"), "--stitch"]
    assert main(asked) == 2
    assert main([*asked, "--verifier", str(source)]) == 0
    assert "15 tensors of the head put in" in capsys.readouterr().out
    assert (tmp_path / "whole" / "model-mtp.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--aux-layers", "1,x"], "not numbers"),
        (["--norm", "fc=true"], "not FLAG=true"),
        (["--from", "x"], "no such"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, words, complaint, capsys: pytest.CaptureFixture) -> None:
    verifier = sources.verifier(tmp_path / "verifier")
    source = sources.specforge(tmp_path / "source")
    asked = ["convert", str(source), "--to", str(tmp_path / "new"), "--verifier", str(verifier), *words]
    assert main(asked) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
