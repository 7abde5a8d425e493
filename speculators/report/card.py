"""A speedup card as people read it: lines for a terminal, one page without scripts for everybody else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

TEMPLATE = "card.html.jinja"


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
    for first, last, tokens in card["schedule"]:
        span = str(first) if first == last else f"{first} to {last}"
        yield f"{span} requests at a time: " + (f"propose {tokens} tokens" if tokens else "speculation off")
    if card["speculative_config"]:
        yield f"--speculative-config keys: {json.dumps(card['speculative_config'])}"
    else:
        yield "speculation pays at no measured load: serve plainly"
    if (found := card["held_out"]) is not None:
        off = f"{found['median']:.1%} in the median, at most {found['worst']:.1%}"
        yield f"cells that were held out: speed predicted {off} off"
    yield from _against_measured(card["regrets"])
    widest = max(one["requests"] for one in card["cells"])
    yield f"reckoned for {card['context']:.0f} tokens of context"
    yield f"vLLM keeps the last setting beyond {widest} requests, the widest load that was measured"
    yield from (f"warning: {one}" for one in card["warnings"])
    if card.get("checked_by_vllm") is not None:
        yield f"vLLM's own function {'takes' if card['checked_by_vllm'] else 'REFUSES'} the schedule"


def _against_measured(regrets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How good the recommended setting is at the loads that were measured with several settings."""
    known = [one for one in regrets if one["loss"] is not None]
    if known:
        loads = f"at {len({one['requests'] for one in known})} loads"
        worst = max(one["loss"] for one in known)
        yield f"{loads} the recommended setting loses at most {worst:.1%} against the best measured one"
    else:
        yield "no load was measured with the recommended setting: whether it is best is not known"
    if reckoned := sorted({(one["requests"], one["recommended"]) for one in regrets if one["loss"] is None}):
        places = ", ".join(f"{tokens} tokens at {requests} requests" for requests, tokens in reckoned)
        yield f"recommended as reckoned, and not measured (benchmark.depths): {places}"
