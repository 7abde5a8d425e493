"""``run`` of a bundle from outside: what it refuses before anything is fetched or run."""

from __future__ import annotations

from pathlib import Path

import pytest

from speculators.cli.app import main

BUNDLE = "http://127.0.0.1:9/never-asked-for.speculators.tar"


@pytest.mark.parametrize("option", ["--only", "--from", "--accept"])
def test_a_bundle_is_repeated_as_a_whole(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", BUNDLE, option, "training", "--runs-dir", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert f"{option}: a bundle is repeated as a whole" in shown
    assert not (tmp_path / "runs").exists()
