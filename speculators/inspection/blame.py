"""Which half is wrong?  Acceptance in plain PyTorch against acceptance served, of one draft on one text.

Guessing in plain PyTorch has no engine in it, and serving has.  As much served as guessed means that export,
configuration and engine do what the training did: what is missing is data or training.  Less served means
that they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from speculators.benchmark.checks import PREDICTION_TOLERANCE
from speculators.benchmark.statistics import relative_difference

#: Below this rate a position is too rare for its relative difference to say much.
RARE = 0.2

EXPORT, TRAINING, TEXT = "export or engine", "data or training", "another text"


class Blame(NamedTuple):
    """``half``: EXPORT, TRAINING, or TEXT where served is above what was guessed."""

    half: str
    said: str
    predicted: float
    served: float

    def document(self) -> dict[str, Any]:
        return self._asdict()


def blame(predicted: Mapping[str, Any], served: Mapping[str, Any]) -> Blame | None:
    """Split the blame between two ``{"acceptance_length", "per_position"}``; None where one is unknown."""
    guessed, real = predicted.get("acceptance_length"), served.get("acceptance_length")
    if guessed is None or real is None:
        return None
    difference = relative_difference(guessed, real)
    if abs(difference) <= PREDICTION_TOLERANCE:
        said = (
            f"served as it guesses in plain PyTorch ({real:.2f} and {guessed:.2f}): export and engine are "
            "sound; if that is too low, data or training is the cause"
        )
        return Blame(TRAINING, said, guessed, real)
    if difference < 0:
        said = (
            f"served above what it guesses in plain PyTorch ({real:.2f} and {guessed:.2f}): not the same "
            "text, or not the same draft"
        )
        return Blame(TEXT, said, guessed, real)
    said = (
        f"it guesses {guessed:.2f} tokens a step in plain PyTorch and {real:.2f} served: export, "
        f"configuration or engine lose them{_where(predicted, served)}"
    )
    return Blame(EXPORT, said, guessed, real)


def _where(predicted: Mapping[str, Any], served: Mapping[str, Any]) -> str:
    """At which draft position served falls behind, and what lies there."""
    pairs = list(zip(predicted.get("per_position") or (), served.get("per_position") or ()))
    behind = [
        place
        for place, (guessed, real) in enumerate(pairs)
        if guessed - real > PREDICTION_TOLERANCE * max(guessed, RARE)
    ]
    if not behind:
        return ""
    if behind[0] == 0:
        return ", from the first position on: what the draft reads (layers, norms, embedding, map)"
    return (
        f", from position {behind[0]} on: what is fed back between steps (norm_output, positions), the first "
        "guess is as it should be"
    )
