from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from speculators.checkpoint.folder import new_folder
from speculators.errors import RecipeError


def below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_what_stands_beside_the_target_is_left_alone_whatever_its_name(tmp_path: Path) -> None:
    strangers = tmp_path / "draft.partial"
    strangers.mkdir()
    (strangers / "thesis.txt").write_text("ten years of work")
    with new_folder(tmp_path / "draft") as partial:
        (partial / "new").write_text("x")
    assert below(tmp_path) == {"draft", "draft/new", "draft.partial", "draft.partial/thesis.txt"}


def test_a_new_folder_has_the_modes_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with new_folder(tmp_path / "draft"):
        pass
    assert stat.S_IMODE((tmp_path / "draft").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "other").stat().st_mode
    )


def write_both(target: Path, *more: str) -> None:
    """Fills ``target``, and meanwhile again for each of ``more``; the outer ones end last."""
    with new_folder(target) as partial:
        (partial / "by").write_text(f"{len(more)} more")
        if more:
            write_both(target, *more[1:])
        assert (partial / "by").read_text() == f"{len(more)} more"


def write_and_fail(target: Path) -> None:
    with new_folder(target) as partial:
        (partial / "half").write_text("x")
        raise ZeroDivisionError


def test_of_two_that_write_one_target_the_first_to_end_has_it_whole(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds something since this began"):
        write_both(tmp_path / "draft", "a second one")
    assert below(tmp_path) == {"draft", "draft/by"}
    assert (tmp_path / "draft" / "by").read_text() == "0 more"


def test_a_failure_leaves_no_folder_that_was_made_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / "mine" / "b" / "c")
    assert below(tmp_path) == {"mine"}


def test_a_failure_leaves_the_empty_folder_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / "draft")
    assert below(tmp_path) == {"draft"}


def test_an_empty_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    with new_folder(tmp_path / "draft") as partial:
        (partial / "new").write_text("x")
    assert below(tmp_path) == {"draft", "draft/new"}


@pytest.mark.parametrize("here", [".", "../here"])
def test_the_folder_that_one_stands_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    """Taking its place would leave whoever stands in it in a folder that is no more."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RecipeError, match="the folder that this runs in"), new_folder(Path(here)):
        pass
    assert below(tmp_path) == {"here"}


def test_a_target_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(RecipeError, match=r"file/a/b: cannot be made: .*directory"),
        new_folder(tmp_path / "file" / "a" / "b"),
    ):
        pass
    assert below(tmp_path) == {"file"}


def test_a_link_and_a_full_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "link"):
        with pytest.raises(RecipeError, match="not an empty folder"), new_folder(tmp_path / name):
            pass
    assert below(tmp_path) == {"full", "full/x", "link"}


def test_a_disk_without_room_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"), new_folder(tmp_path / "a" / "b"):
        pass
