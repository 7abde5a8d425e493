"""Does the gate say the right thing of real servers?  Four questions with known answers, on a finished run.

    python benchmarks/real_verdicts.py runs/smollm2-135m-eagle3/latest --work verdicts

Whatever the run trained, its checkpoint is measured once as the baseline and is then gated; what says most
in one gate comes first:

* damaged     with noise in its weights that costs a known part of its acceptance: *acceptance fell*
* slowed      behind an engine that makes 10 % fewer steps a second (``slowed_engine.py``): *speed fell*
* other-dtype both arms in another dtype, whose answers are other ones: *outputs changed*
* same        against itself, several times, each a sitting of its own: no alarm

All of it goes through ``speculators run --against``, as a user's gate does, and the exit code has to say what
the verdict says.  A gate that ends *not comparable* is WRONG, and the others are still asked.  Exits 1 when
one was wrong.

The same command goes on where an earlier one was stopped: each gate has a folder of its own in the work
folder, and one whose end is in its ``outcome.json`` is not run again; delete that file to ask anew.  Other
options than the work folder was begun with are refused, but ``--only`` and ``--gates`` may change.  Stages
must run in this environment (``executor: local``), because the slowed engine is a plugin that lies here.

How long it takes: a round is two launches, and a launch about 1.6 min on the project's own machine (two
cores, SmolLM2-135M, 16 requests one at a time).  By default 12 rounds of the baseline and eight gates of 5
to 12 make about 60 rounds, over three hours.  Shorter is

    --rounds 7 --looks 5 7 --requests 16 --concurrency 1 --side-by-side

With the servers side by side a round of 16 requests takes 3.9 min there, a gate that ends at its first
look about 23, and a round's noise was 2.6 % where it was 9.0 % one server at a time (docs/gating.md).
With launch noise as recorded there (2.6 %), a loss of 10 % is then called a regression in 99.6 % of 10,000
simulated gates, by default in all, with ``--rounds 5 --looks 3 5`` in 95.5 % (the gate of
``gate_calibration.py`` with these looks).  Fewer requests hide changed answers: *outputs changed* takes six
changed ones at four looks and five at two, be they of 16 or of eight.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Below the path, because a checkout need not be installed.
from speculators.benchmark.comparison import (  # noqa: E402
    ACCEPTANCE_FELL,
    BASELINE_ROUNDS,
    NOT_COMPARABLE,
    OUTPUTS_CHANGED,
    STEP_SLOWER,
)
from speculators.benchmark.figures import LENGTH, SPEEDUP  # noqa: E402
from speculators.benchmark.gate import OK, REGRESSION, UNDECIDED  # noqa: E402
from speculators.documents import known_json, read_json, write_json, write_text  # noqa: E402
from speculators.errors import EXIT_INTERRUPTED, EXIT_REGRESSION, StageError  # noqa: E402
from speculators.quantities import duration  # noqa: E402
from speculators.recipe.yaml_loader import load_yaml  # noqa: E402
from speculators.recipe.yaml_writer import dump_yaml  # noqa: E402
from speculators.report.document import COMPARISON  # noqa: E402
from speculators.report.spelling import difference  # noqa: E402
from speculators.serving.environment import engine_environment  # noqa: E402

#: Blocks that a recipe which brings its draft does not have.
TRAINED = ("algorithm", "datagen", "training")
PLUGIN = "slowed_engine"
#: What a gate against a stored baseline ends in; any other verdict in 0.
EXIT_CODES = {REGRESSION: EXIT_REGRESSION, NOT_COMPARABLE: StageError.exit_code}
OPTIONS_NAME, OUTCOME_NAME = "options.json", "outcome.json"
#: Options that may be others when a work folder is gone on with.
FREE = ("work", "only", "gates")


class Case(NamedTuple):
    """A kind of gate with its answer: the ``cause`` of a regression, or None for no alarm."""

    name: str
    cause: str | None
    recipe: Callable[[argparse.Namespace], dict[str, Any]]

    def right(self, verdict: str, causes: Sequence[str], code: int) -> bool:
        """Whether the gate gave this case's answer, and gave the same to whatever reads its exit code."""
        if code != EXIT_CODES.get(verdict, 0):
            return False
        if self.cause is None:
            return verdict in (OK, UNDECIDED)
        return verdict == REGRESSION and self.cause in causes


class Ended(NamedTuple):
    """A run that ended in a result; ``seconds``: of the attempt that ended it."""

    run: Path
    code: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--work", type=Path, default=Path("verdicts"), help="where everything goes")
    parser.add_argument("--gates", type=int, default=5, help="gates of the draft against itself")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of the baseline")
    parser.add_argument("--looks", type=int, nargs="+", default=[5, 7, 9, 12], help="of every gate")
    parser.add_argument("--requests", type=int, help="of every load; the run's by default")
    parser.add_argument("--concurrency", type=int, nargs="+", help="the run's by default")
    parser.add_argument("--side-by-side", action="store_const", const=True, help="as the recipe's field")
    parser.add_argument("--damage", type=float, default=0.10, help="loss of the damaged acceptance length")
    parser.add_argument("--slower", type=float, default=0.10, help="loss of the slowed engine's speed")
    parser.add_argument("--dtype", default="bfloat16", help="the other one")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    options = parser.parse_args(arguments)
    options.work, options.run = options.work.absolute(), options.run.resolve()  # "latest" moves on
    if options.rounds < BASELINE_ROUNDS:
        parser.error(f"--rounds: a baseline needs {BASELINE_ROUNDS}")
    if not (options.run / "resolved.yaml").is_file():
        parser.error(f"{options.run}: no run's folder (it has no resolved.yaml)")
    require_same(options)
    baseline = baseline_of(options)
    chosen = [case for case in CASES if not options.only or case.name in options.only]
    right = [
        answered(f"{case.name}-{number + 1}", case, baseline, options)
        for case in chosen
        for number in range(1 if case.cause else options.gates)
    ]
    print(f"\n{sum(right)} of {len(right)} gates said what is true")
    return int(not all(right))


def require_same(options: argparse.Namespace) -> None:
    """Note the options in a new work folder; what an old one holds was measured with its own.

    Raises:
        SystemExit: they are others, or what they were is not known.
    """
    place = options.work / OPTIONS_NAME
    asked = {name: value for name, value in vars(options).items() if name not in FREE}
    asked |= {"run": str(options.run)}
    if place.is_file():
        before = read_json(place)
        changed = [
            f"{name} was {before.get(name)}, now {value}"
            for name, value in asked.items()
            if before.get(name) != value
        ]
        if changed:
            raise SystemExit(
                f"{place}: {'; '.join(changed)}: what was measured stays as it is, so give the options of "
                "before, or another folder with --work"
            )
    elif options.work.is_dir() and any(options.work.iterdir()):
        raise SystemExit(
            f"{options.work}: holds something, and no {OPTIONS_NAME} that says with what options it was "
            "measured: give another folder with --work"
        )
    else:
        write_json(place, asked)


def baseline_of(options: argparse.Namespace) -> Path:
    """The baseline file, measured once.

    Raises:
        SystemExit: it could not be measured, and without it nothing can be asked.
    """
    place: Path = options.work / "baseline.json"
    if not place.is_file():
        ended = benchmark(options.work / "baseline", recipe_of(options), ())
        words = ("--format", "baseline", "--out", str(place))
        if ended is None or speculators("report", str(ended.run), *words) != 0:
            raise SystemExit("there is no baseline; the same command tries again")
    return place


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """The run's recipe with its checkpoint as a draft that is brought; every path absolute."""
    run: Path = options.run
    data = load_yaml((run / "resolved.yaml").read_text(encoding="utf-8"), "").data
    data = {name: value for name, value in data.items() if name not in TRAINED}
    places = {**files_of(run, "verifier"), **files_of(run, "prompts")}
    if "verifier.path" in places:
        data["verifier"]["path"] = places["verifier.path"][0]
    data["draft"] = str((run / "model").resolve())
    data["executor"] = "local"
    data["benchmark"] |= {"prompts": places["benchmark.prompts"][0], "rounds": options.rounds}
    data["benchmark"] |= {"extra_arms": [], "depths": []}  # of the draft and plain alone are the questions
    data["benchmark"]["gate"] |= {"looks": options.looks}
    chosen = {
        "requests": options.requests,
        "concurrency": options.concurrency,
        "side_by_side": options.side_by_side,
    }
    data["benchmark"] |= {name: value for name, value in chosen.items() if value}
    return data


def with_damage(options: argparse.Namespace) -> dict[str, Any]:
    return recipe_of(options) | {"draft": str(damaged(options))}


def with_slow_engine(options: argparse.Namespace) -> dict[str, Any]:
    data = recipe_of(options)
    data["engine"]["env"] |= slowing(options)
    return data


def with_other_dtype(options: argparse.Namespace) -> dict[str, Any]:
    data = recipe_of(options)
    data["engine"]["args"] |= {"dtype": options.dtype}
    return data


CASES = (
    Case("damaged", ACCEPTANCE_FELL, with_damage),
    Case("slowed", STEP_SLOWER, with_slow_engine),
    Case("other-dtype", OUTPUTS_CHANGED, with_other_dtype),
    Case("same", None, recipe_of),
)


def files_of(run: Path, stage: str) -> dict[str, list[str]]:
    """The files that a stage of the run read, by their recipe path."""
    files: dict[str, list[str]] = read_json(run / "stages" / stage / "input.json")["files"]
    return files


def benchmark(folder: Path, recipe: dict[str, Any], words: tuple[str, ...]) -> Ended | None:
    """Run ``recipe`` in a folder of its own.  One whose end is known is not run again.

    None: it failed before there was a result.
    """
    if known := known_json(folder / OUTCOME_NAME):
        return Ended(Path(known["run"]), known["code"], known["seconds"])
    folder.mkdir(parents=True, exist_ok=True)
    path, runs = folder / "recipe.yaml", folder / "runs"
    latest = runs / recipe["name"] / "latest"
    (latest / COMPARISON).unlink(missing_ok=True)  # of an attempt whose exit code is not known
    write_text(path, dump_yaml(recipe))
    started = time.monotonic()
    code = speculators("run", str(path), "--runs-dir", str(runs), "--progress", "plain", *words)
    if code not in (0, EXIT_REGRESSION) and not not_comparable(latest):
        return None
    ended = Ended(latest.resolve(), code, round(time.monotonic() - started, 1))
    write_json(folder / OUTCOME_NAME, ended._asdict() | {"run": str(ended.run)})
    return ended


def not_comparable(run: Path) -> bool:
    """Whether a run measured all that it was asked for, and its own checks let nothing be said of it."""
    return known_json(run / COMPARISON).get("verdict") == NOT_COMPARABLE


def speculators(*words: str) -> int:
    """Run the command line in its own process; the exit code.

    Raises:
        SystemExit: it was interrupted.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "speculators", *words]
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
    if code == EXIT_INTERRUPTED or code < 0:  # by a signal
        raise SystemExit(f"{' '.join(words)} was interrupted; the same command goes on")
    return code


def answered(name: str, case: Case, baseline: Path, options: argparse.Namespace) -> bool:
    """Gate one case and print what came of it; whether that is its answer."""
    ended = benchmark(options.work / name, case.recipe(options), ("--against", str(baseline)))
    if ended is None:
        print(f"FAILED {name:<13} before there was a verdict; the same command tries again", flush=True)
        return False
    found = read_json(ended.run / COMPARISON)
    right = case.right(found["verdict"], found["causes"], ended.code)
    rounds = read_json(ended.run / "bench" / "output.json")["result"]["benchmark"]["rounds"]
    print(
        f"{'right ' if right else 'WRONG '} {name:<13} {rounds:>2} rounds in {duration(ended.seconds):<12} "
        f"{found['verdict']}, exit code {ended.code}: {why(found)}",
        flush=True,
    )
    return right


def why(found: Mapping[str, Any]) -> str:
    """What a comparison rests on, in a line."""
    changes = {one["name"]: one for one in reversed(found["figures"])}
    shown = ", ".join(
        f"{name} {difference(one['change'])} [{difference(one['low'])}, {difference(one['high'])}]"
        for name in (SPEEDUP, LENGTH)
        if (one := changes.get(name))
    )
    causes = [cause.split(":")[0] for cause in found["causes"]]
    return "; ".join(filter(None, (*causes, *found["reasons"], shown)))


def slowing(options: argparse.Namespace) -> dict[str, str]:
    """The environment of a server that finds the slowing plugin: a distribution with one entry point."""
    folder: Path = options.work / "plugin"
    shutil.rmtree(folder, ignore_errors=True)
    about = folder / f"{PLUGIN}-1.0.dist-info"
    write_text(about / "METADATA", f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1.0\n")
    write_text(about / "entry_points.txt", f"[vllm.general_plugins]\n{PLUGIN} = {PLUGIN}:register\n")
    shutil.copyfile(Path(__file__).with_name(f"{PLUGIN}.py"), folder / f"{PLUGIN}.py")
    # This project's own code stays on the path: the replay of drafting gets the same environment.
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT))),
        "SPECULATORS_SLOWER": str(options.slower),
    }


def damaged(options: argparse.Namespace) -> Path:
    """The run's checkpoint with the wanted damage, made once."""
    target: Path = options.work / "damaged-draft"
    if not target.is_dir():
        script = Path(__file__).with_name("damaged_draft.py")
        command = [sys.executable, str(script), str(options.run), str(target), "--loss", str(options.damage)]
        environment = {**os.environ, **engine_environment(recipe_of(options)["engine"]["env"])}
        subprocess.run(command, env=environment, check=True)
    return target


if __name__ == "__main__":
    sys.exit(main())
