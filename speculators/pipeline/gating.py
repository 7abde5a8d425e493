"""The gate of a run: its benchmark against a baseline, look by look, until it can decide.

The baseline is a stored measurement, or an arm of the same rounds.  What can be known before is asked
before: a baseline of other work, another machine or load generator is refused while nothing is measured yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speculators.benchmark.checks import broken
from speculators.benchmark.comparison import Comparison, compare, incomparable
from speculators.benchmark.figures import Limits, Together
from speculators.benchmark.gate import spent
from speculators.benchmark.measurement import Load, Measurement, asked_prompts, measurement, of_base
from speculators.benchmark.summary import summarise
from speculators.documents import known_json, write_json
from speculators.errors import RecipeError
from speculators.pipeline.running import Run
from speculators.pipeline.store import KEY_NAME
from speculators.report.document import COMPARISON


def limits_of(gate: Mapping[str, Any]) -> Limits:
    """A recipe's ``benchmark.gate`` as the comparison takes it."""
    return Limits(
        speed=gate["speed_tolerance"],
        acceptance=gate["acceptance_tolerance"],
        prompt_acceptance=gate["prompt_acceptance_tolerance"],
        outputs=gate["outputs"] == "same",
    )


class Gate:
    """The looks of one run.

    ``sitting``: what its rounds have in common; ``stored``: the baseline, None where it is the base arm;
    ``spread``: of an arm against itself on this machine, 0 where that is not known.
    """

    def __init__(
        self, run: Run, sitting: Mapping[str, Any], stored: Measurement | None, spread: float = 0.0
    ) -> None:
        self.run, self.stored, self.sitting = run, stored, sitting
        self.together = Together(spread) if stored is None else None
        gate = run.recipe.data["benchmark"]["gate"]
        self.looks: tuple[int, ...] = tuple(sorted(gate["looks"]))
        self.limits = limits_of(gate)
        self.comparison: Comparison | None = None

    def require_comparable(self, speculation: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        """Stop before a server starts when the result could not be compared.

        ``speculation``, ``body``: as the benchmark document will have them.

        Raises:
            RecipeError: saying what differs.
        """
        if self.stored is None:
            return
        wanted = self.run.recipe.data["benchmark"]["concurrency"]
        loads = tuple(Load(one, (1.0,) * self.looks[0], ()) for one in wanted)
        planned = self._measured({"samples": [], "speculation": speculation, "request_body": body})
        known = self.sitting.get("environment", {}).get("guidellm")
        planned = planned._replace(
            instrument={"guidellm": known} if known else self.stored.instrument, loads=loads
        )
        if reasons := list(incomparable(self.stored, planned)):
            raise RecipeError(
                f"this run cannot be compared with the baseline: {'; '.join(dict.fromkeys(reasons))}",
                hint="measure a baseline of the same work on this machine: "
                "speculators report RUN --format baseline",
                rule="not-comparable",
            )

    def enough(self, benchmark: dict[str, Any]) -> bool:
        """Whether the verdict on the rounds so far will not be changed by more of them.

        Arms that did different things cannot be compared, however many rounds there are.
        """
        summary = summarise(benchmark)
        new = self._measured(benchmark)
        old = self.stored or of_base(new, benchmark)
        checks = {new.run: summary["checks"]}
        checks |= {old.run: summary["base"]["checks"]} if self.stored is None else {}
        unsound = [
            f"{run}: {check['name']}: {check['detail']}"
            for run, made in checks.items()
            for check in broken(made)
        ]
        alpha = spent(len(self.looks))
        found = compare(old, new, self.limits, alpha, together=self.together, unsound=unsound)
        self.comparison = found._replace(remarks=(*found.remarks, *summary["warnings"]))
        rounds = benchmark["benchmark"]["rounds"]
        self.run.console.say("gate", f"after {rounds} rounds: {found.verdict}")
        return not found.open

    def _measured(self, benchmark: Mapping[str, Any]) -> Measurement:
        prompts = known_json(self.run.record.stage_folder("prompts") / KEY_NAME)
        asked = asked_prompts(prompts)
        return measurement(self.run.record.document, self.sitting, asked, benchmark)

    def conclude(self) -> None:
        """Leave the comparison in the run folder and its verdict in the record."""
        assert self.comparison is not None  # there is a first look
        write_json(self.run.record.folder / COMPARISON, self.comparison.document())
        self.run.record.document["gate"] = {
            "against": self.comparison.old,
            "verdict": self.comparison.verdict,
            "causes": list(self.comparison.causes),
        }
        self.run.record.write()
