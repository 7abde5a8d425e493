"""``speculators certify`` on the CPU: the code that a GPU is asked with, run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speculators.cli.app import main
from tests.needs import needed

CHECKS = [
    "fast path against oracle, one layer, float32",
    "fast path against oracle, one layer, every row, float32",
    "fast path against oracle, two layers, window, norms per state, float32",
    "fast path against oracle, one layer, bfloat16",
    "fast path against oracle, one layer, every row, bfloat16",
    "fast path against oracle, two layers, window, norms per state, bfloat16",
    "20 steps on 2 ranks against one, ddp",
    "20 steps on 2 ranks against one, fsdp",
    "captured layers against transformers",
    "engine's own tokens from the last state",
]


def test_a_device_that_there_is_none_of_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "--device", "tpu"]) == 2
    assert "--device tpu: one of auto, cpu, cuda" in capsys.readouterr().err


@pytest.mark.integration
def test_the_cpu_is_certified_within_two_minutes_and_not_asked_twice(tmp_path: Path) -> None:
    needed("vllm")
    command = [sys.executable, "-m", "speculators", "certify", "--device", "cpu"]
    environment = {**os.environ, "SPECULATORS_HOME": str(tmp_path)}
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    marks = [line.partition(":")[0] for line in asked.stdout.splitlines() if line.startswith("ok  ")]
    assert marks == [f"ok  {name}" for name in CHECKS]
    assert "| Trainer and engine on CPU (torch " in asked.stdout
    again = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    document = json.loads(again.stdout)
    assert document["ok"]
    assert again.stderr == ""
    assert sum(part["result"]["seconds"] for part in document["parts"].values()) < 120
