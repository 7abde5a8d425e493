"""The model folders that a shipped recipe's command lines name: configurations without weights.

vLLM reads ``config.json`` and nothing else before it has a device.  The verifier's is made of the facts that
``check`` uses, the draft's by the code that packages one; a published draft's is the published one.
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
from speculators.stages.package import bound
from speculators.training.architectures import ARCHITECTURES, FORMATS
from tests.inspection.public_drafts import PUBLIC

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
    def brought(self) -> dict[str, Any]:
        """The published config of a recipe's ready-made draft; empty where a draft is trained."""
        repository = (self.recipe.data.get("draft") or "").partition("@")[0]
        return PUBLIC[repository].config if repository else {}

    @property
    def engine_args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.recipe.data["engine"]["args"]
        return args

    @property
    def speculative_tokens(self) -> int:
        data = self.recipe.data
        tokens: int = data["benchmark"]["speculative_tokens"] or data["algorithm"]["speculative_tokens"]
        return tokens

    @property
    def format(self) -> Format:
        """How drafts of the recipe's kind are stored and served."""
        if self.brought:
            return FORMATS[self.brought["speculators_model_type"]]
        return ARCHITECTURES[self.recipe.data["algorithm"]["kind"]].format

    @property
    def layers(self) -> list[int]:
        """The layers that capture asks for: the draft's, and the last (``stages/hidden_states.py``)."""
        return [*self.format.aux_layers(self.draft_document()), self.facts.num_hidden_layers]

    def draft_document(self) -> dict[str, Any]:
        """``config.json`` of the packaged draft, its verifier local."""
        name = VerifierName(self.recipe.name, DIGEST, self.facts.architecture)
        if self.brought:
            document, _ = bound(self.brought, name, self.facts.num_hidden_layers)
            return localised(document, self.verifier)
        config = self.format.config.for_verifier(self.facts._asdict(), self.recipe.data["algorithm"])
        return localised(to_document(config, self.speculative_tokens, name), self.verifier)

    def _verifier(self) -> dict[str, Any]:
        facts = self.facts._asdict()
        del facts["source"], facts["parameters"], facts["weights_bytes"]
        more = committed(self.recipe.data["verifier"]) or {}
        top = {"architectures": [facts.pop("architecture")], "torch_dtype": "bfloat16"}
        text = {**facts, **more.get("config", {})}
        return {**top, **more["outer"], "text_config": text} if "outer" in more else {**top, **text}


def recipes() -> list[Recipe]:
    """The recipes that ship, but those of multimodal verifiers.

    vLLM looks at a multimodal class by importing it, and with it torchvision, which has no place in the
    engine's environment here: what it makes of their command lines is not known.
    """
    shipped = [require_recipe(path) for path in sorted(RECIPES.glob("*.yaml")) if ".lock." not in path.name]
    return [one for one in shipped if "outer" not in (committed(one.data["verifier"]) or {})]


def known_facts(recipe: Recipe) -> VerifierFacts:
    facts = find_facts(recipe.data["verifier"], RECIPES, {})
    assert facts, f"{recipe.name}: no facts of its verifier are committed (speculators/recipe/verifier_facts)"
    return facts
