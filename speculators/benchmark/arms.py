"""How each arm of a benchmark is served: plainly, with the draft, with another one, without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.measurement import Measurement
from speculators.benchmark.rounds import (
    BASE,
    DRAFT,
    FREE_ARMS,
    PLAIN,
    QUANTISED_DRAFT,
    QUANTISED_PLAIN,
    depth_arm,
)
from speculators.documents import read_json
from speculators.executors.interior import Interior
from speculators.serving.command import Speculation

Engine = Mapping[str, Any]


class Base(NamedTuple):
    """What the draft is measured beside, in the same rounds.

    ``name``: as comparisons call it; ``engine``: the ``args`` and ``env`` of its server.
    """

    name: str
    draft: Path
    tokens: int
    engine: Engine
    digest: str


class Opponent(NamedTuple):
    """What a benchmark is held against: a measurement of another sitting, or an arm in the same rounds.

    ``itself``: the draft of this run once more, which is known only when it is packaged.
    """

    stored: Measurement | None = None
    base: Base | None = None
    itself: bool = False

    def __bool__(self) -> bool:
        return self != NOBODY


NOBODY = Opponent()


class Arm(NamedTuple):
    """``speculation``: None serves plainly; ``engine``: as of ``Base``."""

    speculation: Speculation | None
    engine: Engine


def speculation_of(draft: Path, tokens: int) -> Speculation:
    """That of the checkpoint in ``draft``.

    Raises:
        RecipeError: vLLM has no method for its algorithm; better known before any server starts.
    """
    algorithm = read_json(draft / "config.json").get("speculators_model_type", "")
    speculation = Speculation(draft, algorithm, tokens)
    speculation.config()
    return speculation


def arms_of(
    speculation: Speculation,
    engine: Engine,
    free: Sequence[str],
    base: Base | None,
    depths: Sequence[int] = (),
    *,
    quantised: bool = False,
) -> dict[str, Arm]:
    """Every arm by its name, in the order of the first round.

    ``free``: methods that need no draft; ``depths``: further numbers of tokens that the draft proposes, each
    in an arm of its own; ``quantised``: whether there is such a copy of the verifier.
    """
    arms = {PLAIN: Arm(None, engine), DRAFT: Arm(speculation, engine)}
    if base is not None:
        arms[BASE] = Arm(speculation_of(base.draft, base.tokens), base.engine)
    if quantised:
        arms |= {QUANTISED_PLAIN: Arm(None, engine), QUANTISED_DRAFT: Arm(speculation, engine)}
    others = [tokens for tokens in depths if tokens != speculation.tokens]
    arms |= {depth_arm(tokens): Arm(speculation._replace(tokens=tokens), engine) for tokens in others}
    return arms | {arm: Arm(Speculation(None, arm, speculation.tokens), engine) for arm in free}


def missing_packages(arms: Sequence[str], interior: Interior) -> dict[str, str]:
    """Of the wanted extra arms those that this engine cannot serve, and why."""
    return {
        arm: f"the engine's environment has no {package}"
        for arm in arms
        if (package := FREE_ARMS[arm]) and package not in interior.packages
    }
