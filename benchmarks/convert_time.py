"""What a conversion costs beside copying and syncing the same file.

    python benchmarks/convert_time.py --gigabytes 2 --pairs 7 --cache cold

Makes a draft in SpecForge's layout, then alternates: copy the weight file and sync it; convert the draft
with its checks, without its proof.  Every side starts in the same state: what was written before is on the
disk, the targets are gone, and the source is wholly in the page cache (``warm``) or wholly out of it
(``cold``).  Each side is a process of its own that has imported what it needs before the clock starts;
memory is the largest anonymous size that the kernel counted for that process in the meantime.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD_DIM, DRAFT_VOCAB, DEPTH = 4096, 14336, 32, 8, 128, 32000, 32
WEIGHTS = "model.safetensors"
SIDES = ("copy", "convert")


def write_source(folder: Path, gigabytes: float) -> None:
    """A bfloat16 draft of an 8B model's width, whose embedding makes up the size."""
    import torch
    from safetensors.torch import save_file

    from speculators.checkpoint.tensors import layer_shapes

    layer: dict[str, Any] = {
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192,
    }  # fmt: skip
    shapes = {f"midlayer.{name}": shape for name, shape in layer_shapes(layer, 2 * HIDDEN).items()}
    shapes |= {"midlayer.hidden_norm.weight": (HIDDEN,), "norm.weight": (HIDDEN,)}
    shapes |= {"fc.weight": (HIDDEN, 3 * HIDDEN), "lm_head.weight": (DRAFT_VOCAB, HIDDEN)}
    rest = gigabytes * 1e9 - 2 * sum(math.prod(shape) for shape in shapes.values())
    vocab_size = max(DRAFT_VOCAB, int(rest / (2 * HIDDEN)))
    shapes["embed_tokens.weight"] = (vocab_size, HIDDEN)
    noise = (0.02 * torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))).bfloat16()
    tensors = {name: noise.repeat(-(-math.prod(shape) // len(noise)))[: math.prod(shape)].view(shape)
               for name, shape in shapes.items()}  # fmt: skip
    spoken = torch.arange(DRAFT_VOCAB) * (vocab_size // DRAFT_VOCAB)
    spoken[-1] = vocab_size - 1
    tensors["d2t"] = spoken - torch.arange(DRAFT_VOCAB)
    tensors["t2d"] = torch.zeros(vocab_size, dtype=torch.bool).index_fill(0, spoken, True)
    for name in ("source", "verifier"):
        (folder / name).mkdir()
    save_file(tensors, folder / "source" / WEIGHTS)
    with (folder / "source" / WEIGHTS).open("rb") as file:
        os.fsync(file.fileno())  # else the first side would pay for it, and its pages could not be dropped
    draft = {**layer, "architectures": ["LlamaForCausalLMEagle3"], "vocab_size": vocab_size}
    (folder / "source" / "config.json").write_text(json.dumps({**draft, "draft_vocab_size": DRAFT_VOCAB}))
    verifier = {**layer, "architectures": ["LlamaForCausalLM"], "num_hidden_layers": DEPTH}
    (folder / "verifier" / "config.json").write_text(json.dumps({**verifier, "vocab_size": vocab_size}))


def make_copy(folder: Path) -> Callable[[], None]:
    """Copy the weight file and wait until the disk has it."""
    target = folder / "copy" / WEIGHTS
    target.parent.mkdir()

    def run() -> None:
        shutil.copyfile(folder / "source" / WEIGHTS, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    return run


def make_conversion(folder: Path) -> Callable[[], None]:
    """The whole of ``speculators convert`` but its proof, which is another question's cost."""
    import speculators.convert.eagle.eagle3
    import speculators.convert.proof  # noqa: F401 - imported before the clock starts
    from speculators.convert import run as conversion

    conversion.prove = lambda *arguments: None
    request = conversion.Request(str(folder / "source"), str(folder / "verifier"))
    return lambda: print(len(conversion.convert(request, folder / "convert").checks), file=sys.stderr)


def anonymous() -> int:
    """Bytes of this process that are no file's pages."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def side(name: str, folder: Path) -> None:
    """One side, in a process of its own: seconds and the most anonymous memory, as JSON."""
    run = make_copy(folder) if name == "copy" else make_conversion(folder)
    seen, over = [anonymous()], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, worked = time.perf_counter(), time.process_time()
    run()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    over.set()
    watcher.join()
    print(json.dumps({"seconds": seconds, "processor": processor, "anonymous": max(seen)}))


def settle(folder: Path, cache: str) -> None:
    """No target left, and the source in the page cache or out of it."""
    for name in SIDES:
        shutil.rmtree(folder / name, ignore_errors=True)
    with (folder / "source" / WEIGHTS).open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while cache == "warm" and file.read(1 << 24):
            pass


def measured(name: str, folder: Path, cache: str) -> dict[str, float]:
    settle(folder, cache)
    command = [sys.executable, __file__, "--side", name, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cache", choices=("warm", "cold"), default="warm")
    parser.add_argument("--folder", type=Path, help="where to work; by default a new folder here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.folder)
        return
    with tempfile.TemporaryDirectory(prefix="convert-time-", dir=options.folder or Path.cwd()) as name:
        folder = Path(name)
        write_source(folder, options.gigabytes)
        size = (folder / "source" / WEIGHTS).stat().st_size
        print(f"{size / 1e9:.2f} GB, source {options.cache}, machine's load {os.getloadavg()[0]:.1f}")
        print("seconds, and of them the processor's:", flush=True)
        ratios, memory = [], []
        for number in range(options.pairs):
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            found = {one: measured(one, folder, options.cache) for one in order}
            ratios.append(found["convert"]["seconds"] / found["copy"]["seconds"])
            memory.append(found["convert"]["anonymous"])
            told = ", ".join(
                f"{one} {found[one]['seconds']:.2f} ({found[one]['processor']:.2f})" for one in SIDES
            )
            print(f"{told}: {ratios[-1]:.2f} times", flush=True)
        print(f"median {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"anonymous memory at most {max(memory) / 1e6:.0f} MB, Python and torch included")


if __name__ == "__main__":
    main()
