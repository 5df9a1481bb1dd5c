"""The page of suspects in a real browser: headless Chromium, where there is one."""

import csv
import json
import shutil

import numpy as np
import pytest

from tests.data.layouts.photos import write_photo
from tests.review.runs import CLASSES, HOSTILE, write_run
from vtl.review import __main__ as command
from vtl.review import page as pages
from vtl.review.reviewed import Reviewed
from vtl.review.suspects import Suspect

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def browser():
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def review(tmp_path_factory):
    root = tmp_path_factory.mktemp("review")
    run = write_run(root, size=200)
    assert command.main([str(run), "-o", str(root / "review.html")]) == 0
    return root / "review.html"


def opened(context, path):
    """The page; any message of the console and any request is noted."""
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda sent: messages.append(sent.url))
    page.goto(path.as_uri())
    return page, messages


def unexpected(messages, path):
    return [text for text in messages if not text.startswith(("data:", "blob:", path.as_uri()))]


def saved(page, to):
    with page.expect_download() as download:
        page.locator("#save").click()
    assert download.value.suggested_filename == "corrections.csv"
    download.value.save_as(to)
    with to.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("width", [390, 1280])
def test_by_keyboard_from_answers_to_a_new_table(browser, review, tmp_path, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, messages = opened(context, review)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("h2").first.text_content().startswith("cat: probably missing")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.number") == "0"
    numbers = page.evaluate(
        "Object.fromEntries(cards.map((c) => [c.innerText, +c.dataset.number]))"
    )
    hostile = next(number for text, number in numbers.items() if "onerror" in text)
    page.keyboard.press("y")
    assert page.evaluate("document.activeElement.dataset.number") == "1"  # it moves on
    page.evaluate(f"select({hostile})")
    page.keyboard.press("n")
    for number, key in ((2, "?"), (3, "n"), (3, "n")):  # the same key takes an answer back
        page.evaluate(f"select({number})")
        page.keyboard.press(key)
    rows = saved(page, tmp_path / "corrections.csv")
    assert {row["photo"]: (row["class"], row["label"], row["was"]) for row in rows}[HOSTILE] == (
        f"'{CLASSES[1]}",
        "0",
        "1",
    )
    assert rows[0] == {"photo": "0003.png", "class": "cat", "label": "1", "was": "0"}
    page.reload()
    assert page.locator("#count").text_content().startswith(f"{len(rows)} of ")
    assert page.locator("[data-answer=y]").count() == 1
    assert saved(page, tmp_path / "again.csv") == rows
    assert unexpected(messages, review) == []
    context.close()
    table, new = review.parent / "photos" / "labels.csv", tmp_path / "new.csv"
    given = [str(tmp_path / "corrections.csv"), str(table), "-o", str(new)]
    assert command.main(["apply", *given]) == 0
    before, after = (path.read_text().splitlines() for path in (table, new))
    changed = sum(old != now for old, now in zip(before, after, strict=True))
    assert changed == len({row["photo"] for row in rows if row["label"] != row["was"]})


def test_text_is_readable_in_light_and_dark(browser, review):
    for scheme, paper in (("light", "rgb(253, 253, 252)"), ("dark", "rgb(23, 23, 26)")):
        context = browser.new_context(color_scheme=scheme)
        page, _ = opened(context, review)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        context.close()


@pytest.mark.full
def test_two_thousand_suspects_without_lag(browser, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((2000, 2), np.uint8)
    paths = [write_photo(tmp_path / f"{n}.png", n, 160) for n in range(2000)]
    of = Reviewed(
        [f"{n}.png" for n in range(2000)],
        paths,
        rng.normal(size=(2000, 2)),
        labels,
        np.ones_like(labels),
        [""] * 2000,
        ("cat", "dog"),
        False,
        [],
    )
    suspects = [
        Suspect("missing", n % 2, (n,), 0.9, ((n, n % 2, 1),), ((n, n % 2, 0),))
        for n in range(2000)
    ]
    html, problems = pages.make(of, suspects, title="Many", ranking="plain")
    assert problems == []
    path = tmp_path / "review.html"
    path.write_text(html)
    page, _ = opened(browser.new_context(), path)
    seconds = page.evaluate(
        """async () => {
          const start = performance.now();
          for (let n = 0; n < 100; n++) {
            select(n * 20);
            give(n * 20, "y");
            await new Promise((done) => requestAnimationFrame(done));
          }
          return (performance.now() - start) / 1000;
        }"""
    )
    assert seconds / 100 < 0.2
    loaded = page.evaluate("document.querySelectorAll('img[src]').length")
    assert 20 < loaded <= 2000
    print(json.dumps({"per answer": seconds / 100, "pictures": loaded, "MB": len(html) / 1e6}))
    page.close()
