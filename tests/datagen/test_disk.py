from __future__ import annotations

from pathlib import Path

import pytest

from speculators.datagen.disk import GIB, require_space, states_bytes
from speculators.errors import MachineError


def test_a_token_costs_layers_times_width_times_bytes() -> None:
    assert states_bytes(1000, layers=4, hidden_size=576, element_bytes=2) == 4_608_000


def test_enough_space_is_reported(tmp_path: Path) -> None:
    assert require_space(tmp_path, 2 * GIB, free=5 * GIB) == "needs 2.00 GiB of disk, 5.00 GiB free"


def test_too_little_space_stops_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"needs 2\.00 GiB of disk, 1\.00 GiB free"):
        require_space(tmp_path, 2 * GIB, free=GIB)


def test_the_disk_itself_is_asked(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        require_space(tmp_path, 1 << 62)
