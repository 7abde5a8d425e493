"""What the engine itself counts about speculation, read from its Prometheus page.

These counters are the only source of a served acceptance length: they cannot be mistaken about
whether a draft was used, and they pool over requests as the definition asks (vLLM
``v1/spec_decode/metrics.py``).
"""

from __future__ import annotations

from typing import NamedTuple

PREFIX = "vllm:spec_decode_num_"
WORK = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


class SpecCounters(NamedTuple):
    """Counts of a span of serving.

    A *draft* is one step of one request with at least one proposed token; ``per_position[i]`` counts
    the drafts whose token i was accepted.
    """

    drafts: int
    draft_tokens: int
    accepted: int
    per_position: tuple[int, ...]

    @property
    def acceptance_length(self) -> float | None:
        """1 + accepted / drafts: tokens per verification step, the verifier's own included."""
        return 1 + self.accepted / self.drafts if self.drafts else None

    @property
    def per_position_rates(self) -> tuple[float, ...] | None:
        """Unconditional acceptance rate of each position."""
        return tuple(count / self.drafts for count in self.per_position) if self.drafts else None

    def since(self, earlier: SpecCounters) -> SpecCounters:
        """The counts between two readings of the same server."""
        return SpecCounters(
            self.drafts - earlier.drafts,
            self.draft_tokens - earlier.draft_tokens,
            self.accepted - earlier.accepted,
            tuple(now - then for now, then in zip(self.per_position, earlier.per_position, strict=True)),
        )


def pooled(counters: list[SpecCounters]) -> SpecCounters:
    """The sum of several spans; all zero for none."""
    positions = max((len(one.per_position) for one in counters), default=0)
    return SpecCounters(
        sum(one.drafts for one in counters),
        sum(one.draft_tokens for one in counters),
        sum(one.accepted for one in counters),
        tuple(
            sum(one.per_position[i] for one in counters if i < len(one.per_position))
            for i in range(positions)
        ),
    )


def read_tokens(text: str) -> int:
    """Prompt and generated tokens that a Prometheus text page counts: a server at work makes it grow."""
    from prometheus_client.parser import text_string_to_metric_families

    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in WORK
    )


def read_spec_counters(text: str) -> SpecCounters | None:
    """The counters in a Prometheus text page, summed over engines; None when speculation is off."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, int] = {}
    positions: dict[int, int] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(PREFIX):
            continue
        for sample in family.samples:
            if not sample.name.endswith("_total"):
                continue
            name = sample.name.removeprefix(PREFIX).removesuffix("_total")
            if name == "accepted_tokens_per_pos":
                position = int(sample.labels["position"])
                positions[position] = positions.get(position, 0) + int(sample.value)
            else:
                totals[name] = totals.get(name, 0) + int(sample.value)
    if "drafts" not in totals:
        return None
    return SpecCounters(
        totals["drafts"],
        totals["draft_tokens"],
        totals["accepted_tokens"],
        tuple(positions[position] for position in sorted(positions)),
    )
