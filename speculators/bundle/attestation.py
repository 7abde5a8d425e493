"""What a bundle claims, in the words that supply-chain tools read: in-toto statements, unsigned.

One says how the run came about (SLSA provenance), the other how its checks ended (a test result).  Who
signs them is the user's affair: an unsigned statement is a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from speculators.benchmark.checks import BREAKING
from speculators.bundle.contents import FILES, LOCK_NAME, Contents
from speculators.pipeline.record import RECORD_NAME

PROVENANCE_NAME = "attestation.json"
TESTS_NAME = "attestation-tests.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
#: docs/bundle.md says what the parameters of such a build mean.
BUILD_TYPE = "urn:speculators:build:run:v1"
BUILDER = "urn:speculators:builder:local"
PASSED, WARNED, FAILED = "passedTests", "warnedTests", "failedTests"


def provenance(contents: Contents, digests: Mapping[str, str]) -> dict[str, Any]:
    """How the checkpoint and the record came about."""
    record = contents.record
    return statement(
        contents,
        digests,
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": contents.recipe,
                    "overrides": record["recipe"]["overrides"],
                    "only": record.get("only", ""),
                },
                "internalParameters": {
                    "stages": {one["name"]: one["key"] for one in record["stages"] if "key" in one}
                },
                "resolvedDependencies": dependencies(contents, digests),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"speculators": record["tool"]["version"]}},
                "metadata": {
                    "invocationId": record["id"],
                    "startedOn": timestamp(record["started"]),
                    "finishedOn": timestamp(record["finished"]),
                },
                "byproducts": [resource(name, digests) for name in ("report.json", "report.md")],
            },
        },
    )


def test_result(contents: Contents, digests: Mapping[str, str]) -> dict[str, Any]:
    """How the checks of the measurement and of the checkpoint ended."""
    outcomes = check_outcomes(contents.report, contents.record)
    tests = {kind: [name for name, found in outcomes.items() if found == kind] for kind in KINDS}
    result = "FAILED" if tests[FAILED] else "WARNED" if tests[WARNED] else "PASSED"
    configuration = [resource("resolved.yaml", digests)]
    return statement(
        contents, digests, TEST_RESULT, {"result": result, "configuration": configuration, **tests}
    )


KINDS = (PASSED, WARNED, FAILED)


def statement(
    contents: Contents, digests: Mapping[str, str], kind: str, predicate: dict[str, Any]
) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": subjects(contents.weights, digests[RECORD_NAME]),
        "predicateType": kind,
        "predicate": predicate,
    }


def subjects(weights: Mapping[str, Mapping[str, Any]], record_sha256: str) -> list[dict[str, Any]]:
    """What the statements are about: the files of the checkpoint and the record."""
    named = {RECORD_NAME: record_sha256, **{name: file["sha256"] for name, file in weights.items()}}
    return [{"name": name, "digest": {"sha256": named[name]}} for name in sorted(named)]


def dependencies(contents: Contents, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the run started from, as far as the bundle knows it by digest."""
    verifier: dict[str, Any] = next(
        (one for one in contents.record["stages"] if one["name"] == "verifier"), {}
    )
    found = [resource(name, digests) for name in sorted(digests) if name.startswith(f"{FILES}/")]
    if LOCK_NAME in digests:
        found.append(resource(LOCK_NAME, digests))
    if result := verifier.get("result"):
        # Over the names and contents of all its files, so under a name of its own.
        found.append({"name": result["id"], "digest": {"speculatorsFiles": result["digest"]}})
    return found


def resource(name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digests[name]}}


def check_outcomes(report: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """Every check by name.  One that could not be made is a warning, not a success."""
    found = {}
    for check in report["summary"]["checks"]:
        failed = FAILED if check["name"] in BREAKING else WARNED
        found[f"benchmark: {check['name']}"] = (
            PASSED if check["ok"] else WARNED if check["ok"] is None else failed
        )
    package: dict[str, Any] = next(
        (one.get("result", {}) for one in record["stages"] if one["name"] == "package"), {}
    )
    for check in package.get("validation", ()):
        failed = WARNED if check["severity"] == "warning" else FAILED
        found[f"checkpoint: {check['name']}"] = PASSED if check["ok"] else failed
    return found


def timestamp(recorded: str) -> str:
    """A record's time as RFC 3339 wants it: with a colon in the offset."""
    return datetime.strptime(recorded, "%Y-%m-%dT%H:%M:%S%z").isoformat()
