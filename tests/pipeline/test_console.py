"""What a person sees: plain lines without a terminal, one live line with one, nothing when quiet."""

from __future__ import annotations

import io
import time

import pytest

from speculators.pipeline import console
from speculators.pipeline.console import PLAIN, QUIET, Console, Voice


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_fact_is_a_line():
    stream = io.StringIO()
    Console(stream).say("training", "started")
    assert stream.getvalue()[8:] == " training       started\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat within a test's time."""
    monkeypatch.setattr(console, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(console, "REFRESH_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_silent_stage_gets_a_heartbeat_with_its_last_words():
    stream = io.StringIO()
    story = Console(stream)
    with story.working("training"):
        story.heard("step 40 of 300")
        time.sleep(0.5)
    assert "s · step 40 of 300" in stream.getvalue()


@pytest.mark.usefixtures("impatient")
def test_a_heartbeat_is_of_what_was_heard_since_the_last_event():
    stream = io.StringIO()
    story = Console(stream)
    with story.working("benchmark"):
        story.heard("a line of no interest", "12 requests done")
        story.heard("another of none", "")
        time.sleep(0.5)
        story.say("benchmark", "round 2: server starting")
        time.sleep(0.5)
    first, second = stream.getvalue().split("benchmark      round 2: server starting\n")
    assert "s · 12 requests done" in first
    assert "s · round 2: server starting" in second
    assert "done" not in second


def test_a_terminal_gets_a_live_line_and_the_story_above_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "REFRESH_SECONDS", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    story = Console(stream)
    with story.working("training"):
        story.heard("step 40 of 300")
        time.sleep(0.8)
        story.say("training", "an event")
    text = stream.getvalue()
    assert "step 40 of 300" in text
    assert "an event\n" in text.replace("\r", "")
    assert text.index("step 40") < text.index("an event")


@pytest.mark.parametrize(("voice", "stream"), [(Voice(PLAIN), Terminal()), (Voice(), io.StringIO())])
def test_plain_lines_hold_no_control_characters(voice: Voice, stream: io.StringIO):
    story = Console(stream, voice)
    with story.working("training"):
        story.say("training", "an event")
    assert "\x1b" not in stream.getvalue()


def test_quiet_says_nothing_and_verbose_every_line():
    quiet, verbose = io.StringIO(), io.StringIO()
    for stream, voice in ((quiet, Voice(QUIET)), (verbose, Voice(PLAIN, verbose=True))):
        story = Console(stream, voice)
        story.say("training", "started")
        story.heard("step 1")
    assert quiet.getvalue() == ""
    assert verbose.getvalue().endswith("| step 1\n")
