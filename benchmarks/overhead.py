"""What the machinery itself costs: planning on a full store, and a run that reuses every stage.

    python benchmarks/overhead.py --outputs 1000 --repeats 10

Fills a store of its own with as many finished outputs (of the default recipe, with other seeds), then
times whole processes, Python's start included: `plan` when everything is there, `plan` when a value
changed, and `run --only package`, which reuses all stages and leaves the benchmark out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.pipeline.store import Store  # noqa: E402
from speculators.recipe.recipe import require_recipe  # noqa: E402
from tests.pipeline.stages import furnish  # noqa: E402

RECIPE = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"
STAGES = 6
CASES = {
    "plan, everything there": ["plan"],
    "plan, a changed value": ["plan", "--set", "training.learning_rate=5e-5"],
    "plan, other prompts": ["plan", "--set", "datagen.prompts.seed=99999"],
    "run --only package, everything there": ["run", "--only", "package", "--quiet"],
}


def fill(home: Path, outputs: int) -> None:
    """At least ``outputs`` finished outputs, the recipe's own among them."""
    for seed in range(-(-outputs // STAGES)):
        overrides = [f"training.seed={seed}", f"datagen.prompts.seed={seed}"] if seed else []
        contents = {name: f"{name} {seed}" for name in ("verifier", "prompts", "responses", "hidden_states")}
        # Another verifier as well, so that every stage has as many outputs.
        overrides += [f'verifier.chat_template_kwargs={{"n": {seed}}}'] if seed else []
        furnish(Store(home), require_recipe(RECIPE, overrides), contents)


def timed(arguments: list[str], folder: Path, repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` processes."""
    environment = {**os.environ, "SPECULATORS_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    verb, *options = arguments
    command = [sys.executable, "-m", "speculators", verb, str(RECIPE), *options]
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="speculators-overhead-") as folder:
        fill(Path(folder) / "home", options.outputs)
        count = sum(1 for _ in (Path(folder) / "home" / "store").glob("*/*"))
        print(f"{count} outputs; seconds of a whole process, median (least to most) of {options.repeats}")
        for name, arguments in CASES.items():
            seconds = timed(arguments, Path(folder), options.repeats)
            print(f"{name:<40} {statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
