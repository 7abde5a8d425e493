"""What a benchmark measured, as far as another one can be compared with it.

The same few figures come out of a run that is under way, of a finished run, of a bundle and of a baseline
file, so that comparing knows only one kind of thing.  A baseline file is this and nothing else: small
enough for a reviewer to read, and with no place of the machine in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from speculators.benchmark.pairs import Pair, Sample, base_pairs, counters_of, pair_up
from speculators.benchmark.statistics import geometric_mean
from speculators.recipe.prompt_source import BENCHMARK_FILES

BASELINE_SCHEMA = "speculators/baseline/v1"
#: Of a machine: what must be equal for speedups to be comparable.
MACHINE = ("processor", "cores", "gpus")
#: Of a machine: what is on trial like the engine, and is named when it differs.
UPGRADED = ("driver", "system")
#: The load at which acceptance is nearly exact: greedy, and no other request in the batch.
ALONE = 1
#: Settings without whose being the same an acceptance length is another quantity.
ALGORITHM, TOKENS = "draft algorithm", "speculative tokens"


def pooled_length(counts: Sequence[tuple[int, int]]) -> float:
    """Acceptance length of (drafts, accepted) of several spans: 1 + accepted / drafts, pooled."""
    return 1 + sum(accepted for _, accepted in counts) / sum(drafts for drafts, _ in counts)


class Drafting(NamedTuple):
    """Counts of speculation: steps with a draft, and tokens accepted in them."""

    drafts: int
    accepted: int

    @property
    def length(self) -> float:
        """Acceptance length."""
        return pooled_length([self])


class Load(NamedTuple):
    """One concurrency: a speedup and the draft's counts for each round."""

    concurrency: int
    speedups: tuple[float, ...]
    drafting: tuple[Drafting, ...]


class Answers(NamedTuple):
    """One prompt over the rounds, one request at a time.

    ``texts``: digests of the draft arm's answers; ``equal``: whether every round's was plain's own;
    ``stable``: whether plain gave the same one in every round.
    """

    prompt: str
    drafting: Drafting | None
    texts: tuple[str, ...]
    equal: bool
    stable: bool


class Measurement(NamedTuple):
    """``work``, ``machine``, ``instrument``: what must be equal; ``settings``: what may be on trial."""

    run: str
    recipe: str
    work: dict[str, Any]
    machine: dict[str, Any]
    instrument: dict[str, Any]
    settings: dict[str, Any]
    loads: tuple[Load, ...]
    answers: tuple[Answers, ...]

    @property
    def rounds(self) -> int:
        return min((len(load.speedups) for load in self.loads), default=0)

    def document(self) -> dict[str, Any]:
        """As a baseline file holds it."""
        return {
            "schema": BASELINE_SCHEMA,
            **{name: getattr(self, name) for name in ("run", "recipe", *CONDITIONS)},
            "loads": [
                {
                    "concurrency": load.concurrency,
                    "speedups": [round(value, 6) for value in load.speedups],
                    "drafting": [one._asdict() for one in load.drafting],
                }
                for load in self.loads
            ],
            "answers": [
                one._asdict()
                | {"drafting": one.drafting and one.drafting._asdict(), "texts": list(one.texts)}
                for one in self.answers
            ],
        }


CONDITIONS = ("work", "machine", "instrument", "settings")


def parse(document: Mapping[str, Any]) -> Measurement:
    """The measurement in a baseline document that fits its schema."""
    return Measurement(
        **{name: document[name] for name in ("run", "recipe", *CONDITIONS)},
        loads=tuple(
            Load(
                one["concurrency"],
                tuple(one["speedups"]),
                tuple(Drafting(**counts) for counts in one["drafting"]),
            )
            for one in document["loads"]
        ),
        answers=tuple(
            Answers(
                one["prompt"],
                one["drafting"] and Drafting(**one["drafting"]),
                tuple(one["texts"]),
                one["equal"],
                one["stable"],
            )
            for one in document["answers"]
        ),
    )


def asked_prompts(key: Mapping[str, Any]) -> Any:
    """Which prompts a run asked, from the key of its prompts stage: the digests of their files.

    Where a file was not read as it is, together with how: other columns are other prompts.
    """
    digests = key.get("files", {}).get(BENCHMARK_FILES)
    values = key.get("values", {}).get("benchmark", {})
    how = {name: values[name] for name in ("columns", "read_as") if values.get(name)}
    return {"files": digests, **how} if how else digests


def measured_work(
    verifier: str | None, prompts: Any, benchmark: Mapping[str, Any], body: Mapping[str, Any]
) -> dict[str, Any]:
    """The work that was timed: whose answers to which prompts.

    ``verifier``: its digest; ``prompts``: those that were asked; ``benchmark``: the recipe's block;
    ``body``: what every request carried beside them, as whether to think.
    """
    names = ("requests", "max_tokens", "warmup_requests")
    return {
        "verifier": verifier,
        BENCHMARK_FILES: prompts,
        **{f"benchmark.{name}": benchmark.get(name) for name in names},
        "benchmark.side_by_side": benchmark.get("side_by_side") or None,
        "request body": body or None,
    }


def measured_settings(speculation: Mapping[str, Any], engine: Mapping[str, Any]) -> dict[str, Any]:
    """How it was served: the draft's kind, and the recipe's ``engine`` block."""
    found = {ALGORITHM: speculation["algorithm"], TOKENS: speculation["tokens"]}
    for block in ("args", "env"):
        found |= {f"engine.{block}.{name}": value for name, value in engine.get(block, {}).items()}
    return found


def measurement(
    record: Mapping[str, Any], sitting: Mapping[str, Any], prompts: Any, benchmark: Mapping[str, Any]
) -> Measurement:
    """What a run measured.

    ``record``: its ``run.json``; ``sitting``: what its rounds had in common (``bench/key.json``);
    ``prompts``: those that it asked (``asked_prompts``); ``benchmark``: its benchmark document.
    """
    body = benchmark.get("request_body", {})
    results = {one["name"]: one.get("result") or {} for one in record["stages"]}
    values = sitting["values"]
    pairs = pair_up(benchmark["samples"])
    return Measurement(
        run=record["id"],
        recipe=record["recipe"]["name"],
        work=measured_work(results["verifier"].get("digest"), prompts, values["benchmark"], body),
        machine={name: record["machine"].get(name) for name in MACHINE if name in record["machine"]},
        instrument={"guidellm": " ".join(sorted({one["guidellm"] for one in benchmark["samples"]}))},
        settings={
            **measured_settings(benchmark["speculation"], values["engine"]),
            "draft": results.get("package", {}).get("digest"),
            **{f"environment.{name}": value for name, value in sitting.get("environment", {}).items()},
            **{f"machine.{name}": record["machine"][name] for name in UPGRADED if name in record["machine"]},
        },
        **_measured(pairs),
    )


def of_base(candidate: Measurement, benchmark: Mapping[str, Any]) -> Measurement:
    """What the base arm did in the same rounds as ``candidate``, whose work and machine it shares."""
    base = benchmark["base"]
    shared = ("environment.", "machine.")
    kept = {name: value for name, value in candidate.settings.items() if name.startswith(shared)}
    return candidate._replace(
        run=base["name"],
        settings={**measured_settings(base["speculation"], base["engine"]), "draft": base["digest"], **kept},
        **_measured(base_pairs(benchmark["samples"])),
    )


def _measured(pairs: list[Pair]) -> dict[str, Any]:
    alone = [pair for pair in pairs if pair.concurrency == ALONE]
    return {"loads": tuple(_loads(pairs)), "answers": tuple(_answers(alone))}


def _loads(pairs: list[Pair]) -> Iterable[Load]:
    """Every concurrency that has a speedup in each of its rounds."""
    for concurrency in sorted({pair.concurrency for pair in pairs}):
        rounds = sorted(pair for pair in pairs if pair.concurrency == concurrency)
        speedups = [pair.speedup for pair in rounds]
        counted = [counters_of(pair.draft) for pair in rounds]
        known = [Drafting(one.drafts, one.accepted) for one in counted if one is not None and one.drafts]
        if all(speedups):
            complete = known if len(known) == len(rounds) else []
            yield Load(concurrency, tuple(filter(None, speedups)), tuple(complete))


def _answers(pairs: list[Pair]) -> Iterable[Answers]:
    """Every prompt that both arms answered in each round."""
    rows = [(_by_id(pair.plain), _by_id(pair.draft)) for pair in pairs]
    if not rows:
        return
    common = set.intersection(*(set(side) for both in rows for side in both))
    for prompt in [one for one in rows[0][0] if one in common]:
        plain = [one[prompt]["text_sha256"] for one, _ in rows]
        draft = [other[prompt] for _, other in rows]
        texts = [one["text_sha256"] for one in draft]
        yield Answers(
            prompt,
            _drafting([one["spec"] for one in draft]),
            tuple(sorted(set(texts))),
            equal=texts == plain,
            stable=len(set(plain)) == 1,
        )


def _by_id(sample: Sample) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in sample["requests"]}


def _drafting(counts: list[dict[str, Any] | None]) -> Drafting | None:
    """A prompt's counts over the rounds; None where one round has none, or nothing was drafted."""
    known = [one for one in counts if one is not None]
    drafts = sum(one["drafts"] for one in known)
    if len(known) < len(counts) or not drafts:
        return None
    return Drafting(drafts, sum(one["accepted"] for one in known))


def log_speedups(one: Measurement, concurrencies: Iterable[int]) -> list[float]:
    """For each round the mean log speedup over ``concurrencies``: that of the geometric mean."""
    chosen = [load.speedups for load in one.loads if load.concurrency in set(concurrencies)]
    return [math.log(geometric_mean(values)) for values in zip(*chosen)]


def log_lengths(one: Measurement, concurrencies: Iterable[int]) -> list[float]:
    """For each round the mean log acceptance length over ``concurrencies``; empty where one has none."""
    chosen = [load.drafting for load in one.loads if load.concurrency in set(concurrencies)]
    return [math.fsum(math.log(value.length) for value in values) / len(values) for values in zip(*chosen)]
