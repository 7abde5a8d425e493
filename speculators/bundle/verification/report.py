"""The report's figures against the measurements that they are computed from."""

from __future__ import annotations

import math
from typing import Any

from speculators.bundle.verification.documents import MEASURED, Bundle
from speculators.pipeline.record import RECORD_NAME

#: Figures are read back from JSON; another version of scipy may differ in their last digits.
FIGURE_TOLERANCE = 1e-9


def check(bundle: Bundle) -> str:
    """The report's figures against the measurements that they are computed from."""
    record, report = bundle.object(RECORD_NAME), bundle.object("report.json")
    if report["run"] != record["id"]:
        bundle.fault("report.json", f"of another run than {RECORD_NAME}")
    if report["verdict"] != record.get("verdict"):
        bundle.fault("report.json", f"another verdict than in {RECORD_NAME}")
    measured = bundle.object(MEASURED)["result"]
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
            bundle.fault("report.json", f"its {name} does not follow from {MEASURED}")
    if not alike(figures["acceptance"]["served"], report["summary"]["acceptance"]["served"]):
        bundle.fault("report.json", f"its acceptance does not follow from {MEASURED}")
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
            bundle.fault(MEASURED, f"other figures than in {name}")


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
