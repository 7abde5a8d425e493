"""The trainer's fast path against its own oracle: speed and memory by supervised fraction.

    python benchmarks/train_core.py --pack 2048 --draft-vocabulary 8192 --repeats 5

Draft and verifier have SmolLM2-135M's shapes and random weights, documents have mixed lengths and
random states: arithmetic costs the same whatever the numbers mean.  Both take turns on equal batches
in one process, a step being forward, backward and AdamW; a ratio is of medians, and of processor time
beside the clock, since a shared machine stretches the clock.  Memory is what a process of its own
peaks at above what it held before its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
import torch  # noqa: E402

from speculators.checkpoint.eagle3 import Eagle3Config  # noqa: E402
from speculators.checkpoint.verifier_weights import VerifierWeights  # noqa: E402
from speculators.datagen.shards import Document  # noqa: E402
from speculators.models.eagle3 import Eagle3Draft  # noqa: E402
from speculators.training.objective import Teaching  # noqa: E402
from speculators.training.packing import pack  # noqa: E402
from speculators.training.ttt import DenseTrainTimeTest, TrainTimeTest  # noqa: E402
from speculators.training.verifier import FrozenVerifier  # noqa: E402

KINDS: dict[str, type[TrainTimeTest]] = {"oracle": DenseTrainTimeTest, "fast": TrainTimeTest}
LENGTHS = (64, 96, 128, 192, 256, 384, 512)  # of documents, in turn
SMOLLM2 = Eagle3Config(
    hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
    rms_norm_eps=1e-5, rope_theta=100000.0, max_position_embeddings=8192, layers=1, aux_layers=(2, 15, 27),
    vocab_size=49152, draft_vocab_size=8192,
)  # fmt: skip
Step = Callable[[], object]


def documents(tokens: int, fraction: float, seed: int) -> list[Document]:
    """Documents of ``LENGTHS`` in turn, ``tokens`` in all, the last ``fraction`` of each supervised."""
    generator, made, left = torch.Generator().manual_seed(seed), [], tokens
    while left > 0:
        length = min(LENGTHS[len(made) % len(LENGTHS)], left)
        states = torch.randn(length, 4, SMOLLM2.hidden_size, generator=generator)
        ids = torch.randint(SMOLLM2.vocab_size, (length,), generator=generator)
        prompt = round(length * (1 - fraction))
        made.append(Document(f"doc-{len(made)}", "", "train", False, prompt, ids, states))
        left -= length
    return made


class Bench:
    """One objective with its optimiser and batch."""

    def __init__(self, kind: str, fraction: float, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        # Logits of a usual spread: exponentials of a wider one are denormal numbers, which are slow.
        embedding = torch.randn(SMOLLM2.vocab_size, SMOLLM2.hidden_size).mul_(0.1)
        ends = VerifierWeights(embedding, torch.ones(SMOLLM2.hidden_size), SMOLLM2.rms_norm_eps, embedding)
        verifier = FrozenVerifier.of(ends, torch.arange(options.draft_vocabulary))
        self.objective = KINDS[kind](Eagle3Draft(SMOLLM2), verifier, Teaching(options.steps))
        self.optimiser = torch.optim.AdamW(self.objective.draft.parameters(), lr=0.0)
        sequence = pack(documents(options.pack, fraction, seed=1))
        self.batch = self.objective.batch(sequence, torch.Generator())
        self.weights = self.objective.weights(torch.tensor(self.batch.supervised))

    def step(self) -> None:
        """Forward, backward and AdamW."""
        self.optimiser.zero_grad(set_to_none=True)
        self.objective.backward(self.batch, self.weights)
        self.optimiser.step()


def timed(step: Step) -> tuple[float, float]:
    """Seconds by the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - clock, time.process_time() - processor


def compare(fraction: float, options: argparse.Namespace) -> None:
    """Print one line: tokens/s of both, their ratio, and the memory of both."""
    benches = {kind: Bench(kind, fraction, options) for kind in options.kinds}
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in benches}
    for turn in range(options.repeats + 1):
        for kind, bench in benches.items():
            took = timed(bench.step)
            if turn:  # the first one also allocates
                found[kind].append(took)
    clock, processor = (
        {kind: statistics.median(pair[which] for pair in pairs) for kind, pairs in found.items()}
        for which in (0, 1)
    )
    cells = [f"{kind} {options.pack / clock[kind]:7.0f} tokens/s" for kind in benches]
    if len(benches) == len(KINDS):
        ratios = (times["oracle"] / times["fast"] for times in (clock, processor))
        cells.append("ratio {:.2f} ({:.2f} in processor time)".format(*ratios))
    memory = [f"{kind} {peak(kind, fraction, options) / 2**20:5.0f} MiB" for kind in benches]
    print(f"f={fraction:<4}", *cells, "| above start:", *memory, sep="  ", flush=True)


def peak(kind: str, fraction: float, options: argparse.Namespace) -> int:
    """Bytes that a process of its own peaks at above what it held before its first step."""
    command = [sys.executable, __file__, "--pack", str(options.pack), "--steps", str(options.steps)]
    command += ["--draft-vocabulary", str(options.draft_vocabulary), "--memory-of", kind]
    told = subprocess.run(
        [*command, "--fractions", str(fraction)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: int = json.loads(told.stdout)
    return found


def status(field: str) -> int:
    """A figure of this process from the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_above(step: Step) -> int:
    """Bytes that ``step`` peaks at above what was resident before it."""
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    step()
    return status("VmHWM") - before


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.6, 0.3, 0.1])
    parser.add_argument("--pack", type=int, default=2048, help="tokens of the packed sequence")
    parser.add_argument("--draft-vocabulary", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=3, help="train-time-test steps (K)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(peak_above(Bench(options.memory_of, options.fractions[0], options).step))
        return
    print(
        f"K={options.steps}, packs of {options.pack}, draft vocabulary {options.draft_vocabulary}, "
        f"{torch.get_num_threads()} threads; median of {options.repeats} turns"
    )
    for fraction in options.fractions:
        compare(fraction, options)


if __name__ == "__main__":
    main()
