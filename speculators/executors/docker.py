"""Steps and services in containers, each under its own supervised client (``container.py``).

Folders appear inside at the paths that they have outside, so that one stage document holds on both sides.  A
server has a network of its own with nothing in it but its loopback device; its client joins it there.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from speculators.documents import known_json, value_digest, write_json, write_text
from speculators.errors import BY_EXIT_CODE, MachineError, SpeculatorsError, StageError
from speculators.executors import container, interior, request, require_gpus
from speculators.executors.base import (
    Cause,
    Endpoint,
    Needs,
    OnLine,
    Service,
    Step,
    StepResult,
    command_text,
    last_object,
    log_tail,
)
from speculators.executors.child import POLL_SECONDS, Child, require_servers
from speculators.executors.engine import Engine
from speculators.executors.interior import Interior
from speculators.executors.supervise import COMMAND_NOT_FOUND
from speculators.recipe.hub_cache import cache_folder
from speculators.serving import environment, launcher

SOURCE = Path(__file__).resolve().parents[1]
CLIENT = (sys.executable, "-m", "speculators.executors.container")


class Exit(NamedTuple):
    """An exit code that is none of the step's own; ``words``: how the log ends where the code is any."""

    code: int
    message: str
    hint: str
    rule: str
    words: str = ""


EXITS = (
    Exit(
        COMMAND_NOT_FOUND,
        "its program is not in the image",
        "take an image with the interpreter that images.yaml names (speculators images verify)",
        "image-program",
        # Podman's first process ends with 1 like anything else.
        words="failed to exec pid1: No such file or directory",
    ),
    Exit(
        require_gpus.EXIT_NO_GPU,
        "it has not the GPUs that were asked for",
        "see that the engine gives GPUs to containers (NVIDIA Container Toolkit, CDI); or set container.gpus",
        "no-gpu",
    ),
)
#: What the answer about an image depends on.
ASKED = (interior, environment, launcher)
#: States that a client leaves when it has removed its container.
FINISHED = ("ended", "refused", "lost")
LOST = {
    "cause": "the process that watched over its container was killed",
    "hint": "finished work is kept; the same command continues",
    "rule": "client-lost",
    "error": StageError.exit_code,
}


class Ready(NamedTuple):
    """An image that is in the engine.  ``id``: what the engine calls it; ``pin``: its digest anywhere."""

    id: str
    pin: str
    python: str


class Papers(NamedTuple):
    """What a client of a container reads, what it leaves, and the container's name."""

    request: Path
    state: Path
    name: str


class DockerExecutor:
    """An ``Executor`` whose machine is a container for each step.

    Args:
        engine: the engine that runs them.
        images: the image of each role.
        limits: what a container may take.
        home: where answers about images are kept.
    """

    def __init__(
        self, engine: Engine, images: Mapping[str, Ready], limits: request.Limits, home: Path
    ) -> None:
        self._engine = engine
        self._images = images
        self._limits = limits
        self._run_id = ""
        self._home = home
        self._servers: dict[str, str] = {}  # container by the service's name
        self._interiors: dict[str, Interior] = {}

    def run(
        self, step: Step, *, on_line: OnLine | None = None, beside: Sequence[Endpoint] = ()
    ) -> StepResult:
        papers = self._papers(step, step.argv, beside[0] if beside else None)
        child = Child([*CLIENT, str(papers.request)], {}, step.log, step.holds, on_line)
        try:
            code, seconds = child.finish(step, beside)
        finally:
            self._bury(papers)
        state = known_json(papers.state)
        if state.get("state") != "ended":
            require_servers(step.name, beside)  # nobody can join the network of a server that died
            raise _refused(step.name, state)
        for known in EXITS:
            if code == known.code or (known.words and known.words in log_tail(step.log, 1)):
                text = f"step '{step.name}': {known.message}\n{log_tail(step.log, 2)}"
                raise MachineError(text, hint=known.hint, rule=known.rule)
        return StepResult(code, seconds, step.log, _cause(state))

    @contextmanager
    def serve(self, service: Service) -> Iterator[Endpoint]:
        # Servers with one network may not have one port.
        port = request.PORT + (len(self._servers) if service.beside else 0)
        papers = self._papers(service, service.argv(port), service.beside)
        child = Child([*CLIENT, str(papers.request)], {}, service.log, service.holds)
        endpoint = Endpoint(
            name=service.name,
            url=f"http://127.0.0.1:{port}",
            command=_by_hand(papers.request),
            log=service.log,
            exit_code=child.process.poll,
            why=lambda: _cause(known_json(papers.state)),
        )
        try:
            _await_start(service, child, papers.state)
            self._servers[service.name] = papers.name
            yield endpoint
        finally:
            self._servers.pop(service.name, None)
            child.stop()
            self._bury(papers)

    def interior(self, role: str) -> Interior:
        if role not in self._interiors:
            self._interiors[role] = self._ask_inside(role)
        return self._interiors[role]

    def label(self, run: str) -> None:
        self._run_id = run

    def command(self, step: Step) -> str:
        return _by_hand(step.log.with_name(container.REQUEST))

    def _ask_inside(self, role: str) -> Interior:
        """The interior of the image of ``role``, from the image itself or from an earlier answer."""
        ready = self._images[role]
        sources = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in ASKED]
        answer = self._home / "interiors" / f"{value_digest([sources, ready])[:32]}.json"
        if not answer.is_file():
            answer.parent.mkdir(parents=True, exist_ok=True)
            # A folder for each attempt: another run may ask the same at this moment.
            with tempfile.TemporaryDirectory(dir=answer.parent) as folder:
                write_text(answer, self._asked(role, Path(folder) / "log.txt"))
        return interior.parse(answer.read_text(encoding="utf-8"))._replace(python=ready.python)

    def _asked(self, role: str, log: Path) -> str:
        """What the image of ``role`` says is in it."""
        argv = [self._images[role].python, "-m", interior.__name__]
        result = self.run(Step(f"looking into image '{role}'", argv, {}, log, needs=Needs(role)))
        said = last_object(log)
        if result.exit_code != 0 or not said:
            why = result.cause.text or log_tail(log, 3)
            raise MachineError(
                f"the image of role '{role}' cannot run this project: {why}",
                hint="take an image from containers/images.yaml, or one with Python 3.10 or newer",
                rule="image-program",
            )
        return said

    def _bury(self, papers: Papers) -> None:
        """Remove the container if its client did not live to do it."""
        if known_json(papers.state).get("state") in FINISHED:
            return
        write_json(papers.state, {"state": "lost", **LOST})
        with suppress(Exception):  # never created, or the engine is gone as well
            self._engine.client.api.remove_container(papers.name, force=True)

    def _papers(self, job: Step | Service, argv: Sequence[str], beside: Endpoint | None) -> Papers:
        """Write down what the client is to do."""
        name = f"speculators-{secrets.token_hex(6)}"
        ready = self._images[job.needs.role]
        box = request.Box(
            ready.id,
            argv,
            {"HF_HUB_CACHE": str(cache_folder(os.environ)), **job.env},
            f"{os.getuid()}:{os.getgid()}",
            job.needs.reads,
            job.needs.writes,
            self._run_id,
            job.name,
            job.needs.gpus,
            self._servers[beside.name] if beside else "",
        )
        body = request.create_body(box, self._limits, SOURCE, self._engine.kind, self._engine.version)
        serves = isinstance(job, Service)
        # A server and its client leave their papers in one folder.
        prefix = "server-" if serves else ""
        papers = Papers(
            job.log.with_name(prefix + container.REQUEST), job.log.with_name(prefix + container.STATE), name
        )
        papers.state.unlink(missing_ok=True)
        asked = {
            "name": name,
            "state": papers.state.name,
            "time_limit": None if serves else self._limits.time_limit,
            # Only a run's own steps see them, not what merely looks into an image.
            "secrets": list(self._limits.secrets) if self._run_id else [],
            "body": body,
        }
        write_json(papers.request, asked)
        return papers


def _await_start(service: Service, child: Child, state: Path) -> None:
    """Wait until the server's container runs: a client cannot join the network of one that does not."""
    while not (found := known_json(state)) and child.process.poll() is None:
        time.sleep(POLL_SECONDS)
    if found.get("state") in ("refused", "lost"):
        raise _refused(service.name, found)


def _by_hand(asked: Path) -> str:
    return command_text({}, [*CLIENT, str(asked)])


def _cause(state: Mapping[str, Any]) -> Cause:
    return Cause(state.get("cause", ""), state.get("hint", ""))


def _refused(name: str, state: Mapping[str, Any]) -> SpeculatorsError:
    """The engine never started the container: that is the machine's affair, or the recipe's."""
    error = BY_EXIT_CODE.get(int(state["error"]), MachineError)
    return error(f"{name}: {state['cause']}", hint=state["hint"], rule=state["rule"])
