"""How each arm of a benchmark is served: plainly, with the draft, with another one, without any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.measurement import Measurement
from speculators.benchmark.rounds import (
    BASE,
    BASE_PLAIN,
    DRAFT,
    FREE_ARMS,
    PLAIN,
    Condition,
    depth_arm,
)
from speculators.documents import known_json, read_json
from speculators.errors import RecipeError
from speculators.executors.interior import Interior
from speculators.serving.command import Speculation

Engine = Mapping[str, Any]
#: Of an engine's settings those that its servers are started with.
SERVED_BY = ("args", "env")
GENERATION_CONFIG = "generation_config.json"
#: What of it a request of the API can carry.
DRAWING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Base(NamedTuple):
    """What the draft is measured beside, in the same rounds.

    ``name``: as comparisons call it; ``engine``: the ``args`` and ``env`` of its server.
    """

    name: str
    draft: Path
    tokens: int
    engine: Engine
    digest: str

    def served_otherwise(self, engine: Engine) -> bool:
        """Whether its server is not one of ``engine``, so that its speedup is over a plain arm of its own.

        Divided by a plain arm of ours a flag that slows everything would look like the draft's loss.
        """
        return any(self.engine[name] != engine[name] for name in SERVED_BY)


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
    """``speculation``: None serves plainly; ``engine``: as of ``Base``; ``condition``: None for none."""

    speculation: Speculation | None
    engine: Engine
    condition: Condition | None = None


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
    conditions: Sequence[Condition] = (),
) -> dict[str, Arm]:
    """Every arm by its name, in the order of the first round.

    ``free``: methods that need no draft; ``depths``: further numbers of tokens that the draft proposes, each
    in an arm of its own; ``conditions``: under which both first arms are served once more.
    """
    arms = {PLAIN: Arm(None, engine), DRAFT: Arm(speculation, engine)}
    if base is not None:
        arms[BASE] = Arm(speculation_of(base.draft, base.tokens), base.engine)
        if base.served_otherwise(engine):
            arms[BASE_PLAIN] = Arm(None, base.engine)
    for one in conditions:
        arms |= {one.plain: Arm(None, engine, one), one.draft: Arm(speculation, engine, one)}
    others = [tokens for tokens in depths if tokens != speculation.tokens]
    arms |= {depth_arm(tokens): Arm(speculation._replace(tokens=tokens), engine) for tokens in others}
    return arms | {arm: Arm(Speculation(None, arm, speculation.tokens), engine) for arm in free}


def own_sampling(verifier: Path) -> dict[str, Any]:
    """How the model in ``verifier`` says itself that answers are drawn, as requests carry it.

    Raises:
        RecipeError: the model says nothing of it.
    """
    stated = known_json(verifier / GENERATION_CONFIG)
    found = {name: stated[name] for name in DRAWING if stated.get(name) is not None}
    if not found or stated.get("do_sample") is False:
        raise RecipeError(
            f"benchmark.sampling is both, but the verifier's {GENERATION_CONFIG} states no sampling",
            hint="leave benchmark.sampling at greedy",
            rule="sampling",
        )
    return {"temperature": 1.0, **found}  # what the API takes for a temperature that nobody states


def missing_packages(arms: Sequence[str], interior: Interior) -> dict[str, str]:
    """Of the wanted extra arms those that this engine cannot serve, and why."""
    return {
        arm: f"the engine's environment has no {package}"
        for arm in arms
        if (package := FREE_ARMS[arm]) and package not in interior.packages
    }
