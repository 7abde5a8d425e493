"""The run that is left alone, once a session: what disturbed and repeated ones are compared with."""

from __future__ import annotations

import pytest

from tests.faults.harness import calm
from tests.faults.world import World, write_world


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one finished run in it, from data to report, in this environment."""
    world = write_world(tmp_path_factory.mktemp("undisturbed") / "world", rounds=1)
    calm(world, benchmark=True)
    return world
