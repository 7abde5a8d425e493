"""A speedup card as people read it: lines for a terminal, one page without scripts for everybody else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from speculators.benchmark.setting import SCHEDULE
from speculators.report.verdict import requests

TEMPLATE = "card.html.jinja"
CHECKED = {
    True: "vLLM's own function takes the schedule",
    False: "vLLM's own function REFUSES the schedule",
    None: "there is no vLLM here: its own function was not asked whether it takes the schedule",
}


def text(card: Mapping[str, Any]) -> str:
    """The setting and what it rests on, for a terminal."""
    return "\n".join(_lines(card))


def html(card: Mapping[str, Any], title: str) -> str:
    """The card as one HTML page."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    source = (resources.files("speculators.report") / "templates" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(card=card, title=title, lines=list(_lines(card)))


def _lines(card: Mapping[str, Any]) -> Iterator[str]:
    yield from _spans(card["schedule"])
    if card["speculative_config"]:
        yield f"--speculative-config keys: {json.dumps(card['speculative_config'])}"
    else:
        yield "speculation pays at no measured load: serve plainly"
    if card["alone"] is not None:
        yield from _of_schedule(card)
    if (found := card["held_out"]) is not None:
        off = f"{found['median']:.1%} in the median, at most {found['worst']:.1%}"
        yield f"cells that were held out: speed predicted {off} off"
    yield from _against_measured(card["regrets"], card["model_regrets"])
    yield _trusted(card["rounds"], card["repeated"])
    yield from _by_other_rounds(card["judged"])
    widest = max(one["requests"] for one in card["cells"])
    yield f"for {card['context']:.0f} tokens of context, the mean of what was asked"
    yield from _by_context(card)
    yield f"vLLM keeps the last setting beyond the widest load that was measured ({widest} at a time)"
    yield from (f"warning: {one}" for one in card["warnings"])


def _spans(schedule: Sequence[Sequence[int]]) -> Iterator[str]:
    for first, last, tokens in schedule:
        span = requests(last) if first == last else f"{first} to {requests(last)}"
        yield f"{span}: " + (f"propose {_counted(tokens)}" if tokens else "speculation off")


def _counted(tokens: int) -> str:
    return "1 token" if tokens == 1 else f"{tokens} tokens"


def _of_schedule(card: Mapping[str, Any]) -> Iterator[str]:
    """What a number of tokens that varies is worth, and what it costs beside what was measured."""
    tokens, loss = card["alone"]["tokens"], f"{card['alone']['loss']:.1%}"
    if SCHEDULE not in card["speculative_config"]:
        yield f"a number that varies with the load would gain at most {loss}, too little for its price"
        return
    yield f"num_speculative_tokens {tokens} alone would lose at most {loss} against the schedule"
    yield (
        "no server was measured with a schedule, only with each number of tokens alone: given one, vLLM 0.32 "
        "takes piecewise CUDA graphs for full ones (V1 model runner) and pads no decode batch; under data "
        "parallelism it drops it"
    )
    if "checked_by_vllm" in card:
        yield CHECKED[card["checked_by_vllm"]]


def _by_context(card: Mapping[str, Any]) -> Iterator[str]:
    """Where another length of context wants another setting, and how far that is known."""
    if not card["by_context"]:
        yield "all prompts were in one span of context: nothing was measured of others"
        return
    yield (
        "lengths of context were told apart at one request at a time; in a batch a step waits for all its "
        "requests, so other loads are reckoned at each length"
    )
    for one in card["by_context"]:
        if one["schedule"] != card["schedule"]:
            yield f"at {one['context']:.0f} tokens of context alone: {'; '.join(_spans(one['schedule']))}"


def _against_measured(
    regrets: Sequence[Mapping[str, Any]], by_model: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """How good the recommended setting is at the loads that were measured with several settings."""
    known = [one for one in regrets if one["loss"] is not None]
    if known:
        loads = f"at {len({one['requests'] for one in known})} loads"
        worst = max(one["loss"] for one in known)
        yield f"{loads} the recommended setting loses at most {worst:.1%} against the best measured one"
    else:
        yield "no load was measured with the recommended setting: whether it is best is not known"
    if alone := [one["loss"] for one in by_model if one["loss"] is not None]:
        off = f"{max(alone):.1%}"
        yield f"the model alone would lose at most {off} there"
    if reckoned := sorted({(one["requests"], one["recommended"]) for one in regrets if one["loss"] is None}):
        places = ", ".join(f"{_counted(tokens)} at {requests(load)}" for load, tokens in reckoned)
        yield f"recommended as reckoned, and not measured (benchmark.depths): {places}"


def _trusted(rounds: int, repeated: Sequence[Mapping[str, Any]]) -> str:
    """How far measurements chose, and not the model."""
    if rounds < 2:
        return "of one round's noise nothing is known, so the model chose"
    if not any(one["share"] for one in repeated):
        return "rounds repeat no difference from the model beyond their noise, so the model chose"
    shares = ", ".join(f"{one['share']:.0%} at {one['requests']}" for one in repeated)
    return f"measured differences between settings count as far as rounds repeat them: {shares}"


def _by_other_rounds(judged: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What measurements say of the choice that had no part in it."""
    if not judged:
        yield "no other round judges that choice: what it is worth beside its noise is not known"
        return
    worst = max(judged, key=lambda one: one["loss"])
    losses = f"{max(0.0, worst['loss']):.1%} at {requests(worst['requests'])}"
    yield f"chosen by the other rounds, it loses at most {losses} in the round left out, in the mean"
