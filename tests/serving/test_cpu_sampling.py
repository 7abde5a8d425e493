"""The CPU build's rejection sampler with our expansion: drafted or not, tokens are drawn as asked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needed, needing

torch = needed("torch")
LOGITS = (2.0, 1.0, 0.5, 0.0, -1.0)
#: A batch has requests of this temperature, greedy ones and some of the other temperature.
TEMPERATURES, OTHER = (0.5, 2.0), 1.3
DRAFTED = (0, 2, 4)
DRAWS = 8000

# In a process of its own: the engine looks through all modules that are loaded, and chokes on some.
DRAW = f"""
import json, torch
from types import SimpleNamespace
from vllm.platforms import current_platform
from vllm.v1.sample.rejection_sampler import apply_sampling_constraints, rejection_sample
import speculators.serving.cpu_sampling  # mends the engine

current_platform.register_triton_kernel_overrides()
torch.manual_seed(0)
found = {{}}
for temperature in {TEMPERATURES}:
    for drafted in {DRAFTED}:
        temperatures = torch.tensor([temperature, 0.0, {OTHER}] * {DRAWS})
        count = len(temperatures)
        asked = SimpleNamespace(
            temperature=temperatures, all_greedy=False, all_random=False,
            top_k=None, top_p=None, generators={{}},
        )
        ends = torch.arange(1, count + 1, dtype=torch.int32)  # one drafted token a request
        logits = torch.tensor({LOGITS}).repeat(count, 1)  # [tokens, vocabulary]
        drawn = rejection_sample(
            torch.full((count,), drafted, dtype=torch.int32), [1] * count, 1, ends, None,
            apply_sampling_constraints(logits, ends, asked),
            torch.zeros((count, 1), dtype=torch.int32), asked,
        )[:, 0].long()
        counts = [torch.bincount(drawn[place::3], minlength={len(LOGITS)}).tolist() for place in range(3)]
        found[f"{{temperature}} {{drafted}}"] = counts
print(json.dumps(found))
"""


@needing("vllm")
def test_drafted_places_are_drawn_from_the_verifiers_distribution_whatever_is_proposed() -> None:
    words, root = [sys.executable, "-c", DRAW], Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().split("\n")[-1])
    assert len(found) == len(TEMPERATURES) * len(DRAFTED)
    for name, (ours, greedy, others) in found.items():
        assert greedy == [DRAWS, 0, 0, 0, 0]
        for counts, temperature in ((ours, float(name.split()[0])), (others, OTHER)):
            truth = torch.softmax(torch.tensor(LOGITS) / temperature, 0)
            off = (torch.tensor(counts) / DRAWS - truth).abs().max()
            assert float(off) < 4 * math.sqrt(0.25 / DRAWS), (name, counts)


@needing("vllm")
def test_each_request_keeps_its_own_value_for_all_its_tokens() -> None:
    from speculators.serving.cpu_sampling import expand_batch_to_tokens

    found = expand_batch_to_tokens(torch.tensor([0.0, 0.7, 0.9]), torch.tensor([2, 2, 5]), 5, 0, 1)
    assert found.tolist() == pytest.approx([1.0, 1.0, 0.9, 0.9, 0.9])
    assert expand_batch_to_tokens(torch.tensor([3, 4]), torch.tensor([1, 3]), 3).tolist() == [3, 4, 4]
