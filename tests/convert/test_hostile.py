"""Strangers' files that are damaged or mean harm: a clear refusal, nothing left behind, no code run.

Headers of weight files have their own table (tests/checkpoint/test_weights_file.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.cli.app import main
from tests.convert import sources
from tests.convert.test_convert import Bomb
from tests.inspection.faults import good

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return change


def folder_named(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def indexed(weight_map: Any) -> Callable[[Path], object]:
    return text(INDEX, json.dumps({"weight_map": weight_map}))


def values(**changes: Any) -> Callable[[Path], None]:
    """Keys of the decoder's config, wherever it stands."""

    def change(folder: Path) -> None:
        document = json.loads((folder / CONFIG).read_text())
        document.get("transformer_layer_config", document).update(changes)
        (folder / CONFIG).write_text(json.dumps(document))

    return change


def retyped(name: str, dtype: torch.dtype) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors[name] = tensors[name].to(dtype)
        save_file(tensors, folder / WEIGHTS)

    return change


#: Of any draft's folder.
HARM: dict[str, Callable[[Path], object]] = {
    "config: a list": text(CONFIG, "[1]"),
    "config: not UTF-8": text(CONFIG, b'{"a": "\xff\xfe"}'),
    "config: nested without end": text(CONFIG, '{"a":' * 100_000),
    "config: a gigabyte": sparse(CONFIG, 1 << 30),
    "config: a folder": folder_named(CONFIG),
    "config: a link to nothing": link(CONFIG, "absent"),
    "config: a link to itself": link(CONFIG, CONFIG),
    "config: a link to a device": link(CONFIG, "/dev/zero"),
    "config: a link to a secret": link(CONFIG, "/etc/passwd"),
    "weights: a link to nothing": link(WEIGHTS, "absent"),
    "weights: a link to itself": link(WEIGHTS, WEIGHTS),
    "weights: a link to a device": link(WEIGHTS, "/dev/zero"),
    "weights: a link to a secret": link(WEIGHTS, "/etc/passwd"),
    "weights: a folder": folder_named(WEIGHTS),
    "weights: a pipe": pipe,
    "weights: a huge header": sparse(WEIGHTS, 1 << 31),
    "sizes: a trillion layers": values(num_hidden_layers=10**12),
    "sizes: text": values(hidden_size="16"),
    "sizes: negative": values(intermediate_size=-24),
    "sizes: no heads": values(num_attention_heads=0),
    "fc: whole numbers": retyped("fc.weight", torch.int32),
}  # fmt: skip
#: Of a folder to convert, which may have an index.
INDEXED: dict[str, Callable[[Path], object]] = {
    "index: out of the folder": indexed({"fc.weight": "../../verifier/model.safetensors"}),
    "index: an absolute path": indexed({"fc.weight": "/etc/passwd"}),
    "index: numbers for files": indexed({"fc.weight": 3}),
    "index: a list": indexed([1]),
    "index: names that no file has": indexed({f"t{number}": WEIGHTS for number in range(100_000)}),
    "index: a gigabyte": lambda folder: (text(INDEX, "{")(folder), sparse(INDEX, 1 << 30)(folder)),
    "index: nested without end": text(INDEX, "[" * 200_000),
}  # fmt: skip
REFUSALS = (2, 3, 4)


def contents(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("harm", [*HARM, *INDEXED])
def test_a_source_that_means_harm_is_refused_and_nothing_left(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    verifier, source = sources.verifier(tmp_path / "verifier"), sources.safeailab(tmp_path / "source")
    (HARM | INDEXED)[harm](source)
    before = contents(tmp_path)
    asked = ["convert", str(source), "--to", str(tmp_path / "new"), "--verifier", str(verifier)]
    assert main([*asked, "--from", "eagle3"]) in REFUSALS
    said = capsys.readouterr()
    assert "root:" not in said.err + said.out  # what a link leads to is not shown
    assert contents(tmp_path) == before


@pytest.mark.parametrize("harm", HARM)
def test_a_draft_that_means_harm_is_a_defect_or_refused(
    harm: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    subject = good(tmp_path, 4)
    HARM[harm](subject.folder)
    before = contents(tmp_path)
    asked = ["inspect", str(subject.folder), "--verifier", str(subject.verifier)]
    assert main(asked) in (*REFUSALS, 6)
    assert main(["retarget", *asked[1:], "--to", str(tmp_path / "new")]) in REFUSALS
    assert "root:" not in "".join(capsys.readouterr())
    assert contents(tmp_path) == before


PICKLES: dict[str, Callable[[Path], object]] = {
    "with code": lambda folder: torch.save({"x": Bomb(folder / "ran")}, folder / "pytorch_model.bin"),
    "cut short": lambda folder: (folder / "pytorch_model.bin").write_bytes(
        (folder / "pytorch_model.bin").read_bytes()[:300]
    ),
    "of something else": lambda folder: torch.save([1, 2], folder / "pytorch_model.bin"),
    "that is none": text("pytorch_model.bin", "cos\nsystem\n(S'touch ran'\ntR."),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_runs_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = sources.verifier(tmp_path / "verifier")
    source = sources.safeailab(tmp_path / "source", pickled=True)
    PICKLES[kind](source)
    monkeypatch.chdir(source)
    before = contents(tmp_path)
    assert (
        main(["convert", str(source), "--to", str(tmp_path / "new"), "--verifier", str(verifier)]) in REFUSALS
    )
    assert contents(tmp_path) == before
