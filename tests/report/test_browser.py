"""The page in a real browser: headless Chromium, where there is one."""

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.report.synthetic import NUM_STUDENTS, write_class, write_run, write_study
from vtl.report import __main__ as command

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("report")
    times = {"sigmoid": [6.0, 6.1, 6.2, 5.9, None], "relu": [2.0, 2.2, 1.9, 2.0, 2.1]}
    paths = [write_study(root / "relu", {"perceptron": times, "lenet": times})]
    paths += [
        write_run(root / regime, regime, noise)
        for regime, noise in (("probe", 4.0), ("head", 4.1), ("full", 1.0), ("scratch", 9.0))
    ]
    target = root / "report.html"
    assert command.main([*map(str, paths), "-o", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(browser, report, request):
    """The page at a width; any message of the console and any request is a failure."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda sent: messages.append(sent.url))
    page.goto(report.as_uri())
    yield page
    unexpected = [text for text in messages if not text.startswith(("data:", report.as_uri()))]
    assert unexpected == []
    context.close()


def test_nothing_overflows(page):
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    width, shown = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= shown
    # What is wider than the page scrolls by itself.
    outside = page.evaluate(
        """[...document.querySelectorAll("main *:not(.scroll *, svg *)")]
           .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
           .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def column(page, index):
    cells = page.locator("#summary table").first.locator(f"tbody tr > :nth-child({index})")
    return [text.split()[0] for text in cells.all_text_contents()]


def test_tables_sort_on_click_and_by_keyboard(page):
    heading = page.locator("#summary table").first.locator("thead th").nth(4)
    given = [float(value) for value in column(page, 5)]
    assert given != sorted(given)
    heading.locator("button").click()
    assert [float(value) for value in column(page, 5)] == sorted(given, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert [float(value) for value in column(page, 5)] == sorted(given)
    assert heading.get_attribute("aria-sort") == "ascending"
    names = page.locator("#summary table").first.locator("thead th").first
    names.locator("button").click()
    assert column(page, 1) == ["full", "head", "probe", "scratch"]
    assert heading.get_attribute("aria-sort") is None


def test_maps_show_on_demand(page):
    first = page.locator(".map").first
    assert not first.is_visible()
    page.locator("#maps").check()
    assert first.is_visible()
    is_loaded = "(images) => images.every((one) => one.complete && one.naturalWidth > 0)"
    assert page.locator("img").evaluate_all(is_loaded)


def test_a_screen_reader_finds_its_way(page):
    levels = page.locator("h1, h2, h3, h4").evaluate_all("(all) => all.map((x) => +x.tagName[1])")
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in itertools.pairwise(levels))
    assert page.locator("svg[role=img]:not([aria-label])").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("#questions svg[role=img]").count() >= 6


CONTRAST = """() => {
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/\\d+/g).map((x) => x / 255)
      .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  return ["body", ".quiet", "a[href^='#s']", "th button"].map((selector) => {
    const ink = luminance(getComputedStyle(document.querySelector(selector)).color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser, report, scheme):
    """At least the 4.5 of WCAG 2, level AA."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    assert min(page.evaluate(CONTRAST)) >= 4.5
    context.close()


def test_it_can_be_printed(browser, report, tmp_path):
    page = browser.new_page()
    page.goto(report.as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert os.path.getsize(tmp_path / "report.pdf") > 20_000
    page.close()


@pytest.fixture(scope="module")
def table_of_class(tmp_path_factory) -> Path:
    root = write_class(tmp_path_factory.mktemp("class") / "runs")
    target = root.parent / "class.html"
    assert command.main(["--class", str(root), "-o", str(target)]) == 0
    return target


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_of_a_class(browser, table_of_class, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(table_of_class.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#runs tbody tr").count() == NUM_STUDENTS + 4
    first = page.locator("#runs tbody tr").first
    assert first.locator("th").text_content() == "student_00/finetune"
    assert first.locator("td").first.text_content() == "1"
    page.locator("#runs thead th").nth(1).locator("button").click()  # by rank, the last first
    assert first.locator("td").first.text_content() in (
        "edited",
        "copy",
        "unfinished",
        "unreadable",
    )
    levels = page.locator("h1, h2, h3, h4").evaluate_all("(all) => all.map((x) => +x.tagName[1])")
    assert levels == [1, *[2] * (len(levels) - 1)]
    assert messages == []
    page.close()
