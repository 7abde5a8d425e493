"""Verifying: a sound bundle passes, one changed byte does not, and the message names the file."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speculators.bundle.archive import (
    BLOCK,
    SUMS_NAME,
    DamagedBundleError,
    header,
    read_archive,
    sums_text,
    write_archive,
)
from speculators.bundle.create import bundle
from speculators.bundle.model import content_digest
from speculators.bundle.verify import verify
from speculators.cli.app import main
from speculators.errors import RecipeError
from speculators.recipe.recipe import require_recipe
from tests.bundle.forgery import edit, rewritten
from tests.bundle.world import a_recipe, a_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    return bundle(a_run(root), root / "whole.speculators.tar").path


def test_a_whole_bundle_says_what_was_checked_and_what_was_not(
    whole: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["verify", str(whole)]) == 0
    out = capsys.readouterr().out
    assert "digests: " in out
    assert "report: its figures follow from 4 launches" in out
    assert "unsigned: nothing shows who made the bundle" in out
    assert "weights: 3 files are named by digest only" in out


def test_a_bundle_of_a_recipe_that_extends_holds_both_files_and_a_recipe_that_needs_neither(
    tmp_path: Path,
):
    a_recipe(tmp_path / "recipes")
    child = tmp_path / "recipes" / "child.yaml"
    child.write_text("extends: my.yaml\nname: child\n")
    made = bundle(a_run(tmp_path, require_recipe(child)), tmp_path / "child.speculators.tar")
    assert made.read("recipe.yaml") == child.read_bytes()
    assert made.read("extends-1.yaml") == (tmp_path / "recipes" / "my.yaml").read_bytes()
    assert b"extends" not in made.read("resolved.yaml")
    verify(made.path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"schema: speculators/recipe/v1\n" * 40, "not a bundle: no tar archive"),
        (b"", "SHA256SUMS: the archive ends in the middle"),
        (None, "a folder, not a bundle"),
    ],
)
def test_what_is_no_bundle_is_said_to_be_none(
    tmp_path: Path, content: bytes | None, said: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "x.speculators.tar"
    path.mkdir() if content is None else path.write_bytes(content)
    for verb in ("verify", "run"):
        assert main([verb, str(path)]) == 2
        assert said in capsys.readouterr().err


def member_at(whole: Path, offset: int) -> str:
    """The member that a byte belongs to: its header, its bytes or its padding; the last one for the end."""
    starts = {one.offset - BLOCK: name for name, one in read_archive(whole).members.items()}
    return starts[max(start for start in starts if start <= offset)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found_and_its_file_is_named(
    whole: Path, tmp_path: Path, data: st.DataObject
):
    content = bytearray(whole.read_bytes())
    offset = data.draw(st.integers(0, len(content) - 1))
    content[offset] ^= data.draw(st.integers(1, 255))
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(DamagedBundleError) as found:
        verify(tmp_path / "bad.tar")
    assert found.value.exit_code == 2
    member = member_at(whole, offset)
    # What stands in the empty blocks at the end can only be named by what is before it.
    end = max(one.offset + one.size for one in read_archive(whole).members.values())
    assert member in found.value.message or (offset >= end and "the member after" in found.value.message)


def test_every_single_flipped_byte_of_a_small_archive_is_found(tmp_path: Path):
    members = {"a.json": b"{}", "dir/b.txt": b"x" * 600}
    digests = {name: content_digest(content) for name, content in members.items()}
    path, bad = tmp_path / "small.tar", tmp_path / "bad.tar"
    write_archive(path, {**members, SUMS_NAME: sums_text(digests).encode()})
    good = read_archive(path)
    content = bytearray(path.read_bytes())
    for offset in range(len(content)):
        content[offset] ^= 0x40
        bad.write_bytes(content)
        content[offset] ^= 0x40
        try:
            changed = read_archive(bad).members
        except DamagedBundleError:
            continue
        # Only bytes of a member pass the reader, and then with another digest.
        names = [name for name in changed if changed[name] != good.members[name]]
        assert names == [member_at(path, offset)], offset


@pytest.mark.parametrize("length", [0, 1, 100, 511, 512, 5000, -1, -512, -5000])
def test_a_bundle_cut_short_is_refused(whole: Path, tmp_path: Path, length: int):
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:length])
    with pytest.raises(DamagedBundleError):
        verify(tmp_path / "cut.tar")


def test_bytes_behind_the_end_are_refused(whole: Path, tmp_path: Path):
    for more in (b"x" * 512, b"\0" * 512):
        (tmp_path / "more.tar").write_bytes(whole.read_bytes() + more)
        with pytest.raises(DamagedBundleError, match=r"at its end|other bytes"):
            verify(tmp_path / "more.tar")


def test_no_bytes_at_all_are_a_bundle(tmp_path: Path):
    for number, content in enumerate((b"\0" * 10240, b"PK\x03\x04" * 1000, b"{}")):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"not a bundle|ends in the middle"):
            verify(path)


def hostile(kind: str) -> bytes:
    """An archive by an ordinary tar program that no bundle may be."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("run.json")
        info.size = 2
        if kind == "link":
            info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
        elif kind == "hardlink":
            info.type, info.linkname, info.size = tarfile.LNKTYPE, "recipe.yaml", 0
        elif kind == "device":
            info.type, info.size = tarfile.CHRTYPE, 0
        elif kind == "folder":
            info.type, info.size = tarfile.DIRTYPE, 0
        elif kind == "absolute":
            info.name = "/tmp/run.json"
        elif kind == "parent":
            info.name = "a/../../run.json"
        elif kind == "dot":
            info.name = "./run.json"
        elif kind == "owner":
            info.uid, info.uname = 1000, "ann"
        elif kind == "time":
            info.mtime = 1
        elif kind == "executable":
            info.mode = 0o755
        tar.addfile(info, io.BytesIO(b"{}"))
        if kind == "twice":
            tar.addfile(info, io.BytesIO(b"[]"))
        if kind == "below a file":
            info.name = "run.json/x"
            tar.addfile(info, io.BytesIO(b"{}"))
    content = bytearray(made.getvalue())
    if kind == "huge":
        content[:BLOCK] = header("run.json", (1 << 33) - 1)
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("link", "run.json: it is no plain file"),
        ("hardlink", "run.json: it is no plain file"),
        ("device", "run.json: it is no plain file"),
        ("folder", "run.json: it is no plain file"),
        ("absolute", "the name is an absolute path"),
        ("parent", "the name is a path that leaves the bundle"),
        ("dot", "the name is not a plain relative path"),
        ("twice", "run.json: it is there twice"),
        ("below a file", "run.json/x: it lies below another file"),
        ("huge", "run.json: it claims 8589934591 bytes"),
        ("owner", "its header is not as 'speculators bundle' writes it"),
        ("time", "its header is not as 'speculators bundle' writes it"),
        ("executable", "its header is not as 'speculators bundle' writes it"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path: Path, kind: str, message: str):
    path = tmp_path / "hostile.tar"
    path.write_bytes(hostile(kind))
    with pytest.raises(DamagedBundleError, match=message):
        read_archive(path)
    assert [one.name for one in tmp_path.iterdir()] == ["hostile.tar"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000))
def test_any_bytes_are_refused_without_a_traceback(tmp_path: Path, content: bytes):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DamagedBundleError):
        verify(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("run.json", lambda d: d.update(status="failed"), "run.json: the run is 'failed'"),
        ("run.json", lambda d: d.update(surprise=1), "run.json: \\$: Additional properties"),
        ("run.json", lambda d: d["recipe"].update(sha256="0" * 64), "another recipe than in run.json"),
        (
            "stages/training/key.json",
            lambda d: d.update(code={"x": "y"}),
            "stages/training/key.json: not the key",
        ),
        ("stages/training/output.json", lambda d: d.update(seconds=1.0), "not as the stage sealed it"),
        ("report.json", lambda d: d.update(verdict="Faster."), "report.json: another verdict"),
        (
            "report.json",
            lambda d: d["summary"]["speed"][0]["speedup"].update(mean=9.0),
            "report.json: its speed does not follow",
        ),
        (
            "bench/output.json",
            lambda d: d["result"]["samples"][0].update(output_tokens_per_second=99.0),
            "bench/output.json: other figures than in bench/round-01",
        ),
        ("attestation.json", lambda d: d["subject"].pop(), "attestation.json: its subjects"),
        (
            "attestation-tests.json",
            lambda d: d.update(_type="x"),
            "attestation-tests.json: not the statement",
        ),
        ("bundle.json", lambda d: d["weights"].clear(), "attestation.json: its subjects"),
        ("bundle.json", lambda d: d.update(run="20260102-030405-0000"), "bundle.json: another run"),
        (
            "bench/round-01/plain/client/result.json",
            lambda d: d.update(x=1),
            "not the file that .*output.json names",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_found_though_every_digest_fits(
    whole: Path, tmp_path: Path, name: str, change: Callable[[dict], None], named: str
):
    path = rewritten(whole, tmp_path / "forged.tar", edit(name, change))
    with pytest.raises(DamagedBundleError, match=named):
        verify(path)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("resolved.yaml", b"schema: speculators/recipe/v1\n", "resolved.yaml: .*name"),
        ("resolved.yaml", b"\xff", "resolved.yaml: not UTF-8"),
        ("run.json", b"[1]", "run.json: not a JSON object"),
        ("run.json", b"{", "run.json: not JSON"),
        ("run.json", b"[" * 100_000, "run.json: not JSON"),
        (
            "files/prompts/benchmark.jsonl",
            b"{}\n",
            "files/prompts/benchmark.jsonl: not the file that the run used",
        ),
    ],
)
def test_a_replaced_document_is_named(whole: Path, tmp_path: Path, name: str, content: bytes, named: str):
    path = rewritten(whole, tmp_path / "forged.tar", lambda members: members.update({name: content}))
    with pytest.raises(DamagedBundleError, match=named):
        verify(path)


@pytest.mark.parametrize("name", ["run.json", "report.json", "bundle.json", "files/prompts/train.jsonl"])
def test_a_missing_file_is_named(whole: Path, tmp_path: Path, name: str):
    archive = read_archive(whole)
    members = {one: archive.read(one) for one in archive.members if one != name}
    write_archive(tmp_path / "less.tar", members)
    with pytest.raises(DamagedBundleError, match=name):
        verify(tmp_path / "less.tar")


def test_a_file_on_no_list_is_named(whole: Path, tmp_path: Path):
    archive = read_archive(whole)
    members = {one: archive.read(one) for one in archive.members}
    write_archive(tmp_path / "more.tar", {**members, "extra.sh": b"rm"})
    with pytest.raises(DamagedBundleError, match=r"extra\.sh: it is on no list"):
        verify(tmp_path / "more.tar")


def test_programs_get_json_and_the_exit_code(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(whole), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["schema"]) == (True, "speculators/verify/v1")
    bad = tmp_path / "bad.tar"
    shutil.copy(whole, bad)
    with bad.open("r+b") as file:
        file.seek(read_archive(whole).members["run.json"].offset)
        file.write(b"[")
    assert main(["verify", str(bad), "--json"]) == 2
    captured = capsys.readouterr()
    assert "run.json" in json.loads(captured.out)["error"]
    assert "[bundle-damaged]" in captured.err
