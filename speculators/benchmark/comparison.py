"""Two measurements side by side: can they be compared, what changed, and what that comes from.

A loss of speed has one of three causes, which different people mend, so they are told apart: acceptance
(the draft, its data, the template), the time of a step (the engine, the machine), or answers that are not
the same work any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.figures import (
    ANSWERS,
    LENGTH,
    LENGTH_BY_PROMPT,
    LENGTH_OF_SEVERAL,
    LOSSLESS,
    SPEEDUP,
    STEP,
    Figure,
    Limits,
    Together,
    common_loads,
    compared,
    proposed_at_times,
    proposed_otherwise,
    visible_loss,
)
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED, worst
from speculators.benchmark.measurement import ALGORITHM, TOKENS, Measurement
from speculators.errors import EXIT_REGRESSION, EXIT_UNDECIDED, RecipeError

COMPARISON_SCHEMA = "speculators/comparison/v1"
NOT_COMPARABLE = "not comparable"
#: With fewer, a baseline's own noise hides losses: benchmarks/gate_calibration.py shows how much.
ENOUGH_ROUNDS = 12
#: With fewer it is none: later rounds are judged by its spread, and two or three rounds agree by chance.
BASELINE_ROUNDS = 5

OUTPUTS_CHANGED = "outputs changed: the answers are other ones, so speed and acceptance are of other work"
ACCEPTANCE_FELL = "acceptance fell: look at the draft, the data it was trained on, the chat template"
STEP_SLOWER = "acceptance held and speed fell: look at the engine and the machine"
BOTH = "acceptance fell, and a step takes longer as well: look at the draft and at the engine"
STEP_AT_LEAST = "a step takes longer: look at the engine and the machine; acceptance may have fallen as well"
UNKNOWN_STEP = "whether a step takes longer as well cannot be told yet"
UNKNOWN = "speed fell; whether by acceptance or by the time of a step cannot be told yet"

PROPOSED_OTHERWISE = (
    "speed fell, and tokens are proposed otherwise: set that back to see whether it comes from it"
)
PROPOSED_AT_TIMES = (
    "speed fell, by fewer proposals or a slower step: steps in which nothing is proposed are not counted"
)

UNKNOWN_NOISE = "the scatter of this machine is not known, and few rounds agree by chance: --aa measures it"

DEFAULTS = Limits()


class Difference(NamedTuple):
    """A setting that is not the same in both."""

    name: str
    old: Any
    new: Any


class Comparison(NamedTuple):
    """``reasons``: why nothing can be compared; ``remarks``: what a reader should know of what could.

    ``recipe``, ``lock``: how those of the two runs differ, where they are known.
    """

    old: str
    new: str
    verdict: str
    reasons: tuple[str, ...]
    causes: tuple[str, ...]
    figures: tuple[Figure, ...]
    settings: tuple[Difference, ...]
    remarks: tuple[str, ...]
    recipe: tuple[Difference, ...] = ()
    lock: tuple[Difference, ...] = ()

    @property
    def open(self) -> bool:
        """Whether more rounds could change the verdict."""
        waiting = any(one.gated and one.rounds and one.verdict == UNDECIDED for one in self.figures)
        return self.verdict == UNDECIDED and waiting

    def document(self) -> dict[str, Any]:
        return {
            "schema": COMPARISON_SCHEMA,
            **{name: getattr(self, name) for name in ("old", "new", "verdict")},
            **{name: list(getattr(self, name)) for name in ("reasons", "causes", "remarks")},
            "figures": [one._asdict() for one in self.figures],
            **{
                name: [one._asdict() for one in getattr(self, name)]
                for name in ("settings", "recipe", "lock")
            },
        }


def exit_code(verdict: str, *, strict: bool = False) -> int:
    """0 no loss, 1 regression, 2 the wrong things were compared; doubt is 0, or under ``strict`` 5."""
    codes = {REGRESSION: EXIT_REGRESSION, NOT_COMPARABLE: RecipeError.exit_code}
    codes |= {UNDECIDED: EXIT_UNDECIDED} if strict else {}
    return codes.get(verdict, 0)


def compare(
    old: Measurement,
    new: Measurement,
    limits: Limits = DEFAULTS,
    alpha: float | None = None,
    *,
    anyway: bool = False,
    together: Together | None = None,
    unsound: Sequence[str] = (),
) -> Comparison:
    """What became of the ``old`` measurement's speedup in the ``new`` one.

    ``alpha``: what this look may spend of ``limits.alpha``, all of it by default.  ``anyway``: compare
    across machines and load generators, and say so.  ``together``: they were measured in the same rounds.
    ``unsound``: why one of the measurements means nothing by itself.
    """
    reasons = tuple(unsound) or tuple(incomparable(old, new, anyway=anyway))
    alpha = limits.alpha if alpha is None else alpha
    figures = () if reasons else tuple(compared(old, new, limits, alpha, together))
    said = () if reasons else (*remarks(old, new, limits, alpha, together), *ungated(old, new, figures))
    verdict = NOT_COMPARABLE if reasons else worst([one.verdict for one in figures if one.gated])
    return Comparison(
        old=old.run,
        new=new.run,
        verdict=verdict,
        reasons=reasons,
        causes=tuple(causes(figures, unexplained(old, new))) if verdict == REGRESSION else (),
        figures=figures,
        settings=tuple(differences(old.settings, new.settings)),
        remarks=said,
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    """Where two flat documents differ, by name."""
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Difference(name, old.get(name), new.get(name))


def incomparable(old: Measurement, new: Measurement, *, anyway: bool = False) -> Iterator[str]:
    """Why the speedups would not be of the same thing, or say nothing."""
    yield from other_premises(old, new, anyway=anyway)
    if not common_loads(old, new):
        yield "no load (requests at a time) was measured in both"
    for one in (old, new):
        if one.loads:
            yield from too_few_rounds(one)


def too_few_rounds(one: Measurement) -> Iterator[str]:
    """Why nothing can be held against this measurement, whatever it is compared with."""
    if not one.loads:
        yield f"{one.run} has no load with a speed of both arms in every round"
    elif one.rounds < 2:
        yield f"{one.run} has one round, so nothing is known of its spread"


def no_baseline(one: Measurement) -> Iterator[str]:
    """Why no run is gated against this measurement; two that lie there may be compared for all that."""
    reasons = list(too_few_rounds(one))
    yield from reasons
    if not reasons and one.rounds < BASELINE_ROUNDS:
        few = f"{one.run} has {one.rounds} rounds"
        yield f"{few}, and a baseline needs {BASELINE_ROUNDS}: fewer agree by chance"


def other_premises(old: Measurement, new: Measurement, *, anyway: bool = False) -> Iterator[str]:
    """What can be known before anything is measured."""
    for what in ("work",) if anyway else ("work", "machine", "instrument"):
        yield from _other(what, old, new)


def _other(what: str, old: Measurement, new: Measurement) -> Iterator[str]:
    for name, before, after in differences(getattr(old, what), getattr(new, what)):
        values = f"{spelled(before)} in {old.run}, {spelled(after)} in {new.run}"
        yield f"{'other' if what == 'work' else 'another'} {what}: {name} is {values}"


def spelled(value: Any) -> str:
    """A value in a sentence; of a digest its beginning."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def remarks(
    old: Measurement, new: Measurement, limits: Limits, alpha: float, together: Together | None = None
) -> Iterator[str]:
    """What a reader should know of a comparison that was made."""
    for what in ("machine", "instrument"):
        yield from _other(what, old, new)
    measured = [{load.concurrency for load in one.loads} for one in (old, new)]
    if alone := sorted(measured[0] ^ measured[1]):
        yield f"measured in one of both only, and left out: {', '.join(map(str, alone))} requests at a time"
    seen = visible_loss(old, new, limits, alpha, together)
    size = "no loss is" if seen is None else f"a loss of {seen:.1%} is"
    rounds = (
        f"{new.rounds} rounds against {old.rounds}" if together is None else f"{new.rounds} common rounds"
    )
    yield f"with this noise and {rounds}, {size} found four times in five"
    if together is not None:
        if not together.spread:
            yield UNKNOWN_NOISE
    elif old.rounds < ENOUGH_ROUNDS:
        yield f"{old.run} has {old.rounds} rounds: against {ENOUGH_ROUNDS} a loss is found sooner"


def ungated(old: Measurement, new: Measurement, figures: Sequence[Figure]) -> Iterator[str]:
    """What the verdict does not rest on although a gate is expected to see it."""
    names = {one.name for one in figures}
    if proposed_otherwise(old, new):
        ways = [f"{one.settings.get(TOKENS)} tokens by {one.settings.get(ALGORITHM)}" for one in (old, new)]
        yield (
            f"{ways[0]} are proposed in {old.run}, {ways[1]} in {new.run}: their acceptance lengths are "
            "different quantities, and the verdict says nothing of them"
        )
    elif not names & {LENGTH, LENGTH_BY_PROMPT}:
        yield "acceptance was not counted in both: the verdict says nothing of it"
    if ANSWERS not in names:
        yield "no answers of one request at a time are in both: the verdict says nothing of them"


def unexplained(old: Measurement, new: Measurement) -> str:
    """Why acceptance does not tell what a loss of speed comes from; empty where it does."""
    if proposed_otherwise(old, new):
        return PROPOSED_OTHERWISE
    return PROPOSED_AT_TIMES if proposed_at_times(new) else ""


def causes(figures: Sequence[Figure], instead: str = "") -> Iterator[str]:
    """What a regression comes from, in words; ``instead``: what is said where acceptance does not tell."""
    verdicts = {one.name: one.verdict for one in figures if one.concurrency is None or not one.rounds}
    gated = {one.name for one in figures if one.gated and one.verdict == REGRESSION}
    if gated & {ANSWERS, LOSSLESS}:
        yield OUTPUTS_CHANGED
    lengths = [verdicts[name] for name in (LENGTH, LENGTH_BY_PROMPT, LENGTH_OF_SEVERAL) if name in verdicts]
    step, lost = verdicts.get(STEP), SPEEDUP in gated
    if REGRESSION in lengths:
        yield BOTH if step == REGRESSION else ACCEPTANCE_FELL
        if lost and step == UNDECIDED:
            yield UNKNOWN_STEP
    elif lost and instead:
        yield instead
    elif lost and lengths and lengths[0] == OK:  # that of all loads, where they were counted
        yield STEP_SLOWER
    elif lost:
        yield STEP_AT_LEAST if step == REGRESSION else UNKNOWN
