"""Create bodies against the published schema: what it lets pass and what it names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contracts.docker_api import SCHEMA, extracted, problems


def body(**host: Any) -> dict[str, Any]:
    """A create body as a locked-down stage has it, with a few host settings of a test."""
    return {
        "Image": "sha256:" + "0" * 64,
        "Entrypoint": [],
        "Cmd": ["python3", "-m", "speculators.stages"],
        "Env": ["HOME=/tmp"],
        "User": "1000:1000",
        "Labels": {"org.speculators.run": "r1"},
        "HostConfig": {
            "Mounts": [{"Type": "bind", "Source": "/data", "Target": "/data", "ReadOnly": True}],
            "Tmpfs": {"/tmp": "rw,exec"},
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Init": True,
            "PidsLimit": 512,
            "ShmSize": 67108864,
            "Memory": 2**30,
            "DeviceRequests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}],
            **host,
        },
    }


def test_a_locked_down_stage_has_no_problems() -> None:
    assert problems(body()) == []
    assert problems(body(Init=None, PidsLimit=None)) == []  # the API says: may be null


@pytest.mark.parametrize(
    ("host", "found"),
    [
        (
            {"Memorry": 1},
            "HostConfig.Memorry: the API has no such key (did you mean 'Memory'?)",
        ),
        ({"Memory": "1g"}, "HostConfig.Memory: '1g' is not of type 'integer'"),
        ({"ReadonlyRootfs": "yes"}, "HostConfig.ReadonlyRootfs: 'yes' is not of type 'boolean'"),
        ({"ShmSize": -1}, "HostConfig.ShmSize: -1 is less than the minimum of 0"),
        ({"CapDrop": "ALL"}, "HostConfig.CapDrop: 'ALL' is not of type 'array'"),
        (
            {"DeviceRequests": [{"Capabilities": ["gpu"]}]},
            "HostConfig.DeviceRequests.0.Capabilities.0: 'gpu' is not of type 'array'",
        ),
        (
            {"DeviceRequests": [{"Counts": 1}]},
            "HostConfig.DeviceRequests.0.Counts: the API has no such key (did you mean 'Count'?)",
        ),
        (
            {"Mounts": [{"Type": "file", "Source": "/a", "Target": "/a"}]},
            "HostConfig.Mounts.0.Type: 'file' is not one of ['bind', 'volume', 'tmpfs', 'npipe']",
        ),
        ({"Tmpfs": {"/tmp": True}}, "HostConfig.Tmpfs./tmp: True is not of type 'string'"),
    ],
)
def test_what_an_engine_would_ignore_or_refuse_is_named_at_its_place(
    host: dict[str, Any], found: str
) -> None:
    assert problems(body(**host)) == [found]


def test_unknown_keys_are_found_at_the_top_too() -> None:
    assert problems({**body(), "Entrypoints": []}) == [
        "Entrypoints: the API has no such key (did you mean 'Entrypoint'?)"
    ]
    assert problems({**body(), "Cmd": 5}) != []


def test_every_problem_is_said() -> None:
    assert len(problems({**body(Memory="1g", Nonsense=1), "Image": 7})) == 3


def test_extraction_merges_parts_refuses_unknown_keys_and_keeps_what_is_needed() -> None:
    swagger = {
        "paths": {
            "/containers/create": {
                "post": {
                    "parameters": [
                        {"name": "name"},
                        {
                            "name": "body",
                            "schema": {
                                "allOf": [
                                    {"$ref": "#/definitions/Base"},
                                    {
                                        "type": "object",
                                        "properties": {"More": {"$ref": "#/definitions/Part"}},
                                    },
                                ],
                                "example": {},
                            },
                        },
                    ]
                }
            }
        },
        "definitions": {
            "Base": {"type": "object", "properties": {"Kept": {"type": "string", "description": "words"}}},
            "Part": {"type": "object", "additionalProperties": {"type": "integer"}},
            "Other": {"type": "object"},
        },
    }
    schema = extracted(swagger)
    assert schema["properties"] == {"Kept": {"type": "string"}, "More": {"$ref": "#/definitions/Part"}}
    assert schema["additionalProperties"] is False
    assert schema["definitions"] == {"Part": {"type": "object", "additionalProperties": {"type": "integer"}}}


def test_the_committed_schema_is_small_and_says_where_it_is_from() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "Apache-2.0" in json.loads(text)["$comment"]
