"""Whole comparisons: which verdict, which cause, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import pytest

from speculators.benchmark.comparison import (
    ACCEPTANCE_FELL,
    BOTH,
    NOT_COMPARABLE,
    OUTPUTS_CHANGED,
    PROPOSED_AT_TIMES,
    PROPOSED_OTHERWISE,
    STEP_AT_LEAST,
    STEP_SLOWER,
    UNKNOWN,
    UNKNOWN_STEP,
    Comparison,
    causes,
    compare,
)
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
)
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED
from speculators.benchmark.measurement import Answers, Drafting, Load, Measurement, measurement, parse
from speculators.recipe.schema import published

SPEEDS = [1.50, 1.51, 1.49, 1.50, 1.51]
WORK = {"verifier": "v" * 64, "benchmark.prompts": "p" * 64, "benchmark.requests": 16}


def measured(
    run: str = "old",
    *,
    speeds: dict[int, Sequence[float]] | None = None,
    accepted: int = 30,
    texts: str = "same",
    **changes: Any,
) -> Measurement:
    """16 prompts of 30 steps each; ``accepted`` tokens a prompt, a little different from each other."""
    drafting = [Drafting(30, accepted + place % 3) for place in range(16)]
    total = Drafting(sum(one.drafts for one in drafting), sum(one.accepted for one in drafting))
    loads = tuple(
        Load(concurrency, tuple(values), (total,) * len(values))
        for concurrency, values in (speeds or {1: SPEEDS}).items()
    )
    answers = tuple(
        Answers(f"p{place}", one, (f"{texts} {place}",), True, True) for place, one in enumerate(drafting)
    )
    one = Measurement(run, "a", WORK, {"cores": 2}, {"guidellm": "0.8.1"}, {"draft": "d"}, loads, answers)
    return one._replace(**changes)


def slower(by: float, speeds: Sequence[float] = SPEEDS) -> list[float]:
    return [value * (1 - by) for value in speeds]


def figure(comparison: Comparison, name: str) -> Any:
    return next(one for one in comparison.figures if one.name == name)


def test_the_same_again_is_ok() -> None:
    found = compare(measured(), measured("new"))
    assert (found.verdict, found.causes, found.open) == (OK, (), False)


def test_acceptance_that_fell_is_named_as_the_cause() -> None:
    found = compare(measured(), measured("new", speeds={1: slower(0.09)}, accepted=24))
    assert (found.verdict, found.causes) == (REGRESSION, (ACCEPTANCE_FELL,))
    assert figure(found, LENGTH_BY_PROMPT).gated
    assert not figure(found, LENGTH).gated


def test_acceptance_that_fell_without_a_loss_of_speed_fails_as_well() -> None:
    found = compare(measured(), measured("new", accepted=29))
    assert (found.verdict, found.causes) == (REGRESSION, (ACCEPTANCE_FELL,))
    assert figure(found, SPEEDUP).verdict == OK


def test_speed_that_fell_at_the_same_acceptance_is_the_engines_or_the_machines() -> None:
    found = compare(measured(), measured("new", speeds={1: slower(0.1)}))
    assert (found.verdict, found.causes) == (REGRESSION, (STEP_SLOWER,))


def test_both_can_fall() -> None:
    found = compare(measured(), measured("new", speeds={1: slower(0.2)}, accepted=24))
    assert found.causes == (BOTH,)


def figures(**verdicts: str) -> list[Figure]:
    """Gated speed that was lost, and what else is known of all loads or of the prompts."""
    names = {"length": LENGTH, "prompts": LENGTH_BY_PROMPT, "step": STEP}
    given = {SPEEDUP: REGRESSION, **{names[name]: verdict for name, verdict in verdicts.items()}}
    numbers = (1.5, 1.3, -0.13, -0.2, -0.05)
    return [Figure(name, None, *numbers, verdict, True, rounds=True) for name, verdict in given.items()]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ({"length": OK, "step": UNDECIDED}, [STEP_SLOWER]),
        ({"length": OK, "prompts": UNDECIDED, "step": REGRESSION}, [STEP_SLOWER]),
        # Held at one request at a time only: at the other loads it may be the acceptance.
        ({"length": UNDECIDED, "prompts": OK, "step": UNDECIDED}, [UNKNOWN]),
        ({"length": UNDECIDED, "prompts": OK, "step": REGRESSION}, [STEP_AT_LEAST]),
        ({"length": UNDECIDED, "prompts": UNDECIDED, "step": REGRESSION}, [STEP_AT_LEAST]),
        ({"length": REGRESSION, "step": OK}, [ACCEPTANCE_FELL]),
        # A little less acceptance need not be what a large loss comes from.
        ({"length": OK, "prompts": REGRESSION, "step": UNDECIDED}, [ACCEPTANCE_FELL, UNKNOWN_STEP]),
        ({"length": REGRESSION, "step": REGRESSION}, [BOTH]),
        ({"prompts": OK}, [STEP_SLOWER]),
        ({}, [UNKNOWN]),
    ],
)
def test_a_cause_is_named_as_far_as_it_is_known(verdicts: dict[str, str], expected: list[str]) -> None:
    assert list(causes(figures(**verdicts))) == expected


def test_what_the_verdict_does_not_rest_on_is_said() -> None:
    old, new = measured(speeds={1: SPEEDS, 4: SPEEDS}), measured("new", speeds={1: SPEEDS, 8: SPEEDS})
    assert "measured in one of both only, and left out: 4, 8 requests at a time" in compare(old, new).remarks
    loads = tuple(load._replace(drafting=()) for load in old.loads)
    blind = compare(old._replace(answers=()), old._replace(run="new", answers=(), loads=loads))
    assert blind.verdict == OK
    assert [one.partition(":")[0] for one in blind.remarks[-2:]] == [
        "acceptance was not counted in both",
        "no answers of one request at a time are in both",
    ]


def test_another_number_of_proposed_tokens_is_no_loss_of_acceptance() -> None:
    """With fewer proposed less can be accepted, whatever the draft is worth."""
    three, one = ({"draft algorithm": "eagle3", "speculative tokens": count} for count in (3, 1))
    old = measured(settings=three)
    faster = measured("new", settings=one, accepted=20, speeds={1: slower(-0.05)})
    found = compare(old, faster)
    assert (found.verdict, {figure.name for figure in found.figures}) == (OK, {SPEEDUP, ANSWERS, LOSSLESS})
    assert "3 tokens by eagle3 are proposed in old, 1 tokens by eagle3 in new" in found.remarks[-1]
    assert not any("not counted" in remark for remark in found.remarks)
    found = compare(old, faster._replace(loads=measured(speeds={1: slower(0.1)}).loads))
    assert (found.verdict, found.causes) == (REGRESSION, (PROPOSED_OTHERWISE,))


def test_of_a_method_that_proposes_at_times_no_step_is_called_slower() -> None:
    ngram = {"draft algorithm": "ngram", "speculative tokens": 3}
    old, new = measured(settings=ngram), measured("new", settings=ngram, speeds={1: slower(0.1)})
    found = compare(old, new)
    assert (found.verdict, found.causes) == (REGRESSION, (PROPOSED_AT_TIMES,))
    assert figure(found, LENGTH_BY_PROMPT).gated
    assert STEP not in {one.name for one in found.figures}
    draft = measured(settings={"draft algorithm": "eagle3", "speculative tokens": 3})
    assert not {LENGTH, LENGTH_BY_PROMPT, STEP} & {one.name for one in compare(draft, new).figures}


def test_other_answers_are_named_first() -> None:
    found = compare(measured(), measured("new", texts="other", accepted=24, speeds={1: slower(0.09)}))
    assert found.causes == (OUTPUTS_CHANGED, ACCEPTANCE_FELL)
    accepted = compare(measured(), measured("new", texts="other"), Limits(outputs=False))
    assert (accepted.verdict, accepted.causes) == (OK, ())


def test_doubt_stays_open_only_where_more_rounds_can_help() -> None:
    noisy = [1.3, 1.7, 1.5, 1.45, 1.55]
    found = compare(measured(speeds={1: noisy}), measured("new", speeds={1: noisy}))
    assert (found.verdict, found.open) == (UNDECIDED, True)
    one_prompt = measured("new")
    changed = one_prompt.answers[0]._replace(drafting=Drafting(34, 26))
    found = compare(measured(), one_prompt._replace(answers=(changed, *one_prompt.answers[1:])))
    assert (found.verdict, found.open) == (UNDECIDED, False)


def test_without_counts_by_prompt_the_pooled_acceptance_is_gated() -> None:
    old, new = (measured(name, accepted=count) for name, count in (("old", 30), ("new", 27)))
    found = compare(old._replace(answers=()), new._replace(answers=()))
    assert figure(found, LENGTH).gated
    assert (found.verdict, found.causes) == (REGRESSION, (ACCEPTANCE_FELL,))


@pytest.mark.parametrize(
    ("lengths", "verdict"),
    [
        ([2.0] * 5, OK),
        ([1.9] * 5, REGRESSION),
        ([1.5, 2.5, 2.0, 2.3, 1.8], OK),  # doubt of it forbids nothing
        ([1.99] * 5, OK),
    ],
)
def test_acceptance_that_falls_in_batches_alone_is_a_regression(lengths: list[float], verdict: str) -> None:
    old = measured(speeds={1: SPEEDS, 4: SPEEDS})
    counted = [
        tuple(Drafting(1000, round(1000 * (one - 1))) for one in side) for side in ([2.0] * 5, lengths)
    ]
    before, after = (
        old._replace(loads=(old.loads[0], old.loads[1]._replace(drafting=side))) for side in counted
    )
    found = compare(before, after._replace(run="new"))
    several = figure(found, LENGTH_OF_SEVERAL)
    assert figure(found, LENGTH_BY_PROMPT).verdict == OK
    assert found.verdict == verdict
    assert several.gated == (verdict == REGRESSION)
    assert not found.open
    assert found.causes == ((ACCEPTANCE_FELL,) if verdict == REGRESSION else ())


def test_the_gated_speedup_is_the_mean_over_the_loads_of_both() -> None:
    old = measured(speeds={1: SPEEDS, 4: SPEEDS, 8: SPEEDS})
    new = measured("new", speeds={1: SPEEDS, 4: slower(0.19)})
    found = compare(old, new)
    speedups = {one.concurrency: one for one in found.figures if one.name == SPEEDUP}
    assert list(speedups) == [None, 1, 4]
    assert speedups[None].change == pytest.approx((1 - 0.19) ** 0.5 - 1)
    assert [speedups[load].gated for load in (None, 1, 4)] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"work": WORK | {"benchmark.requests": 8}}, "other work: benchmark.requests is 16 in old, 8 in new"),
        ({"machine": {"cores": 64}}, "another machine: cores is 2 in old, 64 in new"),
        ({"instrument": {"guidellm": "0.9"}}, "another instrument: guidellm is 0.8.1 in old, 0.9 in new"),
        ({"loads": measured(speeds={16: SPEEDS}).loads}, "no load"),
        ({"loads": measured(speeds={1: [1.5]}).loads}, "new has one round"),
    ],
)
def test_the_incomparable_is_refused_and_the_reason_said(changes: dict[str, Any], reason: str) -> None:
    found = compare(measured(), measured("new")._replace(**changes))
    assert (found.verdict, found.figures) == (NOT_COMPARABLE, ())
    assert any(reason in one for one in found.reasons)


def test_another_machine_can_be_compared_anyway_and_it_is_said() -> None:
    found = compare(measured(), measured("new", machine={"cores": 64}), anyway=True)
    assert found.verdict == OK
    assert "another machine: cores is 2 in old, 64 in new" in found.remarks
    assert compare(measured(), measured("new", work={}), anyway=True).verdict == NOT_COMPARABLE


def test_what_is_on_trial_may_differ_and_is_named() -> None:
    found = compare(measured(), measured("new", settings={"draft": "e", "environment.vllm": "0.33"}))
    assert found.verdict == OK
    assert [one.name for one in found.settings] == ["draft", "environment.vllm"]


def test_a_baseline_of_few_rounds_is_remarked_on() -> None:
    assert "old has 5 rounds" in compare(measured(), measured("new")).remarks[-1]
    enough = compare(measured(speeds={1: SPEEDS * 3}), measured("new"))
    assert enough.remarks == (
        "with this noise and 5 rounds against 15, a loss of 3.2% is found four times in five",
    )


@pytest.mark.parametrize("changes", [{}, {"machine": {"cores": 1}}, {"accepted": 20, "texts": "other"}])
def test_the_document_fits_its_schema(changes: dict[str, Any]) -> None:
    document = json.loads(json.dumps(compare(measured(), measured("new", **changes)).document()))
    jsonschema.Draft7Validator(json.loads(published("schemas/comparison.v1.json"))).validate(document)


def test_a_baseline_file_holds_all_that_is_compared() -> None:
    one = measured(speeds={1: SPEEDS, 4: slower(0.1)})
    document = json.loads(json.dumps(one.document()))
    jsonschema.Draft7Validator(json.loads(published("schemas/baseline.v1.json"))).validate(document)
    assert parse(document) == one


def test_a_measurement_is_what_the_benchmark_document_says(
    benchmark_document: Callable[..., dict[str, Any]],
) -> None:
    record = {
        "id": "20260102-030405-abcd",
        "recipe": {"name": "my"},
        "machine": {"processor": "p", "cores": 2, "memory_bytes": 1, "driver": "550"},
        "stages": [{"name": "verifier", "result": {"digest": "v"}}, {"name": "package", "result": {}}],
    }
    values = {"benchmark": {"requests": 3, "max_tokens": 10}, "engine": {"args": {"dtype": "float32"}}}
    sitting = {"values": values, "environment": {"vllm": "0.32.0"}}
    document = benchmark_document([(10, 12), (20, 26)])
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    assert (
        measurement(record, sitting, ["q"], {**document, "request_body": body}).work["request body"] == body
    )
    one = measurement(record, sitting, ["q"], document)
    assert one.work["request body"] is None  # as in a baseline that was written before it was asked
    assert [load.speedups for load in one.loads] == [(1.2, 1.3)]
    assert one.loads[0].drafting == (Drafting(20, 12),) * 2
    assert one.machine == {"processor": "p", "cores": 2}
    assert one.settings["engine.args.dtype"] == "float32"
    assert one.settings["machine.driver"] == "550"
    assert {answer.prompt: (answer.equal, answer.drafting) for answer in one.answers} == {
        "a": (True, Drafting(16, 4)),
        "b": (True, Drafting(16, 4)),
        "loops": (False, Drafting(8, 16)),
    }
