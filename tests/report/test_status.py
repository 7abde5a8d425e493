from __future__ import annotations

from speculators.report.status import parse, status


def test_the_published_table_is_read_whole() -> None:
    rows = status()
    assert all(one.path and one.status for one in rows)
    assert any(one.status == "unverified" for one in rows)
    assert "|" not in "".join(rows[0])


def test_marks_and_links_become_plain_words() -> None:
    text = "Words.\n\n| path | status | how |\n|---|---|---|\n| `a \\| b` | executed | see [here](x.md) |\n"
    assert [tuple(one) for one in parse(text)] == [("a | b", "executed", "see here")]
