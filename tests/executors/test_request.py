"""What a container may do: closed unless a stage needs it, and nothing asked for that would be ignored."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from speculators.errors import MachineError, StageError
from speculators.executors.engine import DOCKER, PODMAN, Refusal, numbers, refusal, require_here
from speculators.executors.request import (
    LINK_DEPTH,
    PORT,
    Box,
    create_body,
    device_request,
    distinct,
    led_outside,
    limits,
)
from speculators.recipe.schema import apply_defaults, load_schema
from tests.contracts.docker_api import problems

BLOCK = load_schema()["properties"]["container"]


def a_limit(**container):
    return limits(apply_defaults(container, BLOCK))


def a_box(tmp_path: Path, **changes) -> Box:
    for name in ("in", "out"):
        (tmp_path / name).mkdir(exist_ok=True)
    box = Box(
        image="sha256:aa",
        argv=["python3", "-m", "speculators.stages", "x.json"],
        env={"NAME": "value"},
        user="12:34",
        reads=[tmp_path / "in"],
        writes=[tmp_path / "out"],
        run="run-1",
        name="stage 'training'",
    )
    return box._replace(**changes)


def test_a_stage_gets_its_folders_and_nothing_else(tmp_path: Path):
    body = create_body(a_box(tmp_path), a_limit(), tmp_path / "source")
    host = body["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert "Privileged" not in host
    assert "PortBindings" not in host
    mounts = {mount["Target"]: mount for mount in host["Mounts"]}
    assert {target: mount["ReadOnly"] for target, mount in mounts.items()} == {
        "/opt/speculators/speculators": True,
        str(tmp_path / "in"): True,
        str(tmp_path / "out"): False,
    }
    assert all(mount["Source"] == target for target, mount in mounts.items() if "opt" not in target)
    assert body["User"] == "12:34"
    assert "NAME=value" in body["Env"]


def test_a_client_joins_the_network_of_its_server(tmp_path: Path):
    body = create_body(a_box(tmp_path, beside="speculators-1"), a_limit(), tmp_path)
    assert body["HostConfig"]["NetworkMode"] == "container:speculators-1"
    assert PORT > 1024  # no capability is left that lower ports need


def test_limits_are_those_of_the_recipe(tmp_path: Path):
    limit = a_limit(memory="3G", shared_memory="64M", processes=100)
    host = create_body(a_box(tmp_path), limit, tmp_path)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (3 << 30, 3 << 30)
    assert (host["ShmSize"], host["PidsLimit"]) == (64 << 20, 100)
    assert "Memory" not in create_body(a_box(tmp_path), a_limit(), tmp_path)["HostConfig"]


def test_gpus_go_to_the_stages_that_compute_and_are_looked_for_inside(tmp_path: Path):
    limit = a_limit(gpus=2)
    with_gpus = create_body(a_box(tmp_path, gpus=True), limit, tmp_path)
    assert with_gpus["HostConfig"]["DeviceRequests"] == [
        {"Driver": "", "Count": 2, "Capabilities": [["gpu"]]}
    ]
    assert with_gpus["Cmd"][:5] == ["python3", "-m", "speculators.executors.require_gpus", "2", "--"]
    assert with_gpus["Cmd"][5:] == list(a_box(tmp_path).argv)
    for box, lim in ((a_box(tmp_path), limit), (a_box(tmp_path, gpus=True), a_limit())):
        without = create_body(box, lim, tmp_path)
        assert "DeviceRequests" not in without["HostConfig"]
        assert without["Cmd"] == list(box.argv)


def test_podman_is_asked_by_device_name_and_refused_where_it_would_not_listen():
    assert device_request("all", DOCKER, "20.10")["Count"] == -1
    assert device_request("all", PODMAN, "5.4.2")["DeviceIDs"] == ["nvidia.com/gpu=all"]
    assert device_request(2, PODMAN, "5.0")["DeviceIDs"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    with pytest.raises(MachineError, match=r"Podman 4\.3\.1 ignores requests for GPUs"):
        device_request(1, PODMAN, "4.3.1")


@pytest.mark.parametrize(
    ("kind", "place", "is_refused"),
    [
        (PODMAN, "tcp://10.0.0.7:2375", True),
        (PODMAN, "ssh://somebody@there", True),
        (PODMAN, "unix:///run/podman/podman.sock", False),
        (PODMAN, "", False),
        (DOCKER, "tcp://127.0.0.1:2375", False),
    ],
)
def test_podman_elsewhere_is_refused_for_it_makes_folders_of_what_it_lacks(kind, place, is_refused):
    with pytest.raises(MachineError, match="empty folders") if is_refused else nullcontext():
        require_here(kind, place)


def test_the_values_of_secrets_are_no_part_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    assert "hf_abcdef" not in str(create_body(a_box(tmp_path), a_limit(secrets=["HF_TOKEN"]), tmp_path))


def test_a_folder_that_another_one_brings_along_is_not_mounted_twice(tmp_path: Path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert distinct([inner, tmp_path / "a", inner], []) == [tmp_path / "a"]
    assert distinct([inner], [tmp_path / "a"]) == []
    assert distinct([tmp_path / "a"], [inner]) == [tmp_path / "a"]  # a writable part of a folder to read


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A cached repository of the hub's client, with one snapshot."""
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / "c0"
    blobs = snapshot.parents[1] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for name in ("aa", "bb"):
        (blobs / name).write_text(name)
    (snapshot / "config.json").symlink_to("../../blobs/aa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/bb")
    return snapshot.parents[1]


def test_blobs_that_a_snapshot_links_to_come_along_and_nothing_beside_them(repository: Path, tmp_path: Path):
    snapshot, blobs = repository / "snapshots" / "c0", repository / "blobs"
    (blobs / "other").write_text("of another snapshot")
    body = create_body(a_box(tmp_path, reads=[snapshot]), a_limit(), tmp_path / "source")
    bound = {one["Target"]: one["Source"] for one in body["HostConfig"]["Mounts"] if one["ReadOnly"]}
    assert bound.pop("/opt/speculators/speculators") == str(tmp_path / "source")
    assert bound == {str(path): str(path) for path in (snapshot, blobs / "aa", blobs / "bb")}


def test_what_is_mounted_already_comes_along_once(repository: Path):
    snapshot, blobs = repository / "snapshots" / "c0", repository / "blobs"
    assert led_outside([repository], []) == {}
    assert led_outside([snapshot, blobs], []) == {}
    assert led_outside([snapshot], [blobs]) == {}
    assert list(led_outside([snapshot, blobs / "aa"], [])) == [str(blobs / "bb")]


def test_a_folder_that_is_itself_a_link_leads_on_from_its_own_name(repository: Path, tmp_path: Path):
    mine = tmp_path / "mine" / "models" / "tiny"
    mine.parent.mkdir(parents=True)
    mine.symlink_to(repository / "snapshots" / "c0")
    # Inside, there is nothing but a folder at that place: ``../..`` is above it, not above the snapshot.
    assert led_outside([mine], []) == {
        str(tmp_path / "mine" / "blobs" / name): repository / "blobs" / name for name in ("aa", "bb")
    }


def test_links_are_followed_through_folders_and_over_links_but_not_without_end(tmp_path: Path):
    given, far = tmp_path / "given", tmp_path / "far"
    deep = given.joinpath(*"abcdef"[:LINK_DEPTH])
    for folder in (deep / "deeper", far / "folder"):
        folder.mkdir(parents=True)
    for name in ("one", "two", "three"):
        (far / name).touch()
    (far / "again").symlink_to("one")
    (deep / "x").symlink_to(far / "again")  # over a second link: inside, a file is where that one was
    (deep / "deeper" / "y").symlink_to(far / "two")  # too deep
    (given / "folder").symlink_to(far / "folder")
    (far / "folder" / "z").symlink_to("../three")
    (far / "folder" / "round").symlink_to(given)
    assert led_outside([given], []) == {
        str(far / "again"): far / "one",
        str(far / "folder"): far / "folder",
        str(far / "three"): far / "three",
    }


def test_links_upwards_and_to_nothing_bring_nothing_along(tmp_path: Path):
    given = tmp_path / "given"
    given.mkdir()
    for name, target in (("up", ".."), ("root", "/"), ("gone", "../gone"), ("loop", "loop")):
        (given / name).symlink_to(target)
    assert led_outside([given, tmp_path / "a file"], []) == {}


def test_a_vanished_input_is_named_before_an_engine_makes_an_empty_folder_of_it(tmp_path: Path):
    with pytest.raises(StageError, match="absent: gone, or never there"):
        create_body(a_box(tmp_path, reads=[tmp_path / "absent"]), a_limit(), tmp_path)


@pytest.mark.parametrize(
    ("said", "rule", "exit_code"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "no-gpu", 4),
        ('invalid mount config for type "bind": bind source path does not exist: /x', "engine-elsewhere", 4),
        ('exec: "python9": executable file not found in $PATH: unknown', "image-program", 4),
        ("write /data: no space left on device", "storage", 4),
        (
            "container-init binary not found on the host: stat /x: no such file or directory",
            "engine-setup",
            4,
        ),
        ("error setting rlimit type 7: operation not permitted: OCI permission denied", "engine-setup", 4),
        ("something new", "engine", 3),
    ],
)
def test_an_engines_refusal_becomes_a_cause_with_a_way_out(said: str, rule: str, exit_code: int):
    found = refusal(said)
    assert (found.rule, found.exit_code) == (rule, exit_code)
    assert said in found.message
    assert found.hint or rule == "engine"


@pytest.mark.parametrize(
    ("version", "found"),
    [("20.10.24+dfsg1", (20, 10, 24)), ("5.4.2", (5, 4, 2)), ("1.41", (1, 41)), ("x", ())],
)
def test_versions_are_compared_by_their_numbers(version: str, found: tuple[int, ...]):
    assert numbers(version) == found


def test_every_refusal_has_words_in_small_letters():
    from speculators.executors.engine import REFUSALS

    assert all(isinstance(row, Refusal) and row.words == tuple(map(str.lower, row.words)) for row in REFUSALS)


@pytest.mark.parametrize("container", [{}, {"memory": "8G", "gpus": "all", "secrets": ["HF_TOKEN"]}])
def test_the_engines_published_schema_knows_everything_that_is_asked(tmp_path: Path, container):
    for box in (a_box(tmp_path, gpus=True), a_box(tmp_path, beside="server")):
        assert problems(create_body(box, a_limit(**container), tmp_path)) == []
