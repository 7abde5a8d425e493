"""What a container costs a stage: the same command through both executors, in turn, in one sitting.

    python benchmarks/container_overhead.py --image speculators/cpu:0.32.0 --python /opt/venv/bin/python

The command does nothing, so that what is left is the machinery: client, creation, start, log, removal.
Needs a container engine that has the image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from speculators.executors.base import Executor, Step
from speculators.executors.docker import DockerExecutor, Ready
from speculators.executors.engine import connect
from speculators.executors.local import LocalExecutor
from speculators.executors.request import limits
from speculators.recipe.schema import apply_defaults, load_schema


def seconds(executor: Executor, python: str, log: Path) -> float:
    """Wall seconds of one step that does nothing."""
    result = executor.run(Step("nothing", [python, "-c", "pass"], {}, log))
    if result.exit_code != 0:
        sys.exit(f"exit code {result.exit_code}: {result.cause or log.read_text()}")
    return result.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", required=True, help="an image that the engine has")
    parser.add_argument("--python", default="python3", help="its interpreter")
    parser.add_argument("--runs", type=int, default=10)
    asked = parser.parse_args()
    engine = connect()
    block = apply_defaults({}, load_schema()["properties"]["container"])
    with tempfile.TemporaryDirectory() as folder:
        inside = DockerExecutor(
            engine, {"engine": Ready(asked.image, "", asked.python)}, limits(block), Path(folder)
        )
        pairs = [
            (
                seconds(LocalExecutor(), sys.executable, Path(folder, "local.txt")),
                seconds(inside, asked.python, Path(folder, "docker.txt")),
            )
            for _ in range(asked.runs)
        ]
    for name, column in zip(("local", "container"), zip(*pairs)):
        print(
            f"{name:<10} median {statistics.median(column):.2f} s, {min(column):.2f} to {max(column):.2f} s"
        )
    more = [container - local for local, container in pairs]
    print(f"{'more':<10} median {statistics.median(more):.2f} s, at most {max(more):.2f} s")
    print(engine.spelled())


if __name__ == "__main__":
    main()
