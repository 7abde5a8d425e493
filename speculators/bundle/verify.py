"""Is a bundle what it says?  Every byte, every digest and schema, and what follows from what; offline.

The order matters: nothing of a document is believed before its bytes are, and bytes are not looked at before
the archive is one.  What this cannot show is said as plainly as what it did: nobody signed it, and nobody but
a repeated run knows whether the figures are true.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from speculators.bundle.archive import (
    SUMS_LINE,
    SUMS_NAME,
    Archive,
    DamagedBundleError,
    name_fault,
    read_archive,
    sums_text,
)
from speculators.bundle.attestation import (
    PROVENANCE,
    PROVENANCE_NAME,
    STATEMENT,
    TEST_RESULT,
    TESTS_NAME,
    subjects,
)
from speculators.bundle.contents import FILES, LOCK_NAME, RESOLVED_NAME, place_files
from speculators.bundle.create import BUNDLE_NAME
from speculators.bundle.schemas import published_schema, schema_fault
from speculators.documents import value_digest
from speculators.pipeline.record import RECORD_NAME
from speculators.recipe.diagnostics import has_errors
from speculators.recipe.validation import validate
from speculators.recipe.yaml_loader import load_yaml

VERIFY_SCHEMA = "speculators/verify/v1"
REQUIRED = (RECORD_NAME, RESOLVED_NAME, "recipe.yaml", "report.json", "bench/output.json")
#: Figures are read back from JSON; another version of scipy may differ in their last digits.
FIGURE_TOLERANCE = 1e-9


class Verified(NamedTuple):
    """A sound bundle, what was checked, and what could not be."""

    archive: Archive
    description: dict[str, Any]
    checked: tuple[str, ...]
    not_checked: tuple[str, ...]

    def json(self, name: str) -> dict[str, Any]:
        """The document ``name``; empty when the bundle has none."""
        return Bundle(self.archive).object(name) if name in self.archive.members else {}

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema": VERIFY_SCHEMA,
            "bundle": self.archive.path.name,
            "run": self.description["run"],
            "ok": True,
            "checked": list(self.checked),
            "not_checked": list(self.not_checked),
        }


class Bundle:
    """The parsed documents of a whole archive, and the faults found in them."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.faults: list[str] = []
        self.open: list[str] = []  # what could not be checked

    def has(self, name: str) -> bool:
        return name in self.archive.members

    def digest(self, name: str) -> str:
        return self.archive.members[name].sha256

    def json(self, name: str) -> Any:
        """The JSON document ``name``.

        Raises:
            DamagedBundleError: it is none.
        """
        try:
            return json.loads(self.archive.read(name))
        except (ValueError, RecursionError) as error:
            raise DamagedBundleError(f"{self.archive.path.name}: {name}: not JSON: {error}") from None

    def object(self, name: str) -> dict[str, Any]:
        document = self.json(name)
        if not isinstance(document, dict):
            raise DamagedBundleError(f"{self.archive.path.name}: {name}: not a JSON object")
        return document

    def fault(self, name: str, text: str) -> None:
        self.faults.append(f"{name}: {text}")

    def require(self) -> None:
        """Stop at what was found so far: what comes next builds on it.

        Raises:
            DamagedBundleError: naming every fault.
        """
        if self.faults:
            lines = self.faults if len(self.faults) == 1 else ["", *self.faults]
            raise DamagedBundleError(f"{self.archive.path.name}: " + "\n  ".join(lines))


def verify(path: Path) -> Verified:
    """Check the bundle in file ``path``.

    Raises:
        DamagedBundleError: naming the files in it that are not as they should be.
        OSError: the file cannot be read.
    """
    bundle = Bundle(read_archive(path))
    checked = [f"archive: {len(bundle.archive.members)} plain files, every byte accounted for"]
    for check in CHECKS:
        try:
            said = check(bundle)
        except (KeyError, TypeError, AttributeError, IndexError) as error:  # a document of another shape
            kind = type(error).__name__
            raise DamagedBundleError(
                f"{path.name}: its documents do not fit together: {kind} {error}"
            ) from None
        bundle.require()
        checked.append(said)
    return Verified(bundle.archive, bundle.object(BUNDLE_NAME), tuple(checked), tuple(bundle.open))


def check_digests(bundle: Bundle) -> str:
    """Two lists of digests, one of which covers the other: a changed list can be told from a changed file."""
    actual = {name: member.sha256 for name, member in bundle.archive.members.items() if name != SUMS_NAME}
    for name in (SUMS_NAME, BUNDLE_NAME):
        if not bundle.has(name):
            bundle.fault(name, "it is missing")
    bundle.require()
    sums = dict(sums_lines(bundle))
    bundle.require()
    listed = listed_digests(bundle) if sums.get(BUNDLE_NAME) == actual[BUNDLE_NAME] else None
    if listed is None:
        bundle.fault(
            BUNDLE_NAME, f"it does not have the digest that {SUMS_NAME} says: one of the two was changed"
        )
    for name in sorted((actual.keys() | sums.keys() | (listed or {}).keys()) - {BUNDLE_NAME}):
        digests = [actual.get(name), sums.get(name), None if listed is None else listed.get(name)]
        compare(bundle, name, *digests, trusted=listed is not None)
    if not bundle.faults and bundle.archive.read(SUMS_NAME) != sums_text(actual).encode():
        bundle.fault(SUMS_NAME, "not as it was written")
    return f"digests: {len(actual)} files against {SUMS_NAME} and {BUNDLE_NAME}"


def compare(
    bundle: Bundle, name: str, actual: str | None, summed: str | None, listed: str | None, *, trusted: bool
) -> None:
    """One member against the two lists; ``trusted``: whether the second is sound."""
    if actual == summed == listed or (actual == summed and not trusted):
        return
    if actual is None:
        bundle.fault(name if listed or not trusted else SUMS_NAME, f"{name} is missing")
    elif actual == listed:
        bundle.fault(SUMS_NAME, f"its line of {name} is not as it was written")
    elif listed is None and summed is None and trusted:
        bundle.fault(name, "it is on no list of the bundle's files")
    elif actual == summed:
        bundle.fault(BUNDLE_NAME, f"it lists another digest of {name}")
    else:
        bundle.fault(name, f"it has other bytes than {SUMS_NAME} says")


def sums_lines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    text = bundle.archive.read(SUMS_NAME).decode(errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        match = SUMS_LINE.fullmatch(line)
        if match is None or name_fault(match[2]):
            bundle.fault(SUMS_NAME, f"line {number} is no digest and name")
        else:
            yield match[2], match[1]


def listed_digests(bundle: Bundle) -> dict[str, str]:
    """What ``bundle.json`` lists, once that is what it should be."""
    document = bundle.object(BUNDLE_NAME)
    if fault := schema_fault(document, "bundle"):
        bundle.fault(BUNDLE_NAME, fault)
        bundle.require()
    return {name: entry["sha256"] for name, entry in document["members"].items()}


def check_schemas(bundle: Bundle) -> str:
    """Every document against the schema that is published for it."""
    for name in REQUIRED:
        if not bundle.has(name):
            bundle.fault(name, "it is missing")
    bundle.require()
    documents = {RECORD_NAME: "run"} | {
        name: "stage-output" for name in bundle.archive.members if is_sealed_output(name)
    }
    for name, schema in documents.items():
        if fault := schema_fault(bundle.object(name), schema):
            bundle.fault(name, fault)
    recipe = load_yaml(text_of(bundle, RESOLVED_NAME), RESOLVED_NAME)
    found = [*recipe.diagnostics, *validate(recipe.data, recipe.positions, recipe.spoiled).diagnostics]
    if has_errors(found):
        bundle.fault(RESOLVED_NAME, f"{found[0].message} (line {found[0].line})")
    checked = len(documents) + 2
    if bundle.has(LOCK_NAME):
        checked += check_lock_schema(bundle)
    return f"schemas: {checked} documents"


def check_lock_schema(bundle: Bundle) -> int:
    if published_schema("lock") is None:
        bundle.open.append(f"{LOCK_NAME}: this version knows no schema of locks")
        return 0
    lock = load_yaml(text_of(bundle, LOCK_NAME), LOCK_NAME)
    if has_errors(lock.diagnostics):
        bundle.fault(LOCK_NAME, lock.diagnostics[0].message)
    elif fault := schema_fault(lock.data, "lock"):
        bundle.fault(LOCK_NAME, fault)
    return 1


def text_of(bundle: Bundle, name: str) -> str:
    try:
        return bundle.archive.read(name).decode()
    except UnicodeDecodeError:
        raise DamagedBundleError(f"{bundle.archive.path.name}: {name}: not UTF-8 text") from None


def is_sealed_output(name: str) -> bool:
    """Whether a member is the document with which a stage sealed its output; a benchmark's own is none."""
    return name.endswith("/output.json") and name != "bench/output.json"


def check_record(bundle: Bundle) -> str:
    """The record against the recipe, the keys and the sealed outputs."""
    record, description = bundle.object(RECORD_NAME), bundle.object(BUNDLE_NAME)
    if record["status"] != "ok":
        bundle.fault(RECORD_NAME, f"the run is '{record['status']}', not finished")
    told = {"run": record["id"], "recipe": record["recipe"], "tool": record["tool"]}
    for name in ("sha256", "name"):
        if description["recipe"][name] != told["recipe"][name]:
            bundle.fault(BUNDLE_NAME, f"another recipe than in {RECORD_NAME}")
    if (description["run"], description["tool"]) != (told["run"], told["tool"]):
        bundle.fault(BUNDLE_NAME, f"another run than in {RECORD_NAME}")
    check_recipe_digest(bundle, record, description)
    for stage in record["stages"]:
        check_stage(bundle, stage, rewritten(description))
    check_lock_digest(bundle, record, description)
    return f"record: recipe, {sum('key' in stage for stage in record['stages'])} keys and sealed outputs"


def check_recipe_digest(bundle: Bundle, record: dict[str, Any], description: dict[str, Any]) -> None:
    if RESOLVED_NAME in rewritten(description):
        bundle.open.append(f"{RESOLVED_NAME}: the recipe's digest, since paths in it were shortened")
        return
    # Without the defaults of this version: it may know keys that the run's did not.
    data = load_yaml(text_of(bundle, RESOLVED_NAME), RESOLVED_NAME).data
    if value_digest(data) != record["recipe"]["sha256"]:
        bundle.fault(RESOLVED_NAME, f"not the recipe that {RECORD_NAME} names")


def check_lock_digest(bundle: Bundle, record: dict[str, Any], description: dict[str, Any]) -> None:
    sealed = record.get("lock", {}).get("sha256")
    if sealed and not bundle.has(LOCK_NAME):
        bundle.fault(LOCK_NAME, "it is missing")
    elif sealed and sealed not in (bundle.digest(LOCK_NAME), rewritten(description).get(LOCK_NAME)):
        bundle.fault(LOCK_NAME, f"not the lock that {RECORD_NAME} names")
    elif not sealed:
        bundle.open.append("lock: the run has none, so models and packages are named by its keys only")


def check_stage(bundle: Bundle, stage: dict[str, Any], was: dict[str, str]) -> None:
    """A stage of the record against its key and its sealed output."""
    key, output = (f"stages/{stage['name']}/{name}.json" for name in ("key", "output"))
    # An accepted output stands for a key that is not its own.
    if "key" in stage and bundle.has(key) and stage["action"] != "accepted":
        if key in was:
            bundle.open.append(f"{key}: the key's digest, since paths in it were shortened")
        elif value_digest(bundle.object(key)) != stage["key"]:
            bundle.fault(key, f"not the key that {RECORD_NAME} names")
    if bundle.has(output) and stage.get("result") != bundle.object(output)["result"]:
        bundle.fault(output, f"another result than in {RECORD_NAME}")


def check_outputs(bundle: Bundle) -> str:
    """Sealed outputs against their own digests, and against the files of theirs that are here."""
    description = bundle.object(BUNDLE_NAME)
    was, sealed_files = rewritten(description), 0
    outputs = [name for name in bundle.archive.members if is_sealed_output(name)]
    for name in outputs:
        document = bundle.object(name)
        own = document.pop("digest")
        if own != value_digest(document) and name not in was:
            bundle.fault(name, "not as the stage sealed it")
        folder = name.rpartition("/")[0]
        for file, sealed in document["files"].items():
            member = f"{folder}/{file}"
            if bundle.has(member):
                sealed_files += 1
                if sealed["sha256"] not in (bundle.digest(member), was.get(member)):
                    bundle.fault(member, f"not the file that {name} names")
    return f"outputs: {len(outputs)} seals, {sealed_files} of their files"


def rewritten(description: dict[str, Any]) -> dict[str, str]:
    """Digest in the run folder of every member whose paths were replaced."""
    return {name: entry["was"] for name, entry in description["members"].items() if "was" in entry}


def check_files(bundle: Bundle) -> str:
    """The prompt files against the key of the stage that read them."""
    description, count = bundle.object(BUNDLE_NAME), 0
    check_places(bundle, description)
    sealed = (
        bundle.object("stages/prompts/key.json")["files"] if bundle.has("stages/prompts/key.json") else {}
    )
    for path, names in description["files"].items():
        digests = sealed.get(path, [])
        if len(digests) != len(names):
            bundle.fault("stages/prompts/key.json", f"{len(digests)} files for {path}, not {len(names)}")
        for name, digest in zip(names, digests):
            count += 1
            if not bundle.has(name):
                bundle.fault(name, "it is missing")
            elif bundle.digest(name) != digest:
                bundle.fault(name, f"not the file that the run used for {path}")
    bundle.open += [f"{path}: named by the recipe, not in the bundle" for path in description["needs"]]
    return f"prompts: {count} files against the key of stage 'prompts'"


def check_places(bundle: Bundle, description: dict[str, Any]) -> None:
    """Below ``files/``, which is unpacked, are the recipe's own files at their places and no others."""
    places = place_files(load_yaml(text_of(bundle, RESOLVED_NAME), RESOLVED_NAME).data)
    if (description["recipe_folder"], description["files"]) != places:
        bundle.fault(BUNDLE_NAME, f"other prompt files than {RESOLVED_NAME} names")
    named = {name for names in places.names.values() for name in names}
    for name in bundle.archive.members:
        if name.startswith(f"{FILES}/") and name not in named:
            bundle.fault(name, "no file that the recipe names")


def check_report(bundle: Bundle) -> str:
    """The report's figures against the measurements that they are computed from."""
    record, report = bundle.object(RECORD_NAME), bundle.object("report.json")
    if report["run"] != record["id"]:
        bundle.fault("report.json", f"of another run than {RECORD_NAME}")
    if report["verdict"] != record.get("verdict"):
        bundle.fault("report.json", f"another verdict than in {RECORD_NAME}")
    measured = bundle.object("bench/output.json")["result"]
    samples = {(one["round"], one["arm"], one["concurrency"]): one for one in measured["samples"]}
    launches = [one["folder"] for one in measured["rounds"]]
    for launch in launches:
        check_launch(bundle, f"bench/{launch}/client/result.json", samples)
    try:
        from speculators.benchmark.summary import summarise

        figures = summarise(measured)
    except ImportError as error:
        bundle.open.append(
            f"report.json: whether its figures follow from the measurements: no {error.name} here"
        )
        return f"report: {len(launches)} launches"
    for name in ("speed", "overall_speedup"):
        if not alike(headline(figures[name]), headline(report["summary"][name])):
            bundle.fault("report.json", f"its {name} does not follow from bench/output.json")
    if not alike(figures["acceptance"]["served"], report["summary"]["acceptance"]["served"]):
        bundle.fault("report.json", "its acceptance does not follow from bench/output.json")
    return f"report: its figures follow from {len(launches)} launches"


def check_launch(bundle: Bundle, name: str, samples: dict[Any, dict[str, Any]]) -> None:
    """The result document of a launch against the samples made of it."""
    if not bundle.has(name):
        bundle.fault(name, "it is missing")
        return
    one = bundle.object(name)
    for load in one["loads"]:
        sample = samples.get((one["round"], one["arm"], load["concurrency"]), {})
        if any(sample.get(key) != load[key] for key in load if key != "requests"):
            bundle.fault("bench/output.json", f"other figures than in {name}")


def headline(speed: Any) -> Any:
    """What of a speed is compared: the ratios, for the rest may be spelled differently by another version."""
    if isinstance(speed, list):
        return [{"concurrency": one["concurrency"], "speedup": one["speedup"]} for one in speed]
    return speed


def alike(left: Any, right: Any) -> bool:
    """Equal, but for the last digits of a number."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, float) and isinstance(right, (int, float)):
        return math.isclose(left, right, rel_tol=FIGURE_TOLERANCE)
    return bool(left == right)


def check_provenance(bundle: Bundle) -> str:
    """The two statements against the files that they speak of."""
    description = bundle.object(BUNDLE_NAME)
    weights = description["weights"]
    sealed = bundle.object("stages/package/output.json")["files"] if weights else {}
    for name, entry in weights.items():
        if sealed.get(name) != entry:
            bundle.fault(BUNDLE_NAME, f"another {name} than stage 'package' sealed")
        if bundle.has(name) and bundle.digest(name) != entry["sha256"]:
            bundle.fault(name, "not the file that stage 'package' sealed")
    expected = subjects(weights, bundle.digest(RECORD_NAME))
    for name, kind in ((PROVENANCE_NAME, PROVENANCE), (TESTS_NAME, TEST_RESULT)):
        statement = bundle.object(name)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT, kind):
            bundle.fault(name, "not the statement that it should be")
        if statement["subject"] != expected:
            bundle.fault(name, "its subjects are not the files of this bundle")
    absent = [name for name in weights if not bundle.has(name)]
    if absent:
        bundle.open.append(f"weights: {len(absent)} files are named by digest only ({', '.join(absent)})")
    bundle.open += [
        "unsigned: nothing shows who made the bundle",
        "whether the measurements are true: 'speculators run BUNDLE' repeats them",
    ]
    return f"provenance: 2 statements, {len(expected)} subjects"


CHECKS: tuple[Callable[[Bundle], str], ...] = (
    check_digests,
    check_schemas,
    check_record,
    check_outputs,
    check_files,
    check_report,
    check_provenance,
)
