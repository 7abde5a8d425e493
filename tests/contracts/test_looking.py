"""Looking at code: signatures, calls, attributes, digests."""

from __future__ import annotations

import json

import pytest

from tests.contracts import looking


class Base:
    annotated: int

    def __init__(self) -> None:
        self.assigned = 1

    def method(self, first: int, *, late: bool = False) -> None:
        """Says something."""
        print("hidden_states")  # a comment

    borrowed = json.JSONDecoder.decode

    @staticmethod
    def still(first: int, second: int) -> None: ...

    @classmethod
    def made(cls, first: int) -> None: ...


class Child(Base):
    def method(self, first: int, *, late: bool = False) -> None:
        print("hidden_states")


def test_a_call_fits_or_the_reason_is_said() -> None:
    assert looking.takes(vars(Base)["method"], 1, ("late",)) == ""
    assert "too many" in looking.takes(vars(Base)["method"], 2, ())
    assert "early" in looking.takes(vars(Base)["method"], 1, ("early",))
    assert looking.takes(vars(Base)["still"], 2, ()) == ""
    assert looking.takes(vars(Base)["made"], 1, ()) == ""


def test_a_signature_has_names_and_defaults_and_no_types() -> None:
    assert looking.signature(vars(Base)["method"]) == ["self", "first", "late=False (by name only)"]


def test_attributes_are_found_however_they_are_given() -> None:
    assert {"annotated", "assigned", "method"} <= looking.names_of(Child)
    assert "absent" not in looking.names_of(Child)


def test_a_digest_ignores_words_about_code_and_sees_the_code() -> None:
    method, other = (looking.code_digest(f"{__name__}:{name}.method") for name in ("Base", "Child"))
    assert method == other
    assert method != looking.code_digest(f"{__name__}:Base.__init__")


def test_a_digest_is_refused_where_a_decorator_has_put_other_code() -> None:
    with pytest.raises(looking.GoneError, match="its code is in another file"):
        looking.code_digest(f"{__name__}:Base.borrowed")


def test_texts_of_code_are_found() -> None:
    assert "hidden_states" in looking.literals(Base)


def test_a_name_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "definitions", lambda name: ["json.newer"])
    assert looking.resolve("json:JSONDecoder.decode")
    with pytest.raises(looking.GoneError, match=r"json:Gone is gone; defined in json\.newer"):
        looking.resolve("json:Gone")
    with pytest.raises(looking.GoneError, match=r"No module named 'json\.nothing'"):
        looking.resolve("json.nothing:Gone")
