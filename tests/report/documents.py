"""Report documents for tests of the page: a small real run's, and one whose every text is hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from speculators.documents import read_json
from speculators.recipe.yaml_writer import dump_yaml
from speculators.report.document import write_report

DATA = Path(__file__).parent / "data"
PLACES = {
    "benchmark.json": "bench/output.json",
    "replay.json": "stages/replay/output/replay.json",
    "metrics.jsonl": "stages/training/metrics.jsonl",
}
#: What a prompt, an answer, a name or a file of a stranger may try.
ATTACKS = (
    "</p></pre></details></style></title><script>document.title='owned'</script>",
    "\"'><img src=http://203.0.113.1/x.png onerror=\"document.title='owned'\">",
    "<svg onload=document.title='owned'><iframe src=http://203.0.113.1/></iframe>",
    "{{ 7 * 7 }}{% raw %}]]><!-- &lt;b&gt; \x00\x1b[31m\u202eright to left\u200b",
    "x" * 300,
)


def run_folder(folder: Path) -> Path:
    """A run folder as far as the report reads it."""
    for name, place in PLACES.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / name, folder / place)
    return folder


def record() -> dict[str, Any]:
    document: dict[str, Any] = read_json(DATA / "run.json")
    return document


def with_examples(folder: Path, examples: dict[str, Any] | None = None) -> Path:
    """A run folder with a training's course and drafts word by word, those of a real run unless given."""
    run_folder(folder)
    shutil.copy(DATA / "course.jsonl", folder / PLACES["metrics.jsonl"])
    place = folder / PLACES["replay.json"]
    replay = read_json(place) | (examples or read_json(DATA / "examples.json"))
    place.write_text(json.dumps(replay), encoding="utf-8")
    (folder / "recipe.yaml").write_text("# as written\nname: a-draft\n", encoding="utf-8")
    (folder / "resolved.yaml").write_text("name: a-draft\ndescription: ''\n", encoding="utf-8")
    return folder


def hostile(folder: Path) -> dict[str, Any]:
    """The document of a run in which strangers chose every text; its reports lie in ``folder``."""
    words = [[place, 1, attack] for place, attack in enumerate(ATTACKS, 1)]
    example = {"id": ATTACKS[1], "looping": True, "prompt": "\n".join(ATTACKS), "tokens": list(ATTACKS)}
    example |= {"cut": 3, "drafts": words}
    counts = {"id": ATTACKS[1], "looping": False, "tokens": 5, "drafts": 4, "accepted": 1}
    with_examples(folder, {"examples": {"worst": [example], "best": [example]}, "prompts": [counts]})
    place = folder / PLACES["benchmark.json"]
    benchmark = read_json(place)
    first = benchmark["result"]["samples"][0]["requests"][0]["id"]
    renamed = json.dumps(benchmark).replace(json.dumps(first), json.dumps(ATTACKS[0]))
    place.write_text(renamed, encoding="utf-8")
    (folder / "recipe.yaml").write_text("\n".join(ATTACKS), encoding="utf-8")
    (folder / "resolved.yaml").write_text(dump_yaml({"description": list(ATTACKS)}), encoding="utf-8")
    strange = record()
    strange["recipe"] |= {"name": ATTACKS[0], "overrides": list(ATTACKS)}
    strange["machine"] |= {"processor": ATTACKS[1], "system": ATTACKS[2]}
    image = {"reference": ATTACKS[0], "digest": ATTACKS[1], "tested": False}
    strange["images"] = {ATTACKS[2]: image}
    for stage in strange["stages"]:
        stage.get("result", {}).update({"dropped": {ATTACKS[1]: ATTACKS[0]}})
    return write_report(folder, strange)
