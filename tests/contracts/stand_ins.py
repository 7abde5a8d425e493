"""The model folders that a shipped recipe's command lines name: configurations without weights.

vLLM reads ``config.json`` and nothing else before it has a device.  The verifier's is made of the facts that
``check`` uses, the draft's by the code that packages one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speculators.checkpoint.config import VerifierName, localised, to_document
from speculators.checkpoint.format import Format
from speculators.documents import write_json
from speculators.recipe.facts import VerifierFacts, committed, find_facts
from speculators.recipe.recipe import Recipe, require_recipe
from speculators.recipe.view import free_kind
from speculators.serving.command import Speculation
from speculators.training.architectures import ARCHITECTURES

RECIPES = Path(__file__).parents[2] / "recipes"
DIGEST = "0" * 64


class StandIn:
    """One recipe with a verifier and a draft of the right shape in ``folder``."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.facts = known_facts(recipe)
        self.verifier = folder / recipe.name / "verifier"
        self.draft = folder / recipe.name / "draft"
        documents = {self.verifier: self._verifier()}
        if not self.free:
            documents[self.draft] = self.draft_document()
        for path, document in documents.items():
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", document)

    @property
    def free(self) -> str:
        """The method of a recipe that needs no draft; empty for one that has one."""
        return free_kind(self.recipe.data)

    @property
    def speculation(self) -> Speculation:
        """That of the draft arm."""
        if self.free:
            return Speculation(None, self.free, self.speculative_tokens)
        return Speculation(self.draft, self.format.stored_as, self.speculative_tokens)

    @property
    def engine_args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.recipe.data["engine"]["args"]
        return args

    @property
    def speculative_tokens(self) -> int:
        tokens: int = self.recipe.data["algorithm"]["speculative_tokens"]
        return tokens

    @property
    def format(self) -> Format:
        """How drafts of the recipe's kind are stored and served."""
        return ARCHITECTURES[self.recipe.data["algorithm"]["kind"]].format

    @property
    def layers(self) -> list[int]:
        """The layers that capture asks for: the draft's, and the last (``stages/hidden_states.py``)."""
        return [*self.recipe.data["algorithm"].get("aux_layers", ()), self.facts.num_hidden_layers]

    def draft_document(self) -> dict[str, Any]:
        """``config.json`` of the packaged draft, its verifier local."""
        config = self.format.config.for_verifier(self.facts._asdict(), self.recipe.data["algorithm"])
        name = VerifierName(self.recipe.name, DIGEST, self.facts.architecture)
        return localised(to_document(config, self.speculative_tokens, name), self.verifier)

    def _verifier(self) -> dict[str, Any]:
        facts = self.facts._asdict()
        del facts["source"], facts["parameters"], facts["weights_bytes"]
        more = committed(self.recipe.data["verifier"]) or {}
        top = {"architectures": [facts.pop("architecture")], "torch_dtype": "bfloat16"}
        text = {**facts, **more.get("config", {})}
        return {**top, **more["outer"], "text_config": text} if "outer" in more else {**top, **text}


def recipes() -> list[Recipe]:
    """The recipes that ship, but those of multimodal verifiers, and those that bring a published draft.

    A published draft's config.json is not ours to make up; the lines of its verifier's own recipe are asked.
    vLLM looks at a multimodal class by importing it, and with it torchvision, which has no place in the
    engine's environment here: what it makes of their command lines is not known.
    """
    shipped = [require_recipe(path) for path in sorted(RECIPES.glob("*.yaml")) if ".lock." not in path.name]
    made = [one for one in shipped if not one.data.get("draft")]
    return [one for one in made if "outer" not in (committed(one.data["verifier"]) or {})]


def known_facts(recipe: Recipe) -> VerifierFacts:
    facts = find_facts(recipe.data["verifier"], RECIPES, {})
    assert facts, f"{recipe.name}: no facts of its verifier are committed (speculators/recipe/verifier_facts)"
    return facts
