"""What the validations of a run say together: which draft is the best, where it leads, when to stop.

Plain values throughout: a run's course is part of its checkpoints.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from speculators.training.extrapolation import Forecast, Point, forecast
from speculators.training.noise import Gain, gain
from speculators.training.validation import Judged

HALF = 0.5


class Course(NamedTuple):
    """The validations so far.

    ``stalled``: how many of the last ones in a row gained less than the noise of their gain.
    ``expected``: the end as it was foretold from the first half of the run.
    """

    validations: int = 0
    points: tuple[Point, ...] = ()
    best_epoch: float = 0.0  # 0 as long as there is none
    best: dict[str, Any] | None = None  # figures of the best draft
    best_counts: tuple[tuple[int, int], ...] = ()  # its accepted tokens and drafts, by document
    stalled: int = 0
    expected: Forecast | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Course:
        """The course whose ``_asdict`` went through JSON."""
        expected = values["expected"]
        return cls(
            **values
            | {
                "points": tuple(Point(*point) for point in values["points"]),
                "best_counts": tuple((accepted, drafts) for accepted, drafts in values["best_counts"]),
                "expected": Forecast(*expected) if expected else None,
            }
        )

    def stalls(self, patience: int | None) -> bool:
        """Whether ``patience`` validations in a row gained nothing that is more than noise."""
        return patience is not None and self.stalled >= patience

    def outcome(self) -> dict[str, Any] | None:
        """What was foretold beside what came, for a JSON document; None when nothing was foretold."""
        if self.expected is None:
            return None
        last = self.points[-1]
        came = last.length if last.share == 1 else None  # an early stop leaves the question open
        held = None if came is None else self.expected.holds(came)
        return {**self.expected._asdict(), "came": came, "held": held}

    def after(self, judged: Judged | None, share: float, epoch: float, ceiling: float) -> Verdict:
        """One more validation: the course with it, and what it says.

        ``share`` of the run's steps and ``epoch`` say where it was; no draft accepts more than ``ceiling``.
        Without validation documents (``judged`` None) the later draft is the better one.
        """
        course = self._replace(validations=self.validations + 1)
        if judged is None or judged.figures["acceptance_length"] is None:
            figures = judged.figures if judged else None
            return Verdict(course._replace(best_epoch=epoch, best=figures), True, None)
        length, error = judged.figures["acceptance_length"], judged.figures["acceptance_error"]
        kept = self.best is None or length > self.best["acceptance_length"]
        found = None
        if error is not None:  # with a single document nothing is known of the noise
            found = gain(self.best_counts, judged.counts) if self.best_counts else None
            stalled = self.stalled + 1 if found is not None and found.is_noise else 0
            course = course._replace(points=(*self.points, Point(share, length, error)), stalled=stalled)
        if self.expected is None and HALF <= share < 1:
            early = [point for point in course.points if point.share <= HALF]
            course = course._replace(expected=forecast(early, ceiling))
        if kept:
            course = course._replace(best_epoch=epoch, best=judged.figures, best_counts=judged.counts)
        return Verdict(course, kept, found)


class Verdict(NamedTuple):
    """One validation on the course of its run.

    ``gain`` is over the best draft before; None for the first one.
    """

    course: Course
    kept: bool
    gain: Gain | None
