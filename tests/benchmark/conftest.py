"""Small benchmark documents in the shape that ``run_benchmark`` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Document = dict[str, Any]


def request(
    name: str, *, text: str = "same", tokens: int = 10, seconds: float = 1.0, **more: Any
) -> Document:
    return {
        "id": name,
        "output_tokens": tokens,
        "seconds": seconds,
        "looping": False,
        "text_sha256": text,
        "spec": None,
        **more,
    }


def spec(drafts: int, *per_position: int) -> Document:
    accepted = sum(per_position)
    counts = {"drafts": drafts, "draft_tokens": drafts * len(per_position), "accepted": accepted}
    return {**counts, "per_position": list(per_position)}


def sample(
    number: int, arm: str, concurrency: int, speed: float, requests: list[Document], **more: Any
) -> Document:
    counted = [row["spec"] for row in requests if row["spec"]]
    total = spec(
        sum(one["drafts"] for one in counted),
        *(sum(place) for place in zip(*(one["per_position"] for one in counted), strict=True)),
    )
    latency = {"p50": 100.0 * number, "p95": 200.0, "p99": 300.0}
    return {
        "round": number,
        "arm": arm,
        "concurrency": concurrency,
        "guidellm": "0.8.1",
        "completed": len(requests),
        "errored": 0,
        "incomplete": 0,
        "output_tokens": sum(row["output_tokens"] for row in requests),
        "output_tokens_per_second": speed,
        "ttft_ms": latency,
        "itl_ms": latency,
        "tpot_ms": latency,
        "latency_ms": None,
        "counters": total if counted else None,
        "requests": requests,
        **more,
    }


def plain_rows() -> list[Document]:
    return [request("a", seconds=1.0), request("b", seconds=1.0), request("loops", seconds=1.0, looping=True)]


def draft_rows() -> list[Document]:
    return [
        request("a", seconds=0.8, spec=spec(8, 2, 0)),
        request("b", seconds=0.8, spec=spec(8, 2, 0)),
        request("loops", seconds=0.2, spec=spec(4, 4, 4), text="other"),
    ]


def document(speeds: list[tuple[float, float]], **changes: Any) -> Document:
    """One concurrency of 1; a (plain, draft) pair of tokens per second for each round."""
    samples = []
    for number, (plain, draft) in enumerate(speeds, 1):
        samples.append(sample(number, "plain", 1, plain, plain_rows()))
        samples.append(sample(number, "draft", 1, draft, draft_rows()))
    return {
        "launcher": {"engine": "vllm"},
        "speculation": {"algorithm": "eagle3", "tokens": 2},
        "benchmark": {"rounds": len(speeds), "requests": 3, "max_tokens": 10, "concurrency": [1]},
        "rounds": [{"round": 1, "arm": "plain", "tokens": {"rows": 3, "looping": 1}}],
        "samples": samples,
        **changes,
    }


@pytest.fixture
def benchmark_document() -> Callable[..., Document]:
    return document
