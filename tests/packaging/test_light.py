"""The host side stays light: planning, running and reporting need no torch in the host's process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "docker", "transformers", "guidellm", "numpy", "scipy", "datasets")
HEAVY += ("huggingface_hub",)


@pytest.mark.parametrize(
    "module",
    [
        "speculators.cli.app",
        "speculators.executors.image_build",
        "speculators.executors.image_check",
        "speculators.pipeline.run",
        "speculators.render.folder",
        "speculators.report.document",
        "speculators.benchmark.run",
        "speculators.serving.command",
        "speculators.bundle.verify",
        "speculators.bundle.repeat",
        "speculators.bundle.publish",
    ],
)
def test_importing_the_host_side_pulls_in_nothing_heavy(module: str):
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
