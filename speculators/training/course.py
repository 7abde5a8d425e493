"""What the validations of a run say together: which draft is the best, where it leads, when to stop.

Plain values throughout: a run's course is part of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from speculators.training.extrapolation import Forecast, Point, forecast
from speculators.training.noise import Counts, Gain, gain, looked_back_over, trend
from speculators.training.validation import Judged

HALF = 0.5


class Course(NamedTuple):
    """The validations so far.

    ``recent``: accepted tokens and drafts, by document, of as many of the last ones as an early stop looks
    back over, and ``trend`` what these gained together, once there are so many.
    ``expected``: the end as it was foretold from the first half of the run.
    """

    validations: int = 0
    points: tuple[Point, ...] = ()
    best_epoch: float = 0.0  # 0 as long as there is none, or it is the published one that was trained further
    best: dict[str, Any] | None = None  # figures of the best draft
    best_counts: tuple[tuple[int, int], ...] = ()  # its accepted tokens and drafts, by document
    recent: tuple[Counts, ...] = ()
    trend: Gain | None = None
    expected: Forecast | None = None

    @classmethod
    def from_published(cls, judged: Judged) -> Course:
        """The course of a training whose start has to be surpassed: a published draft, judged as it is."""
        return cls(best=judged.figures, best_counts=judged.counts)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Course:
        """The course whose ``_asdict`` went through JSON."""
        expected, risen = values["expected"], values["trend"]
        return cls(
            **values
            | {
                "points": tuple(Point(*point) for point in values["points"]),
                "best_counts": _pairs(values["best_counts"]),
                "recent": tuple(_pairs(counts) for counts in values["recent"]),
                "trend": Gain(*risen) if risen else None,
                "expected": Forecast(*expected) if expected else None,
            }
        )

    @property
    def stalls(self) -> bool:
        """Whether the recent validations together gained nothing that is more than noise."""
        return self.trend is not None and self.trend.is_noise

    def outcome(self) -> dict[str, Any] | None:
        """What was foretold beside what came, for a JSON document; None when nothing was foretold."""
        if self.expected is None:
            return None
        last = self.points[-1]
        came = last.length if last.share == 1 else None  # an early stop leaves the question open
        held = None if came is None else self.expected.holds(came)
        return {**self.expected._asdict(), "came": came, "held": held}

    def after(
        self, judged: Judged | None, share: float, epoch: float, ceiling: float, patience: int | None = None
    ) -> Verdict:
        """One more validation: the course with it, and what it says.

        ``share`` of the run's epochs and ``epoch`` say where it was; no draft accepts more than ``ceiling``.
        ``patience`` is the recipe's ``early_stop``.
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
            course = course._replace(points=(*self.points, Point(share, length, error)))
            if patience is not None:
                span = looked_back_over(patience)
                recent = (*self.recent, judged.counts)[-span:]
                course = course._replace(recent=recent, trend=trend(recent) if len(recent) == span else None)
        if self.expected is None and HALF <= share < 1:
            early = [point for point in course.points if point.share <= HALF]
            course = course._replace(expected=forecast(early, ceiling))
        if kept:
            course = course._replace(best_epoch=epoch, best=judged.figures, best_counts=judged.counts)
        return Verdict(course, kept, found)


def _pairs(values: Iterable[Sequence[int]]) -> Counts:
    """Counts that went through JSON."""
    return tuple((accepted, drafts) for accepted, drafts in values)


class Verdict(NamedTuple):
    """One validation on the course of its run.

    ``gain`` is over the best draft before; None where there was none.
    """

    course: Course
    kept: bool
    gain: Gain | None
