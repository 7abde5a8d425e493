"""Does a repeated run bear out the published one?  Pure: two runs' documents in, a verdict out.

What is made and what is measured are judged apart.  Bytes can be equal; a speed cannot, it can only agree
within what is known of its spread.  So there is a word for each, and one for both:

* ``same bytes``      every artefact that was made again is equal, and the measurement is consistent
* ``consistent``      the measurement is consistent; artefacts differ, or none was made again
* ``differs``         a speedup's intervals do not meet, or the acceptance length is another
* ``not comparable``  the measurements are of different things, or one has no interval
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from speculators.benchmark.checks import broken
from speculators.benchmark.comparison import differences as changed
from speculators.benchmark.comparison import spelled
from speculators.benchmark.measurement import asked_prompts, measured_settings, measured_work
from speculators.benchmark.statistics import relative_difference
from speculators.bundle.evidence import ARTEFACT_STAGES, Evidence
from speculators.errors import EXIT_REGRESSION, EXIT_UNDECIDED
from speculators.report.spelling import difference

REPEAT_SCHEMA = "speculators/repeat/v1"
SAME, CONSISTENT, DIFFERS, NOT_COMPARABLE = "same bytes", "consistent", "differs", "not comparable"
NOT_MADE = "not made again"
UNDECIDED = "no interval"
#: Acceptance is pooled over tens of thousands of drafts and has no interval of its own.
ACCEPTANCE_TOLERANCE = 0.02
MADE = ("run", "adopted")
#: Files that say how a stage went, with its times, beside those that it made.
ACCOUNTS = ("ledger.json", "probe.json", "metrics.jsonl", "README.md")
#: What of a machine or of an environment is worth saying but leaves a speedup comparable.
REMARKS = ("memory_bytes", "system", "python", "speculators", "speculators sources")
NAMED = 2
EXIT_CODES = {SAME: 0, CONSISTENT: 0, DIFFERS: EXIT_REGRESSION, NOT_COMPARABLE: 0}


class Artefact(NamedTuple):
    """The files of one stage in both runs; ``differing`` are missing in one or have other bytes."""

    stage: str
    files: int
    differing: tuple[str, ...]
    made: bool  # by the repeated run, not taken from an earlier one's store


class Figure(NamedTuple):
    """One quantity in both runs; ``change`` is relative to the published one."""

    name: str  # "speedup" or "acceptance length"
    concurrency: int
    published: dict[str, Any]
    repeated: dict[str, Any]
    change: float
    outcome: str


class Verdict(NamedTuple):
    """``reasons``: why the measurements cannot be compared; ``remarks``: what else was not the same."""

    word: str
    artefacts_word: str
    measurement_word: str
    artefacts: tuple[Artefact, ...]
    figures: tuple[Figure, ...]
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]

    def exit_code(self, *, strict: bool = False) -> int:
        """0 borne out, 1 differs; not comparable is 0, or under ``strict`` 5."""
        if strict and self.word == NOT_COMPARABLE:
            return EXIT_UNDECIDED
        return EXIT_CODES[self.word]

    def document(self) -> dict[str, Any]:
        return {
            "schema": REPEAT_SCHEMA,
            "verdict": self.word,
            "artefacts": {
                "verdict": self.artefacts_word,
                "stages": [one._asdict() | {"differing": list(one.differing)} for one in self.artefacts],
            },
            "measurement": {
                "verdict": self.measurement_word,
                "reasons": list(self.reasons),
                "figures": [one._asdict() for one in self.figures],
            },
            "remarks": list(self.remarks),
        }

    def text(self) -> str:
        """The verdict for people: its word first, then what it rests on."""
        lines = [f"{self.word}: {MEANING[self.word]}", f"  artefacts    {self._artefacts_text()}"]
        lines.append(f"  measurement  {self.measurement_word}")
        lines += [f"    {reason}" for reason in self.reasons]
        lines += [f"    {figure_text(one)}" for one in self.figures]
        return "\n".join([*lines, *(f"  note         {remark}" for remark in self.remarks)])

    def _artefacts_text(self) -> str:
        different = [differing_text(one) for one in self.artefacts if one.differing]
        if different:
            return f"differs: {', '.join(different)}"
        count = sum(one.files for one in self.artefacts if one.made)
        stages = [one.stage for one in self.artefacts if one.made]
        kept = [one.stage for one in self.artefacts if not one.made]
        said = f"same bytes: {count} files of {', '.join(stages)}" if stages else "none was made again"
        return said + (f"; from the store: {', '.join(kept)}" if kept else "")


MEANING = {
    SAME: "what was made again is equal, and what was measured agrees",
    CONSISTENT: "what was measured agrees with the published run",
    DIFFERS: "the repeated run does not bear out the published one",
    NOT_COMPARABLE: "nothing can be said of the published figures",
}


def judge(published: Evidence, repeated: Evidence) -> Verdict:
    """The verdict on the ``repeated`` run of what ``published`` claims."""
    artefacts = tuple(compare_artefacts(published, repeated))
    reasons = tuple(differences_that_matter(published, repeated))
    figures = () if reasons else tuple(compare_figures(published.report, repeated.report))
    if not reasons and not any(one.name == "speedup" and one.outcome != UNDECIDED for one in figures):
        reasons = (no_figures(figures),)
    measurement = measurement_word(figures, bool(reasons))
    made = artefacts_word(artefacts)
    word = SAME if (made, measurement) == (SAME, CONSISTENT) else measurement
    remarks = tuple(differences(*environments(published, repeated), only=REMARKS))
    return Verdict(word, made, measurement, artefacts, figures, reasons, remarks)


def compare_artefacts(published: Evidence, repeated: Evidence) -> Iterator[Artefact]:
    """Every stage that both runs know the files of."""
    for stage in ARTEFACT_STAGES:
        before, after = (made_files(one.outputs[stage]) for one in (published, repeated))
        if before and after:
            names = sorted(before.keys() | after.keys())
            differing = tuple(name for name in names if before.get(name) != after.get(name))
            yield Artefact(stage, len(names), differing, was_made(repeated.record, repeated.stage(stage)))


def was_made(record: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether the run made a stage's output itself, be it in an earlier attempt that ended early.

    An attempt's output under another key is another output.
    """
    earlier = [one for attempt in record.get("attempts", []) for one in attempt["stages"]]
    same = [one for one in earlier if (one["name"], one.get("key")) == (entry.get("name"), entry.get("key"))]
    return any(one.get("action") in MADE for one in (entry, *same))


def differing_text(one: Artefact) -> str:
    """Which files of a stage differ; many are counted."""
    if len(one.differing) > NAMED:
        return f"{one.stage} ({len(one.differing)} of {one.files} files)"
    return ", ".join(f"{one.stage}/{name}" for name in one.differing)


def made_files(sealed: Mapping[str, Any]) -> dict[str, str]:
    """The files that a stage made, by name, with their digests."""
    return {
        name: entry["sha256"] for name, entry in sealed.items() if name.rpartition("/")[2] not in ACCOUNTS
    }


def artefacts_word(artefacts: tuple[Artefact, ...]) -> str:
    if any(one.differing for one in artefacts):
        return DIFFERS
    return SAME if any(one.made for one in artefacts) else NOT_MADE


def measurement_word(figures: tuple[Figure, ...], incomparable: bool) -> str:
    if any(one.outcome == DIFFERS for one in figures):
        return DIFFERS
    return NOT_COMPARABLE if incomparable else CONSISTENT


def differences_that_matter(published: Evidence, repeated: Evidence) -> Iterator[str]:
    """Why the two measurements would not be of the same thing."""
    for name, one in (("published", published), ("repeated", repeated)):
        for check in broken(one.report["summary"]["checks"]):
            yield f"the {name} comparison is broken: {check['name']}: {check['detail']}"
        if not one.sitting:
            yield f"the {name} run does not say under which conditions it was measured (bench/key.json)"
    if published.sitting and repeated.sitting:
        yield from differences(measured_thing(published), measured_thing(repeated))
        yield from differences(*environments(published, repeated), ignored=REMARKS)


def measured_thing(one: Evidence) -> dict[str, Any]:
    """What was measured: the verifier, the kind of draft, the load, the engine's settings."""
    summary, values = one.report["summary"], one.sitting.get("values", {})
    benchmark = {
        **values.get("benchmark", {}),
        **{name: summary[name] for name in ("requests", "max_tokens")},
    }
    verifier = one.stage("verifier").get("result", {}).get("digest")
    prompts = asked_prompts(one.keys["prompts"])
    return {
        **measured_work(verifier, prompts, benchmark, one.benchmark.get("request_body", {})),
        **measured_settings(summary["speculation"], values.get("engine", {})),
    }


def environments(published: Evidence, repeated: Evidence) -> tuple[dict[str, Any], dict[str, Any]]:
    """On what they were measured: the machines, and the packages or images of the two sittings."""
    first, second = (
        {
            **one.record["machine"],
            **one.sitting.get("environment", {}),
            "speculators": one.record["tool"]["version"],
            "speculators sources": one.record["tool"].get("sha256"),
        }
        for one in (published, repeated)
    )
    return first, second


def differences(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    ignored: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
) -> Iterator[str]:
    """Where two flat documents differ, in words."""
    for name, old, new in changed(before, after):
        if name not in ignored and (only is None or name in only):
            yield f"{name}: {spelled(old)} was published, {spelled(new)} here"


def compare_figures(published: Mapping[str, Any], repeated: Mapping[str, Any]) -> Iterator[Figure]:
    """The speedup and the acceptance length at every load that both reports have."""
    before, after = (by_concurrency(report["summary"]) for report in (published, repeated))
    for concurrency in sorted(before.keys() & after.keys()):
        old, new = before[concurrency], after[concurrency]
        if old["speedup"] and new["speedup"]:
            yield compare_speedup(concurrency, old["speedup"], new["speedup"])
        if old["acceptance_length"] and new["acceptance_length"]:
            yield compare_acceptance(concurrency, old["acceptance_length"], new["acceptance_length"])


def by_concurrency(summary: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    lengths = {
        one["concurrency"]: one.get("acceptance_length")
        for one in summary["acceptance"]["served_by_concurrency"]
    }
    return {
        one["concurrency"]: {
            "speedup": one["speedup"],
            "acceptance_length": lengths.get(one["concurrency"]),
        }
        for one in summary["speed"]
    }


def compare_speedup(concurrency: int, old: dict[str, Any], new: dict[str, Any]) -> Figure:
    """Consistent when the two intervals have a value in common."""
    change = relative_difference(new["mean"], old["mean"])
    if None in (old["low"], new["low"]):
        outcome = UNDECIDED
    else:
        apart = new["low"] > old["high"] or new["high"] < old["low"]
        outcome = DIFFERS if apart else CONSISTENT
    return Figure("speedup", concurrency, old, new, change, outcome)


def compare_acceptance(concurrency: int, old: float, new: float) -> Figure:
    """Consistent within the tolerance."""
    change = relative_difference(new, old)
    outcome = CONSISTENT if abs(change) <= ACCEPTANCE_TOLERANCE else DIFFERS
    return Figure("acceptance length", concurrency, {"mean": old}, {"mean": new}, change, outcome)


def no_figures(figures: tuple[Figure, ...]) -> str:
    """Why no speedup could be compared."""
    if any(one.name == "speedup" for one in figures):
        return "one round has no interval: repeat it with --set benchmark.rounds=3 or more"
    return "no load was measured in both runs"


def figure_text(one: Figure) -> str:
    values = f"{value_text(one.published)} published, {value_text(one.repeated)} here"
    return f"{one.name} at {one.concurrency}: {values} ({difference(one.change)}): {one.outcome}"


def value_text(value: Mapping[str, Any]) -> str:
    if value.get("low") is None:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
