#!/usr/bin/env python3
"""Ask any running vLLM server for answers and print the acceptance length that it counted.

This file needs nothing but Python's standard library, so it also runs where this project is not
installed: it shows that a checkpoint folder alone, in the engine's own server, drafts as well as it
did in a run's report.

    vllm serve runs/smollm2-135m-eagle3/latest/model --dtype float32 ...      # in one terminal
    python benchmarks/served_acceptance.py http://127.0.0.1:8000 recipes/prompts/benchmark.jsonl \\
        --requests 16 --max-tokens 64                                         # in another
"""

from __future__ import annotations

import argparse
import json
import re
import urllib.request

COUNTER = re.compile(r"^vllm:spec_decode_num_(\w+)_total\{([^}]*)\}\s+(\S+)$", re.MULTILINE)
# A proxy that the shell names is not asked for a server that runs here.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
POSITION = re.compile(r'position="(\d+)"')


def fetch(url: str, body: dict[str, object] | None = None) -> str:
    """GET, or POST ``body`` as JSON."""
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=600) as response:
        text: str = response.read().decode()
        return text


def counters(url: str) -> dict[str, float]:
    """vLLM's counters of speculation, summed over engines; one entry a position."""
    found: dict[str, float] = {}
    for name, labels, value in COUNTER.findall(fetch(f"{url}/metrics")):
        position = POSITION.search(labels)
        key = f"{name}[{position[1]}]" if position else name
        found[key] = found.get(key, 0.0) + float(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="base address of the server")
    parser.add_argument("prompts", help='JSON lines with a "prompt" each')
    parser.add_argument("--requests", type=int, default=16, help="first N prompts (default 16)")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of an answer (default 64)")
    options = parser.parse_args()
    model = json.loads(fetch(f"{options.url}/v1/models"))["data"][0]["id"]
    with open(options.prompts, encoding="utf-8") as file:
        prompts = [json.loads(line)["prompt"] for line in file if line.strip()][: options.requests]
    before, tokens = counters(options.url), 0
    for prompt in prompts:
        answer = fetch(
            f"{options.url}/v1/chat/completions",
            {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": 0,
                "max_tokens": options.max_tokens,
            },
        )
        tokens += json.loads(answer)["usage"]["completion_tokens"]
    counted = {name: value - before.get(name, 0.0) for name, value in counters(options.url).items()}
    drafts = counted.get("drafts", 0.0)
    if not drafts:
        raise SystemExit(f"{tokens} tokens in {len(prompts)} answers, and not one draft: no speculation here")
    rates = [counted[name] / drafts for name in sorted(counted) if name.startswith("accepted_tokens_per_pos")]
    print(f"{len(prompts)} answers, {tokens} tokens, {drafts:.0f} drafts")
    print(f"acceptance length {1 + counted['accepted_tokens'] / drafts:.4f}")
    print("per position " + " ".join(f"{rate:.4f}" for rate in rates))


if __name__ == "__main__":
    main()
