"""Stage ``prompts``: what will be asked, for training and for the benchmark, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from speculators.datagen.benchmark_prompts import benchmark_prompts, random_prompts
from speculators.datagen.chat import template_arguments, thinking_modes
from speculators.datagen.continuation import remove_others
from speculators.datagen.magpie import SOURCE as MAGPIE
from speculators.datagen.magpie import collect, opening, remembered, sampler
from speculators.datagen.prompt_sets import Columns
from speculators.datagen.prompts import Prompt, question, read_prompts
from speculators.datagen.selection import Selection, unique_prompts
from speculators.datagen.splits import validation_topics
from speculators.documents import write_json, write_jsonl
from speculators.errors import RecipeError
from speculators.stages.documents import StageInput

CONTINUES = True

TRAIN = "train.jsonl"
BENCHMARK = "benchmark.jsonl"


def run(step: StageInput) -> dict[str, Any]:
    """Leave ``benchmark.jsonl`` and, if the recipe trains, ``train.jsonl`` and ``ledger.json``."""
    remove_others(step.output, {step.work.name})
    benchmark = _benchmark(step)
    asked = [prompt._replace(messages=question(prompt.messages)) for prompt in benchmark]
    write_jsonl(step.output / BENCHMARK, [prompt.row("benchmark") for prompt in asked])
    result: dict[str, Any] = {"benchmark": len(benchmark)}
    if "datagen" not in step.values:
        return result
    _require_teachable(step)
    settings = step.values["datagen"]["prompts"]
    written = read_prompts(step.files.get("datagen.prompts.files", []))[: settings.get("limit")]
    selection = Selection(benchmark, written)
    for prompt in written:
        selection.offer(prompt)
    wanted = settings.get("magpie", {}).get("count", 0)
    if wanted:
        _write_own(step, settings, selection)
    rows = _split(selection.kept, settings)
    write_jsonl(step.output / TRAIN, rows)
    ledger = selection.ledger()
    write_json(step.output / "ledger.json", ledger)
    splits = {name: sum(row["split"] == name for row in rows) for name in ("train", "validation")}
    print(f"prompts: {splits}, {ledger['sources']}", flush=True)
    return {**result, **splits, "sources": ledger["sources"], "magpie_wanted": wanted}


def _require_teachable(step: StageInput) -> None:
    """Refuse a verifier that training would refuse, before anything is generated for it.

    Raises:
        StageError: its embedding, norm or head cannot be borrowed, or its logits are not theirs.
    """
    from speculators.checkpoint.verifier_weights import load_verifier_weights

    load_verifier_weights(step.inputs["verifier"] / "model")


def _benchmark(step: StageInput) -> list[Prompt]:
    values, files = step.values["benchmark"], step.files.get("benchmark.prompts", [])
    read_as = values.get("read_as") or [None] * len(files)
    if isinstance(text := read_as[0], dict):
        return _random_text(step, int(text["prompt_tokens"]), text["requests"])
    requests = values["requests"]
    prompts = unique_prompts(benchmark_prompts(files, read_as, Columns(**values.get("columns", {}))))
    where = ", ".join(map(str, files))
    if with_tools := [prompt.id for prompt in prompts if prompt.tools]:
        raise RecipeError(
            f"{where}: row {with_tools[0]!r} offers tools, and the load generator sends messages only",
            hint="leave 'tools' out of benchmark rows; training rows may have them",
            rule="benchmark-tools",
        )
    if len(prompts) < requests:
        raise RecipeError(
            f"{where}: {len(prompts)} different prompts, but benchmark.requests is {requests}",
            hint="add prompts or lower benchmark.requests",
            rule="too-few-prompts",
        )
    return prompts


def _random_text(step: StageInput, tokens: int, count: int) -> list[Prompt]:
    from transformers import AutoTokenizer

    return random_prompts(AutoTokenizer.from_pretrained(step.inputs["verifier"] / "model"), tokens, count)


def _write_own(step: StageInput, settings: dict[str, Any], selection: Selection) -> None:
    from speculators.serving.offline import offline_engine

    verifier, magpie = step.values["verifier"], settings["magpie"]
    model = step.inputs["verifier"] / "model"
    with offline_engine(
        model, step.values["engine"]["args"], seed=settings["seed"], trust_remote_code=_trusted(verifier)
    ) as engine:
        tokenizer: Any = engine.get_tokenizer()
        template = str(tokenizer.chat_template)
        arguments = template_arguments(verifier, template, thinking_modes(verifier, template)[0])

        def render(messages: list[dict[str, str]]) -> str:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))

        draw = remembered(sampler(engine, opening(render), magpie, settings["seed"]), step.work)
        kept = collect(draw, magpie["count"], selection, tuple(tokenizer.all_special_tokens))
    if kept < magpie["count"]:
        print(f"magpie: only {kept} of {magpie['count']} prompts passed; see ledger.json", flush=True)


def _split(prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[dict[str, Any]]:
    written = [prompt.group for prompt in prompts if prompt.source != MAGPIE]
    held_out = validation_topics(written, settings["validation_fraction"], settings["seed"])
    return [
        prompt.row("validation" if prompt.source != MAGPIE and prompt.group in held_out else "train")
        for prompt in prompts
    ]


def _trusted(verifier: dict[str, Any]) -> bool:
    return bool(verifier.get("trust_remote_code", False))
