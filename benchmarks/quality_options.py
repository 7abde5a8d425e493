"""What a quality comparison can be asked for: its systems, its sizes, and what they will cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import quality_cost as cost
from benchmarks.quality_drafts import System
from speculators.benchmark.rounds import FREE_ARMS
from speculators.recipe.recipe import Recipe, require_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
EAGLE3, DFLASH = RECIPES / "smollm2-135m-eagle3.yaml", RECIPES / "smollm2-135m-dflash.yaml"
SYSTEMS = {
    system.name: system
    for system in (
        System("eagle3", EAGLE3),
        System("reference", EAGLE3, reference=True),
        System("eagle3-k7", EAGLE3, speculative_tokens=7),
        System("dflash-k7", DFLASH, speculative_tokens=7),
    )
}
FULL = {
    "sizes": [50_000, 100_000, 200_000],
    "rates": [1e-3, 2e-3, 4e-3],
    "epochs": 5,
    "requests": 96,
    "limit": 420,
    "own": 1900,
    "answer": 128,
    "served": 64,
}
SMOKE = {
    "sizes": [300, 600],
    "rates": [1e-3, 2e-3],
    "epochs": 1,
    "requests": 4,
    "limit": 40,
    "own": 0,
    "answer": 32,
    "served": 16,
}


def expected(options: argparse.Namespace, recipe: Recipe) -> list[cost.Cost]:
    """What the options ask for, as costs."""
    prompts = options.limit + options.own
    costs = [cost.data(prompts, options.own, options.answer)]
    smallest, rates, seeds = min(options.sizes), len(options.rates), len(options.seeds)
    for system in options.systems:
        searched = [smallest] if options.search == "first" else options.sizes
        # Of a searched size one seed's best rate is trained already.
        trained = [size for size in searched for _ in range(rates)] if rates > 1 else []
        trained += [size for size in options.sizes for _ in range(seeds - (rates > 1 and size in searched))]
        tokens = system.speculative_tokens or recipe.data["algorithm"]["speculative_tokens"]
        costs.append(
            cost.training(system.name, trained, options.epochs, options.answer, tokens, system.reference)
        )
    arms = len(options.systems) * len(options.serve_sizes) * seeds + len(options.free)
    return [*costs, cost.serving(arms, options.requests, options.served)]


def arguments(text: str | None, words: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line, every default filled in; ``text`` is the program's help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path, help="where everything is kept; the same folder continues")
    add("--plan", action="store_true", help="say what it would cost, and stop")
    add("--smoke", action="store_true", help="so small that it says nothing of quality")
    add("--systems", nargs="+", choices=SYSTEMS, default=["eagle3", "reference"])
    add("--free", nargs="*", choices=list(FREE_ARMS), help="arms without training (default: all)")
    add("--sizes", type=int, nargs="+", help="supervised tokens (default 50000 100000 200000)")
    add("--serve-sizes", type=int, nargs="+", help="of these, what is served (default: all)")
    add("--rates", type=float, nargs="+", help="learning rates to choose from (default 1e-3 2e-3 4e-3)")
    add("--search", choices=["first", "each"], default="first", help="at the smallest size, or at each")
    add("--seeds", type=int, nargs="+", default=[0], help="of the trainings; counts are summed over them")
    add("--epochs", type=int, help="of every training (default 5)")
    add("--requests", type=int, help="prompts of the benchmark that are served (default 96)")
    add("--limit", type=int, help="prompts from the recipe's file (default 420)")
    add("--own", type=int, help="prompts that the verifier writes itself (default 1900)")
    add("--answer", type=int, help="longest training answer in tokens (default 128)")
    add("--served", type=int, help="longest served answer in tokens (default 64)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="change the data recipe")
    options = parser.parse_args(words)
    for name, value in (SMOKE if options.smoke else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.free is None:
        options.free = ["ngram"] if options.smoke else list(FREE_ARMS)
    if options.serve_sizes is None:
        options.serve_sizes = [max(options.sizes)] if options.smoke else options.sizes
    if stray := set(options.serve_sizes) - set(options.sizes):
        parser.error(f"--serve-sizes: {sorted(stray)} are no --sizes")
    if options.requests < 2:
        parser.error("--requests: a paired interval needs two prompts at least")
    options.systems = [SYSTEMS[name] for name in options.systems]
    return options


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON holds them."""
    values = vars(options) | {"systems": [system.name for system in options.systems]}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def data_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe whose data stages make the training data."""
    changed = {
        "datagen.prompts.limit": options.limit,
        "datagen.prompts.magpie.count": options.own,
        "datagen.max_tokens": options.answer,
        "benchmark.requests": options.requests,
    }
    overrides = [f"{name}={value}" for name, value in changed.items()]
    return require_recipe(EAGLE3, [*overrides, *options.set])
