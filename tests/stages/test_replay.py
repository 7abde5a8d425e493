"""What a replay leaves when one of its extras goes wrong, and what it needs for the question of blame."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from speculators.benchmark.acceptance import acceptance
from speculators.benchmark.statistics import t_quantile
from speculators.benchmark.summary import summarise
from speculators.errors import StageError
from speculators.stages.replay import attempted, differs
from tests.benchmark.conftest import document


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StageError("no room", rule="probe"), "no room"),
        (ImportError("No module named 'scipy'"), "not computed: ImportError: No module named 'scipy'"),
    ],
)
def test_an_extra_that_fails_is_named_and_ends_nothing(error: Exception, said: str) -> None:
    def work() -> None:
        raise error

    assert attempted("probe", "not_probed", work) == {"not_probed": said}
    assert attempted("probe", "not_probed", lambda: {"said": "draft"}) == {"probe": {"said": "draft"}}


def test_blame_is_asked_for_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    replay = {"all": {"acceptance_length": 2.0}}
    benchmark = document([(10.0, 12.0), (10.0, 13.0)])
    whole: dict[str, Any] = summarise(benchmark, replay)["acceptance"]
    t_quantile.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)  # as on an engine image that has none
    with pytest.raises(ImportError):
        summarise(benchmark)
    found = acceptance(benchmark, replay)
    assert found == whole
    assert differs(found)
