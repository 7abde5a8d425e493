"""The setting of a speedup card in a checkpoint's folder.

vLLM reads from ``config.json`` how many tokens to propose, and nothing of batch sizes: the schedule is an
option of the server, so it lies beside the weights as the value that ``--speculative-config`` takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speculators.checkpoint.check import listed
from speculators.checkpoint.config import CONFIG_NAME
from speculators.checkpoint.config_checks import proposal_check
from speculators.documents import file_digest, known_json, write_json, write_text
from speculators.errors import RecipeError

SETTING_NAME = "speculative-config.json"


def write_setting(folder: Path, setting: Mapping[str, Any], weights: str | None) -> None:
    """Let the checkpoint in ``folder`` propose as ``setting`` says.

    ``weights``: SHA-256 of those that the setting was measured with.

    Raises:
        RecipeError: there is no checkpoint, it is of another draft, or the setting is to serve plainly.
    """
    config = known_json(folder / CONFIG_NAME)
    if "speculators_config" not in config:
        raise RecipeError(
            f"{folder}: no checkpoint of this format", hint="name its folder", rule="no-checkpoint"
        )
    if not (known := proposal_check(config["speculators_config"])).ok:
        raise RecipeError(
            f"{folder}: {listed([known])}",
            hint="'speculators inspect DIR' says what is wrong with it",
            rule="no-checkpoint",
        )
    if weights not in [file_digest(path) for path in folder.glob("*.safetensors")]:
        raise RecipeError(
            f"{folder}: another draft than the one that was measured",
            hint="name a copy of that run's model/",
            rule="no-checkpoint",
        )
    if not setting:
        raise RecipeError(
            "speculation pays at no measured load: there is no setting to write",
            hint="serve the verifier without the draft",
            rule="no-setting",
        )
    config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] = setting[
        "num_speculative_tokens"
    ]
    write_json(folder / CONFIG_NAME, config)
    write_text(folder / SETTING_NAME, json.dumps(setting) + "\n")
