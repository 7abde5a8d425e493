"""Container create bodies against the schema that the Docker Engine API publishes: 1.41, the oldest we speak.

``docker-1.41.json`` holds the definitions that a create body is made of, taken from the API's own
``api/swagger.yaml`` and made strict: an engine ignores a key that it does not know, and a limit that is
ignored is worse than one that is refused.  ``python -m tests.contracts.docker_api SWAGGER > FILE`` made it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, ValidationError

from speculators.recipe.suggestions import did_you_mean

SCHEMA = Path(__file__).parent / "docker-1.41.json"
ORIGIN = (
    "Docker Engine API 1.41: the definitions behind POST /containers/create in api/swagger.yaml of moby "
    "20.10.24, copyright Docker, Inc. and others, licence Apache-2.0; changed: descriptions and examples are "
    "left out, allOf is merged, unknown keys are refused"
)
#: What decides whether a value is accepted; all else in the file explains.
KEPT = ("type", "enum", "format", "minimum", "maximum", "pattern", "required", "$ref")


def problems(body: Mapping[str, Any]) -> list[str]:
    """What the published schema has against a create body: one line a place, unknown keys included."""
    return sorted({line for error in _validator().iter_errors(body) for line in _lines(error)})


def _lines(error: ValidationError) -> Iterator[str]:
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator != "additionalProperties":
        yield f"{place or 'the body'}: {error.message}"
        return
    known = list(error.schema["properties"])
    for name in sorted(set(error.instance) - set(known)):
        hint = did_you_mean(name, known)
        yield f"{place}.{name}".lstrip(".") + f": the API has no such key{f' ({hint})' if hint else ''}"


@cache
def _validator() -> Draft7Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def extracted(swagger: Mapping[str, Any]) -> dict[str, Any]:
    """The create body's schema as strict JSON Schema, with the definitions that it needs."""
    parameters = swagger["paths"]["/containers/create"]["post"]["parameters"]
    body = next(parameter["schema"] for parameter in parameters if parameter["name"] == "body")
    definitions: dict[str, Any] = {}
    top = _strict(body, swagger["definitions"])
    waiting = list(_references(top))
    while waiting:
        name = waiting.pop()
        if name not in definitions:
            definitions[name] = _strict(swagger["definitions"][name], swagger["definitions"])
            waiting += _references(definitions[name])
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": ORIGIN,
        **top,
        "definitions": {name: definitions[name] for name in sorted(definitions)},
    }


def _strict(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    schema = _merged(schema, definitions)
    strict: dict[str, Any] = {name: schema[name] for name in KEPT if name in schema}
    if properties := schema.get("properties"):
        strict["properties"] = {name: _strict(item, definitions) for name, item in properties.items()}
        strict["additionalProperties"] = False
    elif isinstance(rest := schema.get("additionalProperties"), Mapping):
        strict["additionalProperties"] = _strict(rest, definitions)
    if "items" in schema:
        strict["items"] = _strict(schema["items"], definitions)
    if schema.get("x-nullable"):
        return {"anyOf": [strict, {"type": "null"}]}
    return strict


def _merged(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with the parts of its ``allOf`` as one object: only so can unknown keys be refused."""
    whole = dict(schema)
    for part in whole.pop("allOf", ()):
        target = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        part = _merged(target, definitions)
        whole["type"] = part.get("type", "object")
        whole["properties"] = {**whole.get("properties", {}), **part.get("properties", {})}
    return whole


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if name == "$ref" and isinstance(value, str):
                yield value.rpartition("/")[2]
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


if __name__ == "__main__":
    import yaml

    document = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(extracted(document), indent=1))
