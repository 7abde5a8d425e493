"""The host's loop over launches: start an arm's server, run the client beside it, stop, collect.

With ``benchmark.side_by_side`` the servers of a round run at once, beside one client.

Nothing here measures; the client inside does (``stages/benchmark_round.py``).  The host decides what runs
when, looks who else computes on its GPUs, and puts the rounds' documents together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from speculators.benchmark import gpu_state
from speculators.benchmark.arms import Base
from speculators.benchmark.bench import SERVER, Bench, prepare
from speculators.benchmark.checks import hopeless, of_a_round
from speculators.benchmark.kept import CLIENT, finished_rounds, rounds_set_aside, set_aside
from speculators.benchmark.rounds import BASE, CACHED, SAMPLED, Launch, round_folder, schedule
from speculators.documents import known_json, read_json, write_json, write_text
from speculators.executors.base import Endpoint, Executor, Needs, Service
from speculators.serving.command import SERVED_NAME, server_arguments, server_argv, server_environment
from speculators.stages.documents import StageInput, read_output, write_output
from speculators.stages.execution import execute

SCHEMA = "speculators/benchmark/v1"
STAGE = "benchmark_round"
RESULT_NAME = "result.json"
#: Beside the client's output, what the host saw of the machine during a launch.
HOST_NAME = "host.json"
#: In a round's folder, what one client measured of all its launches.
TOGETHER = "together"
#: Values of the recipe's ``benchmark`` that say where something lies on this machine.
FILES = ("prompts", "quantised")
#: What the client of a launch reads of the recipe's ``benchmark``.
CLIENT_READS = ("requests", "max_tokens", "concurrency", "profiles", "warmup_requests")


def run_benchmark(
    values: dict[str, Any],
    inputs: dict[str, Path],
    folder: Path,
    executor: Executor,
    on_line: Callable[[str], None] | None = None,
    on_client_line: Callable[[str], None] | None = None,
    holds: Sequence[int] = (),
    *,
    base: Base | None = None,
    only: Sequence[str] = (),
    looks: Sequence[int] = (),
    enough: Callable[[dict[str, Any]], bool] | None = None,
) -> dict[str, Any]:
    """Measure all rounds that ``folder`` does not hold already; returns the benchmark document.

    It says how the arms were served and holds every load as a sample.  A round whose arms did not do the
    same work, or not all of it, ends the measurement at once: no further one mends the comparison.  Found in
    ``folder`` by who continues, such a round is set aside, named, and measured again.

    ``only``: these arms and no others, for who compares acceptance and no speed; by default all.
    ``base``: another draft, which is measured in the same rounds.
    ``looks``: counts of rounds after each of which ``enough`` is asked whether the document so far will do;
    by default the recipe's rounds are measured.  It is asked as well where the measurement ends early.

    ``values``: ``benchmark``, ``engine`` and ``verifier`` of the recipe, and ``speculative_tokens``; with
    ``method`` the draft arm needs no checkpoint.
    ``inputs``: the outputs of ``verifier``, ``prompts`` and, without ``method``, ``package``; ``quantised``
    where there is one.  Servers' and clients' logs, documents and GuideLLM's reports go below ``folder``, one
    folder a launch.  ``on_line`` hears what is worth showing, ``on_client_line`` every line of a client;
    ``holds`` goes to every server and client.

    Raises:
        MachineError: no engine here.
        StageError: a server or a client failed, or an arm was not what it should be.
    """
    bench = prepare(values, inputs, folder, executor, on_line, on_client_line, holds, base)
    bench.say(f"server: {bench.launcher.spelled()} ({bench.launcher.reason})")
    looks = looks or (values["benchmark"]["rounds"],)
    arms = tuple(only) or tuple(bench.arms)
    launches = schedule(looks[-1], arms)
    kept = sound_rounds(bench, launches)
    if kept:
        bench.say(f"rounds measured before the interruption are kept: {', '.join(map(str, sorted(kept)))}")
    rounds: list[dict[str, Any]] = []
    for number in range(1, looks[-1] + 1):
        look = next(one for one in looks if one >= number)
        own = [one for one in launches if one.round == number]
        if number in kept:
            rounds += [_collect(bench, one) for one in own]
        else:
            for sitting in [own] if bench.side_by_side else [[one] for one in own]:
                rounds += _measure(bench, sitting, look)
        document = _document(bench, rounds, number)
        if failed := hopeless(document):
            bench.say(f"round {number}/{look}: the arms cannot be compared: {_details(failed)}; this ends it")
        asked = enough is not None and (failed or number in looks) and enough(document)
        if failed or asked:
            break
    return document


def sound_rounds(bench: Bench, launches: Sequence[Launch]) -> frozenset[int]:
    """Those of the finished rounds that can be compared; the others are set aside with the reason."""
    finished = finished_rounds(bench.folder, launches)
    unsound = set()
    for number in sorted(finished):
        found = [_collect(bench, one) for one in launches if one.round == number]
        if failed := of_a_round(hopeless(_document(bench, found, 1))):
            unsound.add(number)
            set_aside(bench.folder, number, _details(failed))
            bench.say(f"round {number} is measured again: {_details(failed)}")
    return finished - unsound


def _details(failed: Sequence[dict[str, Any]]) -> str:
    return "; ".join(dict.fromkeys(check["detail"] for check in failed))


def _document(bench: Bench, launches: Sequence[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """The benchmark document of the ``launches`` so far, which make so many ``rounds``."""
    benchmark = {name: value for name, value in bench.values["benchmark"].items() if name not in FILES}
    measured = {one["arm"] for one in launches}
    return {
        "schema": SCHEMA,
        "launcher": {
            "command": bench.launcher.spelled(),
            "reason": bench.launcher.reason,
            "engine": bench.launcher.distribution,
            "version": bench.launcher.version,
        },
        "speculation": {"algorithm": bench.speculation.algorithm, "tokens": bench.speculation.tokens},
        "request_body": bench.request_body,
        "sampling": bench.sampling,
        "engine_args": bench.values["engine"]["args"],
        "benchmark": benchmark | {"rounds": rounds},
        "arms": {arm: _shown_arguments(bench, arm) for arm in bench.arms if arm in measured},
        "left_out": bench.left_out,
        "set_aside": rounds_set_aside(bench.folder),
        "base": _base(bench),
        "rounds": [
            {name: value for name, value in one.items() if name not in ("loads", "profiles")}
            | {"place": place}
            for place, one in enumerate(launches)
        ],
        "samples": [_sample(one, load) for one in launches for load in one["loads"]],
        "profiles": [_sample(one, load) for one in launches for load in one.get("profiles", ())],
    }


def _base(bench: Bench) -> dict[str, Any] | None:
    """The base arm as documents name it: without its place on this machine."""
    if bench.base is None:
        return None
    speculation = bench.arms[BASE].speculation
    assert speculation is not None
    return {
        "name": bench.base.name,
        "digest": bench.base.digest,
        "speculation": {"algorithm": speculation.algorithm, "tokens": speculation.tokens},
        "engine": {name: dict(bench.base.engine[name]) for name in ("args", "env")},
    }


def _arguments(bench: Bench, arm: str, port: int) -> list[str]:
    return server_arguments(
        port,
        bench.arms[arm].engine["args"],
        bench.arms[arm].speculation,
        prefix_cache=bench.under(arm, CACHED),
        mended_sampling=bench.under(arm, SAMPLED) and bench.launcher.on_cpu,
        trust_remote_code=bench.values["verifier"].get("trust_remote_code", False),
    )


def _shown_arguments(bench: Bench, arm: str) -> list[str]:
    """The arm's arguments as the report shows them: no port, no path of this machine."""
    shown = _arguments(bench, arm, 0)
    shown[shown.index("--port") + 1] = "PORT"
    drafts = {"DRAFT": bench.speculation.draft, "BASE": bench.base.draft if bench.base else None}
    for name, path in drafts.items():
        shown = [word.replace(str(path), name) for word in shown] if path is not None else shown
    return shown


def _measure(bench: Bench, launches: Sequence[Launch], rounds: int) -> list[dict[str, Any]]:
    """From the start of the ``launches``' servers, which run side by side, to their result documents.

    ``rounds``: how many are to be measured now.
    """
    number = launches[0].round
    alone = len(launches) == 1
    folder = bench.folder / (launches[0].folder if alone else f"{round_folder(number)}/{TOGETHER}")
    for place in {folder, *(bench.folder / launch.folder for launch in launches)}:
        shutil.rmtree(place, ignore_errors=True)  # what an interrupted attempt left
    label = f"round {number}/{rounds}" + (f" {launches[0].arm}" if alone else "")
    bench.say(f"{label}: server{'' if alone else 's'} starting")
    before = gpu_state.lasting_processes()
    with ExitStack() as stack:
        endpoints: list[Endpoint] = []
        for launch in launches:
            service = _service(bench, launch, endpoints[0] if endpoints else None)
            endpoints.append(stack.enter_context(bench.executor.serve(service)))
            write_text(bench.folder / launch.folder / "server-command.txt", endpoints[-1].command)
        step = _step(bench, launches, endpoints, folder / CLIENT)
        execute(
            bench.executor,
            step,
            folder,
            {},
            label=label,
            on_line=bench.on_client_line,
            beside=endpoints,
            holds=bench.holds,
            needs=Needs("bench"),
        )
        company = gpu_state.others(before, gpu_state.processes())
    if not alone:
        _part(bench, step, launches)
    for launch in launches:
        write_json(bench.folder / launch.folder / HOST_NAME, {"gpu_processes_of_others": company})
    measured = [_collect(bench, launch) for launch in launches]
    for one in measured:
        speeds = " · ".join(_headline(load) for load in one["loads"])
        bench.say(f"round {number}/{rounds} {one['arm']}: {speeds}")
    return [one | {"kept": False} for one in measured]


def _step(
    bench: Bench, launches: Sequence[Launch], endpoints: Sequence[Endpoint], output: Path
) -> StageInput:
    """What the client of the ``launches`` is told; ``endpoints``: their servers."""
    engine = bench.values["engine"]
    values = {
        "model": SERVED_NAME,
        "benchmark": {name: bench.values["benchmark"].get(name) for name in CLIENT_READS},
        "round": launches[0].round,
        "startup_timeout": engine["startup_timeout"],
        "stall_timeout": engine["stall_timeout"],
        "replayed": "method" not in bench.values,
        "launches": [
            {
                "arm": launch.arm,
                "endpoint": endpoint.url,
                "speculative_tokens": bench.tokens(launch.arm),
                "request_body": bench.body(launch.arm),
                "ask_all_before": bench.under(launch.arm, CACHED),
            }
            for launch, endpoint in zip(launches, endpoints, strict=True)
        ],
    }
    inputs = {name: bench.inputs[name] for name in ("verifier", "prompts")}
    return StageInput(STAGE, values, inputs, {}, output)


def _service(bench: Bench, launch: Launch, beside: Endpoint | None) -> Service:
    """The server of a launch; ``beside``: one of its round that runs already."""
    verifier, draft = bench.verifier(launch.arm), bench.draft(launch.arm)

    def command(port: int) -> list[str]:
        return server_argv(bench.launcher.start, verifier, _arguments(bench, launch.arm, port))

    return Service(
        f"{launch.arm} round {launch.round}",
        command,
        server_environment(bench.interior.environment(bench.arms[launch.arm].engine["env"])),
        bench.folder / launch.folder / "server.log",
        bench.holds,
        replace(SERVER, reads=[verifier, *([draft] if draft else [])]),
        beside,
    )


def _part(bench: Bench, step: StageInput, launches: Sequence[Launch]) -> None:
    """Give each launch the result that one client made for all of them, sealed in the launch's own folder."""
    booked = read_output(step.output)
    seconds = booked["seconds"] / len(launches)
    for launch, result in zip(launches, booked["result"]["launches"], strict=True):
        own = step._replace(output=bench.folder / launch.folder / CLIENT)
        shutil.copytree(step.output / launch.arm, own.output)
        write_output(own, {"launches": [result]}, seconds)


def _collect(bench: Bench, launch: Launch) -> dict[str, Any]:
    """The result document of a launch that has been measured."""
    output = bench.folder / launch.folder / CLIENT
    document: dict[str, Any] = read_json(output / RESULT_NAME)
    if "machine" in document:
        document["machine"] |= known_json(output.with_name(HOST_NAME))
    return document | {"seconds": read_output(output)["seconds"], "folder": launch.folder, "kept": True}


def _headline(load: dict[str, Any]) -> str:
    speed = load["output_tokens_per_second"]
    return f"{speed:.1f} tok/s at {load['concurrency']}" if speed else f"nothing at {load['concurrency']}"


def _sample(one: dict[str, Any], load: dict[str, Any]) -> dict[str, Any]:
    """One load of one launch; texts stay in the launch's own document, their digests are enough here."""
    requests = [{name: value for name, value in row.items() if name != "text"} for row in load["requests"]]
    return {"round": one["round"], "arm": one["arm"], **load, "requests": requests}
