"""What a test needs and a machine may lack: there the test is left out with a line, in CI it fails.

A test that was left out looks like one that passed.
"""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

REQUIRE = "SPECULATORS_REQUIRE_ENGINE"
NO = ("", "0", "false", "no")


def required() -> bool:
    """Whether nothing may be left out: in CI."""
    return any(os.environ.get(name, "").lower() not in NO for name in ("CI", REQUIRE))


def leave_out(reason: str) -> NoReturn:
    """End the test for want of something: skipped, or in CI failed."""
    if required():
        pytest.fail(f"{reason}, and nothing may be left out here", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def needed(module: str) -> Any:
    """``module``, or the test's end where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        leave_out(f"{module} cannot be imported ({error.name})")


def needed_file(package: str, name: str) -> Path:
    """A data file of an installed distribution, none of whose code runs; or the test's end."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        leave_out(f"{package} is not installed")
    return next(Path(str(file.locate())) for file in files if file.name == name)


def needing(*packages: str) -> pytest.MarkDecorator:
    """A mark for tests whose processes import ``packages``; where nothing may be left out they just fail."""
    absent = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(absent) and not required(), reason=f"needs {', '.join(packages)}")
