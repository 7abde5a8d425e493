"""What a stage finds around it: interpreter, packages, engine - asked inside, for only there is it known.

    python -m speculators.executors.interior

prints it as one JSON object.  The local executor asks its own interpreter; a container's image is asked
once, by this same module.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from speculators.errors import MachineError
from speculators.serving.environment import engine_environment
from speculators.serving.launcher import Launcher, find_launcher


class Interior(NamedTuple):
    """``packages``: the version of every distribution.  ``engine_env``: what an engine process needs in its
    environment; ``launcher`` starts a server.
    """

    python: str
    version: str
    packages: dict[str, str]
    engine_env: dict[str, str]
    launcher: Launcher | None

    def environment(self, recipe_env: Mapping[str, Any]) -> dict[str, str]:
        """``engine_env`` with the recipe's ``engine.env``, which wins."""
        return self.engine_env | {name: str(value) for name, value in recipe_env.items()}

    def require_launcher(self) -> Launcher:
        """How a server is started.

        Raises:
            MachineError: there is no engine.
        """
        if self.launcher is None:
            raise MachineError(
                "vLLM is not installed where stages run",
                hint="install an engine (see the README's set-up), or name an image that has one",
                rule="no-engine",
            )
        return self.launcher


def look_inside() -> Interior:
    """The interior of this interpreter's environment."""
    try:
        launcher = find_launcher()
    except MachineError:
        launcher = None
    return Interior(sys.executable, platform.python_version(), _installed(), engine_environment({}), launcher)


def parse(text: str) -> Interior:
    """The interior that another interpreter printed."""
    document = json.loads(text)
    launcher = document.pop("launcher")
    return Interior(
        **document, launcher=Launcher(**{**launcher, "start": tuple(launcher["start"])}) if launcher else None
    )


def spelled(interior: Interior) -> str:
    """``interior`` as ``parse`` reads it."""
    launcher = interior.launcher._asdict() if interior.launcher else None
    return json.dumps({**interior._asdict(), "launcher": launcher})


def _installed() -> dict[str, str]:
    """The version of every distribution, by its normalised name."""
    named = ((found.metadata["Name"], found.version) for found in metadata.distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in named if name}


if __name__ == "__main__":
    print(spelled(look_inside()))
