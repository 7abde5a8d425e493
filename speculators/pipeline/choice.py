"""Which stages a command line wants made, kept or left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from speculators.errors import RecipeError
from speculators.pipeline.reasons import Reason
from speculators.recipe.suggestions import did_you_mean

ALL = "all"


class Choice(NamedTuple):
    """``only``: this stage and no other.  ``start``: make this stage and all after it anew.

    ``fresh``: make these anew (``all`` for all), also forgetting interrupted work.  ``accept``: keep the
    outputs of these although code has changed.  ``remake``: make damaged outputs again instead of
    stopping.  ``order``: all stages of the recipe, which ``bound`` fills in.
    """

    only: str = ""
    start: str = ""
    fresh: frozenset[str] = frozenset()
    accept: frozenset[str] = frozenset()
    remake: bool = False
    order: tuple[str, ...] = ()

    def bound(self, order: Sequence[str]) -> Choice:
        """This choice for a recipe with the stages ``order``.

        Raises:
            RecipeError: a name is not one of its stages.
        """
        named = {
            "--only": {self.only},
            "--from": {self.start},
            "--fresh": self.fresh,
            "--accept": self.accept,
        }
        for flag, names in named.items():
            for name in sorted(names - {"", *order} - ({ALL} if flag == "--fresh" else set())):
                stages = f"its stages are {', '.join(order)}"
                raise RecipeError(
                    f"{flag}: this recipe has no stage '{name}'",
                    hint=" ".join(filter(None, (did_you_mean(name, order), stages))),
                    rule="unknown-stage",
                )
        elsewhere = [
            name for name in (self.start, *sorted(self.fresh - {ALL})) if name not in ("", self.only)
        ]
        if self.only and elsewhere:
            raise RecipeError(
                f"--only {self.only} leaves out {', '.join(elsewhere)}, which --from or --fresh names",
                hint="name the same stage, or leave one of the options out",
                rule="usage",
            )
        return self._replace(order=tuple(order))

    def includes(self, stage: str) -> bool:
        """Whether ``stage`` may run."""
        return self.only in ("", stage)

    def needs(self, stage: str) -> bool:
        """Whether ``stage`` or its output is wanted at all: nothing after ``only`` is."""
        return not self.only or self.order.index(stage) <= self.order.index(self.only)

    def reason_to_make(self, stage: str) -> Reason | None:
        """Why ``stage`` is to be made although its output may be there."""
        if not self.includes(stage):
            return None
        if self.fresh & {ALL, stage}:
            return Reason("asked", "--fresh")
        if self.start and self.order.index(stage) >= self.order.index(self.start):
            return Reason("asked", f"--from {self.start}")
        return None
