"""What all launches of one benchmark share: its arms, what each serves and what its requests carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speculators.benchmark.arms import (
    Arm,
    Base,
    arms_of,
    missing_packages,
    own_sampling,
    speculation_of,
)
from speculators.benchmark.rounds import DRAFT, QUANTISED, SAMPLED, Condition, conditions_of
from speculators.datagen.chat import template_arguments, thinking_modes
from speculators.datagen.chat_template import chat_template
from speculators.errors import MachineError
from speculators.executors.base import Executor, Needs
from speculators.executors.interior import Interior
from speculators.serving.command import Speculation
from speculators.serving.launcher import Launcher

SERVER = Needs("engine", gpus=True)


class Bench(NamedTuple):
    """What every launch of one benchmark shares."""

    values: dict[str, Any]
    inputs: dict[str, Path]
    folder: Path
    executor: Executor
    on_line: Callable[[str], None] | None
    on_client_line: Callable[[str], None] | None
    holds: Sequence[int]
    interior: Interior
    arms: dict[str, Arm]
    base: Base | None
    left_out: dict[str, str]
    request_body: dict[str, Any]
    sampling: dict[str, Any]

    @property
    def launcher(self) -> Launcher:
        return self.interior.require_launcher()

    def verifier(self, arm: str) -> Path:
        """The model that the arm serves."""
        return self.inputs["quantised" if self.under(arm, QUANTISED) else "verifier"] / "model"

    def draft(self, arm: str) -> Path | None:
        """The checkpoint that the arm drafts with."""
        speculation = self.arms[arm].speculation
        return speculation.draft if speculation else None

    @property
    def side_by_side(self) -> bool:
        """Whether the servers of a round run at once."""
        return bool(self.values["benchmark"].get("side_by_side"))

    def under(self, arm: str, condition: Condition) -> bool:
        """Whether the arm is served under ``condition``."""
        return self.arms[arm].condition == condition

    def body(self, arm: str) -> dict[str, Any]:
        """What the arm's requests carry beside messages and limits."""
        return {**self.request_body, **(self.sampling if self.under(arm, SAMPLED) else {})}

    @property
    def speculation(self) -> Speculation:
        """That of the draft arm."""
        draft = self.arms[DRAFT].speculation
        assert draft is not None
        return draft

    def tokens(self, arm: str) -> int:
        """K of an arm; of the plain one the draft's."""
        return (self.arms[arm].speculation or self.speculation).tokens

    def say(self, line: str) -> None:
        if self.on_line is not None:
            self.on_line(line)


def prepare(
    values: dict[str, Any],
    inputs: dict[str, Path],
    folder: Path,
    executor: Executor,
    on_line: Callable[[str], None] | None,
    on_client_line: Callable[[str], None] | None,
    holds: Sequence[int],
    base: Base | None,
) -> Bench:
    """The arms and what their servers and clients share, from ``run_benchmark``'s arguments.

    Raises:
        MachineError: no engine here, or a package is missing that the recipe's method needs.
    """
    speculation = _speculation(values, inputs)
    body = body_for(values["verifier"], inputs["verifier"] / "model")
    interior = executor.interior(SERVER.role)
    interior.require_launcher()  # without an engine nothing starts
    wanted = [arm for arm in values["benchmark"].get("extra_arms", ()) if arm != speculation.algorithm]
    left_out = missing_packages(wanted, interior)
    if lacking := missing_packages([values["method"]] if "method" in values else [], interior):
        reason = "; ".join(lacking.values())
        hint = "install it where the engine runs, or choose kind 'ngram', which needs no package"
        raise MachineError(f"algorithm.kind '{speculation.algorithm}': {reason}", hint=hint, rule="package")
    free = [arm for arm in wanted if arm not in left_out]
    depths = values["benchmark"].get("depths", ())
    conditions = conditions_of(values["benchmark"], quantised="quantised" in inputs)
    drawn = own_sampling(inputs["verifier"] / "model") if SAMPLED in conditions else {}
    return Bench(
        values,
        inputs,
        folder,
        executor,
        on_line,
        on_client_line,
        holds,
        interior,
        arms_of(speculation, values["engine"], free, base, depths, conditions),
        base,
        left_out,
        body,
        drawn,
    )


def _speculation(values: dict[str, Any], inputs: dict[str, Path]) -> Speculation:
    """That of the draft arm: a checkpoint's, or a method's that needs none."""
    if method := values.get("method"):
        return Speculation(None, method, values["speculative_tokens"])
    return speculation_of(inputs["package"] / "model", values["speculative_tokens"])


def body_for(verifier: dict[str, Any], model: Path) -> dict[str, Any]:
    """``request_body`` for the verifier in the folder ``model``."""
    template = chat_template(model)
    # Some models have several templates; the switch is looked for in all of them.
    return request_body(verifier, template if isinstance(template, str) else "".join(template.values()))


def request_body(verifier: dict[str, Any], template: str) -> dict[str, Any]:
    """What every request carries so that the chat is rendered as in data generation.

    With ``thinking: both`` the benchmark thinks: one load has one setting.
    """
    arguments = template_arguments(verifier, template, thinking_modes(verifier, template)[-1])
    return {"chat_template_kwargs": arguments} if arguments else {}
