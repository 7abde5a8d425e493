"""Reading vLLM's Prometheus page; ``data/metrics-draft.txt`` was captured from a vLLM 0.32 server."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from speculators.serving.metrics import SpecCounters, pooled, read_spec_counters
from tests.needs import needed

needed("prometheus_client")

PAGE = (Path(__file__).parent / "data" / "metrics-draft.txt").read_text(encoding="utf-8")


def counters(positions: int) -> st.SearchStrategy[SpecCounters]:
    count = st.integers(0, 10_000)
    return st.builds(SpecCounters, count, count, count, st.tuples(*[count] * positions))


def page(drafts: int, positions: list[int], engine: int = 0) -> str:
    """A page of one engine as vLLM words it."""
    labels = f'engine="{engine}",model_name="verifier"'
    lines = [
        f"vllm:spec_decode_num_drafts_total{{{labels}}} {drafts}.0",
        f"vllm:spec_decode_num_draft_tokens_total{{{labels}}} {drafts * len(positions)}.0",
        f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}} {sum(positions)}.0",
    ]
    lines += [
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{i}"}} {count}.0'
        for i, count in enumerate(positions)
    ]
    return "\n".join(lines) + "\n"


def test_a_captured_page_is_read() -> None:
    counted = read_spec_counters(PAGE)
    assert counted is not None
    assert counted.drafts > 0
    assert counted.draft_tokens == 3 * counted.drafts
    assert counted.accepted == sum(counted.per_position) > 0
    assert len(counted.per_position) == 3


def test_the_time_a_counter_was_created_is_no_count() -> None:
    assert "_created" in PAGE
    counted = read_spec_counters(PAGE)
    assert counted is not None
    assert counted.drafts < 1_000_000


def test_a_page_without_speculation_has_no_counters() -> None:
    plain = "\n".join(line for line in PAGE.splitlines() if "spec_decode" not in line)
    assert plain
    assert read_spec_counters(plain) is None


def test_engines_are_added_and_positions_ordered_as_numbers() -> None:
    positions = list(range(12, 0, -1))
    both = page(20, positions) + page(5, [0] * 12, engine=1)
    assert read_spec_counters(both) == SpecCounters(25, 300, sum(positions), tuple(positions))


def test_acceptance_length_counts_the_verifiers_own_token() -> None:
    assert SpecCounters(10, 30, 0, (0, 0, 0)).acceptance_length == 1.0
    assert SpecCounters(10, 30, 15, (8, 5, 2)).acceptance_length == 2.5
    assert SpecCounters(10, 30, 15, (8, 5, 2)).per_position_rates == (0.8, 0.5, 0.2)
    assert SpecCounters(0, 0, 0, ()).acceptance_length is None
    assert SpecCounters(0, 0, 0, ()).per_position_rates is None


@given(counters(3), counters(3))
def test_the_span_since_an_earlier_reading_adds_up_again(early: SpecCounters, span: SpecCounters) -> None:
    assert pooled([early, span]).since(early) == span


def test_pooling_is_not_a_mean_of_means() -> None:
    assert (
        pooled([SpecCounters(1, 3, 3, (1, 1, 1)), SpecCounters(9, 27, 0, (0, 0, 0))]).acceptance_length == 1.3
    )
    assert pooled([]) == SpecCounters(0, 0, 0, ())
