"""Disturb a run again and again, then see that nothing was lost and nothing false was kept.

    python -m tests.faults.harness --faults 100 --seed 0

A first run is left alone.  A second one, with a store of its own, is disturbed at random moments of
all stages: killed, interrupted, its stages, supervisors and servers killed or frozen, bytes flipped in
what it has stored and in the work it left.  After each fault all its processes must be gone within ten
seconds and every output that looks finished must be whole.  In the end it must come out like the
first: shards, losses, checkpoint and answers, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from speculators.pipeline.store import PARTIAL
from tests.faults.faults import DIED, Fault, Runner, fitting, flip_a_byte
from tests.faults.processes import marked, seconds_until_quiet
from tests.faults.world import BENCHMARK, BUILD, World, contents, texts, untrustworthy, write_world

QUIET_SECONDS = 10.0
SAVE_SECONDS = 45.0  # what an interrupted run may take to end: its stage saves its work
PATIENCE = 1800.0  # a run that shares its machine takes many times what it takes alone
#: How often a stage is struck; the benchmark's servers take long to start.
WEIGHTS = {**dict.fromkeys(BUILD, 8), "responses": 6, "hidden_states": 6, "training": 16, BENCHMARK: 3}
ALL_STAGES = (*BUILD, BENCHMARK)
#: Share of faults that damage stored bytes in place of processes.
DAMAGE = 0.1


class Outcome(NamedTuple):
    """One fault: where and when it struck, how the run ended, and what was wrong (nothing is right).

    ``hit``: whether there was something to strike at that moment; only hits count.
    """

    stage: str
    fault: str
    after: float
    code: int | None
    quiet: float | None
    wrong: list[str]
    hit: bool = True


class Story:
    """The lines of a run as they come."""

    def __init__(self, runner: Runner) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.thread = threading.Thread(target=self._listen, args=(runner,), daemon=True)
        self.thread.start()

    def _listen(self, runner: Runner) -> None:
        assert runner.stdout is not None
        for line in runner.stdout:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, stage: str, timeout: float) -> bool:
        """Whether ``stage`` was started before the run ended, or, if it had not to run, a later one."""
        stages = ALL_STAGES[ALL_STAGES.index(stage) :]

        def started() -> bool:
            return any(line[9:].startswith(stages) and " started" in line for line in self.lines)

        with self._news:
            self._news.wait_for(lambda: started() or self._ended, timeout)
            return started()

    def text(self) -> str:
        return "\n".join(self.lines)


def calm(world: World, *, benchmark: bool) -> None:
    """An undisturbed run, ended at its benchmark if that is not wanted."""
    runner = world.start()
    story = Story(runner)
    if not benchmark:
        assert story.wait_for(BENCHMARK, PATIENCE), story.text()
        runner.terminate()
    code = runner.wait(PATIENCE)
    story.thread.join()
    assert code == (0 if benchmark else 130), story.text()


def stage_seconds(world: World) -> dict[str, float]:
    """What each stage took in the run that made it; of a benchmark, about."""
    costs = {stage: world.store.history(stage)[0].cost() for stage in BUILD}
    seconds = {stage: cost.seconds for stage, cost in costs.items() if cost}
    return {**seconds, BENCHMARK: 60.0 * world.rounds}


def strike(world: World, stage: str, fault: Fault, after: float) -> Outcome:
    """Start a run, let ``fault`` happen ``after`` seconds into ``stage``, and look at what is left."""
    runner = world.start()
    story = Story(runner)
    wrong: list[str] = []
    hit = False
    if story.wait_for(stage, PATIENCE):
        time.sleep(after)
        hit = fault.strike(world, runner)
    else:
        wrong.append(f"never reached {stage}:\n{story.text()}")
    code = end(runner, story, stage, fault)
    quiet = seconds_until_quiet(world, QUIET_SECONDS)
    story.thread.join(5)
    if code not in (*fault.codes, 0):
        wrong.append(f"exit code {code}, not one of {fault.codes}:\n{story.text()}")
    if code == 130 and "continue with: speculators run" not in story.text():
        wrong.append("does not say how to continue")
    if quiet is None:
        wrong.append(f"orphans: {marked(world)}")
    wrong += [f"trusted and not whole: {name}" for name in untrustworthy(world)]
    return Outcome(stage, fault.name, round(after, 2), code, quiet, wrong, hit)


def end(runner: Runner, story: Story, stage: str, fault: Fault) -> int | None:
    """The runner's exit code; None when it did not end in time.

    A fault that struck between two processes hits nothing, and the run goes on: it is ended where its
    benchmark begins, if that was not what was to be disturbed.
    """
    if fault.codes == DIED and stage != BENCHMARK and story.wait_for(BENCHMARK, PATIENCE):
        runner.terminate()
    try:
        code = runner.wait(SAVE_SECONDS if fault.codes != DIED or stage != BENCHMARK else PATIENCE)
    except subprocess.TimeoutExpired:
        runner.kill()
        runner.wait()
        return None
    return 0 if code == 130 and fault.codes == DIED else code


def damage(world: World, stage: str, draw: random.Random) -> Outcome:
    """Flip a byte in the output of ``stage``: the next stage must name it, and make it again if asked."""
    (kept,) = world.store.history(stage)
    files = [kept.path / name for name in json.loads((kept.path / "output.json").read_text())["files"]]
    path = flip_a_byte(files, draw)
    following = BUILD[BUILD.index(stage) + 1]
    forget(world, following)
    runner = world.start("--only", following)
    output, _ = runner.communicate(timeout=PATIENCE)
    wrong = []
    if path is not None and (runner.returncode != 3 or path.name not in output):
        wrong.append(f"{path} was flipped; exit code {runner.returncode}:\n{output}")
    runner = world.start("--only", following, "--remake-damaged")
    output, _ = runner.communicate(timeout=PATIENCE)
    if runner.returncode != 0:
        wrong.append(f"not made again, exit code {runner.returncode}:\n{output}")
    wrong += [f"trusted and not whole: {name}" for name in untrustworthy(world)]
    return Outcome(stage, "byte flipped", 0.0, runner.returncode, 0.0, wrong)


def forget(world: World, stage: str) -> None:
    """Take the finished output of ``stage`` out of the store."""
    for kept in world.store.history(stage):
        shutil.rmtree(kept.path)


def damage_work(world: World, stage: str, draw: random.Random) -> None:
    """Flip a byte in what an interrupted attempt at ``stage`` left behind."""
    for partial in (world.store.root / stage).glob(f"*{PARTIAL}"):
        flip_a_byte(partial.rglob("*"), draw)


def disturb(
    world: World, faults: int, seed: int, seconds: dict[str, float], say: Callable[[str], None], until: float
) -> list[Outcome]:
    """Strike ``faults`` times at random stages and moments, or until the clock shows ``until``."""
    draw = random.Random(seed)
    stages = list(WEIGHTS) if world.rounds else list(BUILD)
    outcomes: list[Outcome] = []
    while sum(one.hit for one in outcomes) < faults and time.monotonic() < until:
        finished = list(takewhile(world.store.history, BUILD[:-1]))
        if finished and draw.random() < DAMAGE:
            outcome = damage(world, draw.choice(finished), draw)
        else:
            stage = draw.choices(stages, [WEIGHTS[name] for name in stages])[0]
            if stage != BENCHMARK:
                forget(world, stage)
            if draw.random() < 0.2:
                damage_work(world, stage, draw)
            after = draw.uniform(0, 1.1 * seconds[stage])
            outcome = strike(world, stage, draw.choice(fitting(stage)), after)
        outcomes.append(outcome)
        say(line(len(outcomes), outcome))
    return outcomes


def line(number: int, one: Outcome) -> str:
    quiet = "-" if one.quiet is None else f"{one.quiet:.1f}"
    verdict = "; ".join(one.wrong) or ("ok" if one.hit else "ok, but nothing to hit")
    place = f"{number:>4} {one.stage:<14} {one.fault:<18} {one.after:>6.1f} s"
    return f"{place}  exit {one.code}  quiet {quiet} s  {verdict}"


def table(outcomes: list[Outcome]) -> str:
    """Faults by stage and kind, and the worst time to silence."""
    missed = sum(not one.hit for one in outcomes)
    wrong = sum(bool(one.wrong) for one in outcomes)
    counted = Counter((one.stage, one.fault) for one in outcomes if one.hit)
    stages = [name for name in (*BUILD, BENCHMARK) if any(one.stage == name for one in outcomes)]
    kinds = sorted({one.fault for one in outcomes})
    rows = ["| fault | " + " | ".join(stages) + " |", "|---" * (len(stages) + 1) + "|"]
    rows += [
        f"| {kind} | " + " | ".join(str(counted[stage, kind] or "") for stage in stages) + " |"
        for kind in kinds
    ]
    slowest = max((one.quiet for one in outcomes if one.quiet is not None), default=0.0)
    orphans = sum(any("orphans" in text for text in one.wrong) for one in outcomes)
    false = sum(any("not whole" in text for text in one.wrong) for one in outcomes)
    return "\n".join(
        [
            *rows,
            "",
            f"{len(outcomes) - missed} faults, {missed} more found nothing to hit;",
            f"{wrong} wrong; {orphans} with orphans; {false} with a false output;",
            f"all processes gone at most {slowest:.1f} s after the run",
        ]
    )


def compare(calm_world: World, world: World, *, benchmark: bool) -> list[str]:
    """What differs between the undisturbed run's results and the disturbed one's."""
    first, second = contents(calm_world), contents(world)
    wrong = [
        f"{stage}/{name} differs"
        for stage in BUILD
        for name in sorted(first[stage].keys() | second[stage].keys())
        if first[stage].get(name) != second[stage].get(name)
    ]
    if benchmark and texts(calm_world) != texts(world):
        wrong.append("answers of the benchmark differ")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2, help="of the benchmark; 0 leaves it out")
    parser.add_argument("--minutes", type=float, default=math.inf, help="strike no longer than that")
    parser.add_argument("--folder", type=Path, help="where to work; kept if given")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="speculators-faults-"))
    return run(folder, options.faults, options.seed, options.rounds, options.minutes)


def run(
    folder: Path,
    faults: int,
    seed: int,
    rounds: int,
    minutes: float = math.inf,
    calm_world: World | None = None,
) -> int:
    """The whole harness in ``folder``; 0 when nothing was wrong.

    ``calm_world``: one with an undisturbed run of the same recipe in it, where there is one already.
    """
    # A shell that starts this in the background has ^C ignored, and runs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    benchmark = rounds > 0
    world = write_world(folder / "disturbed", max(1, rounds))._replace(rounds=rounds)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s {text}", flush=True)

    if calm_world is None:
        say("an undisturbed run")
        calm_world = write_world(folder / "calm", max(1, rounds))
        calm(calm_world, benchmark=benchmark)
    until = time.monotonic() + 60 * minutes
    outcomes = disturb(world, faults, seed, stage_seconds(calm_world), say, until)
    say("to the end, undisturbed")
    calm(world, benchmark=benchmark)
    wrong = compare(calm_world, world, benchmark=benchmark)
    print(table(outcomes))
    print("\n".join(wrong) or "all shards, losses, checkpoint bytes and answers equal the undisturbed run's")
    return int(bool(wrong) or any(one.wrong for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
