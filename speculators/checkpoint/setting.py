"""The setting of a speedup card in a checkpoint's folder.

vLLM reads from ``config.json`` how many tokens to propose, and nothing of batch sizes: the schedule is an
option of the server, so it lies beside the weights as the value that ``--speculative-config`` takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speculators.checkpoint.config import CONFIG_NAME
from speculators.documents import known_json, write_json
from speculators.errors import RecipeError

SETTING_NAME = "speculative-config.json"


def write_setting(folder: Path, setting: Mapping[str, Any]) -> None:
    """Let the checkpoint in ``folder`` propose as ``setting`` says.

    Raises:
        RecipeError: there is no checkpoint, or the setting is to serve plainly.
    """
    config = known_json(folder / CONFIG_NAME)
    if "speculators_config" not in config:
        raise RecipeError(
            f"{folder}: no checkpoint of this format", hint="name its folder", rule="no-checkpoint"
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
    (folder / SETTING_NAME).write_text(json.dumps(setting) + "\n", encoding="utf-8")
