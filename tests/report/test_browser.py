"""The page in headless Chromium, as people see it: on a phone and a desk, light and dark, with axe-core.

Where there is no Chromium the tests are left out with a line; in CI it is installed, or they fail.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from speculators.report.document import write_report
from tests.engine.packages import AbsentError, program
from tests.faults.world import World
from tests.needs import leave_out, needed, required
from tests.report.documents import hostile, record, with_examples

CHROMIUM = "chromium"
NAMES = (CHROMIUM, "chromium-browser", "google-chrome", "google-chrome-stable")
SCREENS = {"phone": {"width": 360, "height": 740}, "desk": {"width": 1280, "height": 900}}
SMALLEST = 10.0  # pixels of a letter in a plot, on a phone


class Shown(NamedTuple):
    """A page in the browser, and what it asked for or said since it was opened."""

    page: Any
    requests: list[str]
    errors: list[str]


Show = Callable[[Path, str, str], Shown]


def executable() -> str:
    """The path of a Chromium; tests install one only where nothing may be left out."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    if not required():
        leave_out("no Chromium")
    try:
        return program(CHROMIUM, CHROMIUM)
    except AbsentError as error:
        leave_out(f"no Chromium: {error}")


@pytest.fixture(scope="module")
def show() -> Iterator[Show]:
    """Opens a page on a screen, in a colour scheme, with every fold unfolded."""
    playwright = needed("playwright.sync_api")
    path = executable()
    with playwright.sync_playwright() as engine:
        # Its sandbox needs namespaces that containers do not give; the page is ours and has no script.
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def opened(file: Path, screen: str, scheme: str) -> Shown:
            context = browser.new_context(viewport=SCREENS[screen], color_scheme=scheme)
            page = context.new_page()
            shown = Shown(page, [], [])
            page.on("request", lambda one: shown.requests.append(one.url))
            page.on("console", lambda one: shown.errors.append(one.text))
            page.on("pageerror", lambda one: shown.errors.append(str(one)))
            page.goto(file.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            return shown

        yield opened
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_examples(tmp_path_factory.mktemp("report"))
    write_report(folder, record())
    return folder / "report.html"


def looks(file: Path, show: Show, screen: str, scheme: str) -> list[str]:
    """What is wrong with the page on one screen."""
    shown = show(file, screen, scheme)
    page = shown.page
    wrong = [f"it asked for {url}" for url in shown.requests if url != file.as_uri()]
    wrong += [f"it said {text}" for text in shown.errors]
    wide, seen = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    if wide > seen:
        wrong.append(f"it is {wide} pixels wide on a screen of {seen}")
    wrong += beyond(page) + small(page) + inaccessible(page)
    page.context.close()
    return wrong


def beyond(page: Any) -> list[str]:
    """Elements with text that is cut off at the side."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll('main *, header *')].filter(one => {
            const box = one.getBoundingClientRect();
            return box.right > innerWidth + 1 || box.left < -1;
        }).map(one => `<${one.tagName}> stands out: ${one.textContent.slice(0, 40)}`)"""
    )
    return found


def small(page: Any) -> list[str]:
    """Letters of plots that are too small to read."""
    sizes = page.evaluate(
        """[...document.querySelectorAll('svg')].map(one => parseFloat(getComputedStyle(one).fontSize)
        * one.getBoundingClientRect().width / one.viewBox.baseVal.width)"""
    )
    return [f"letters of {size:.1f} pixels in a plot" for size in sizes if size < SMALLEST]


def inaccessible(page: Any) -> list[str]:
    """Violations that axe-core finds: contrast, headings, names and the rest of its rules."""
    axe = needed("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_the_report_is_readable_everywhere(report: Path, show: Show, screen: str, scheme: str) -> None:
    assert looks(report, show, screen, scheme) == []


def test_light_and_dark_are_two_pages(report: Path, show: Show) -> None:
    colours = [
        show(report, "phone", scheme).page.evaluate(
            "['background-color', 'color'].map(name => getComputedStyle(document.body)[name])"
        )
        for scheme in ("light", "dark")
    ]
    assert colours[0] != colours[1]


def test_the_first_screen_of_a_phone_has_the_sentence(report: Path, show: Show) -> None:
    shown = show(report, "phone", "light")
    box = shown.page.locator("h1").bounding_box()
    assert box["y"] + box["height"] < SCREENS["phone"]["height"]
    assert shown.page.locator("h1").count() == 1


def test_hostile_texts_do_nothing_and_are_read_as_they_are(tmp_path: Path, show: Show) -> None:
    hostile(tmp_path)
    shown = show(tmp_path / "report.html", "phone", "light")
    assert shown.page.evaluate("document.querySelectorAll('script, img, iframe, object, embed').length") == 0
    assert "owned" not in shown.page.title().split(":")[-1]
    assert "<script>document.title='owned'</script>" in shown.page.locator("pre").first.inner_text()
    assert looks(tmp_path / "report.html", show, "phone", "dark") == []


@pytest.mark.integration
def test_the_report_of_a_whole_run_is_readable_and_shows_its_drafts(undisturbed: World, show: Show) -> None:
    report = undisturbed.folder / "runs" / "faults" / "latest" / "report.html"
    assert looks(report.resolve(), show, "phone", "light") == []
    page = show(report.resolve(), "desk", "light").page
    assert page.locator(".example").count() == 6
    assert page.locator(".example del").count() > 0
