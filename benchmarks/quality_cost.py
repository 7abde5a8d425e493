"""What a quality comparison will cost this machine, before it starts: rough, and said to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from speculators.quantities import duration

#: Tokens a second of an idle two-core AVX2 machine, SmolLM2-135M, float32, as far as they were measured; a
#: loaded one takes as much longer as it is loaded.
PROMPTS_PER_SECOND = 1.5
ANSWERS, CAPTURE = 160.0, 500.0
TRAINING, REFERENCE = 700.0, 300.0  # at three tokens a step; a step's cost goes with their number
SERVED = 13.0  # one request at a time
LAUNCH_SECONDS = 75.0
#: Tokens of a document beside its answer: template, system message, question.
PROMPT_TOKENS = 60


class Cost(NamedTuple):
    """Seconds of one kind of work."""

    what: str
    seconds: float


def data(prompts: int, own: int, answer_tokens: int) -> Cost:
    """Of ``prompts`` answers of so many tokens; ``own`` of the prompts are written by the verifier."""
    launches = LAUNCH_SECONDS * (3 if own else 2)
    answers = prompts * answer_tokens / ANSWERS
    capture = prompts * (answer_tokens + PROMPT_TOKENS) / CAPTURE
    return Cost(
        f"data: {prompts} prompts, {own} of them the verifier's own",
        launches + own / PROMPTS_PER_SECOND + answers + capture,
    )


def training(
    name: str, sizes: Iterable[int], epochs: int, answer_tokens: int, tokens: int, reference: bool
) -> Cost:
    """Of one system's trainings, of ``sizes`` supervised tokens each; ``tokens``: proposed a step."""
    trained = list(sizes)
    read = sum(trained) * epochs * (answer_tokens + PROMPT_TOKENS) / answer_tokens
    speed = (REFERENCE if reference else TRAINING) * 3 / tokens
    return Cost(f"{name}: {len(trained)} trainings of {epochs} epochs", read / speed)


def serving(arms: int, requests: int, answer_tokens: int) -> Cost:
    """Of ``arms`` launches that answer so many prompts one after the other."""
    return Cost(
        f"serving: {arms} launches, {requests} answers each",
        arms * (LAUNCH_SECONDS + requests * answer_tokens / SERVED),
    )


def text(costs: Sequence[Cost]) -> str:
    """One line a kind, and the sum."""
    lines = [f"  {duration(cost.seconds):>10}  {cost.what}" for cost in costs]
    total = duration(sum(cost.seconds for cost in costs))
    return "\n".join([f"about {total} of an idle two-core machine, if nothing of it is there yet:", *lines])
