"""report.html in a real browser: it draws, filters, and lets nothing that a model wrote run."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from rlvr.report import write_report
from tests.unit.results_dir import make_rows, write_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium in the PATH"),
]

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two benchmarks: 200 problems x 8 with two metadata columns, and 1,319 x 1."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("run")
    letters = {
        f"problem-{index}": "".join(rng.choices("cinle", (6, 6, 2, 1, 1), k=8))
        for index in range(199)
    }
    letters["left-out"] = "eeeeeeee"
    metadata = {
        name: {"level": rng.randint(1, 5), "subject": rng.choice(["Algebra", "Sets <&>"])}
        for name in letters
    }
    rows = make_rows(letters, metadata)
    for row in rows:
        row["num_tokens"] = rng.randint(5, 300)
        row["completion"] = f"{HOSTILE} needle-{row['problem_id']}-{row['sample']}"
    write_results(folder, rows, benchmark="a-main", model={"name": HOSTILE, "hash": "0"})
    one_each = {str(index): rng.choice("ci") for index in range(1_319)}
    write_results(folder, make_rows(one_each), benchmark="b-single")
    write_report(folder, folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, report: str) -> Iterator[Page]:
    """The open report; fails at the end if anything was logged, thrown or requested."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda each: None if each.url == report else trouble.append(each.url))
    page.goto(report)
    yield page
    broken = page.evaluate("window.broken")
    context.close()
    assert trouble == [] and broken is None


def count(page: Page, text: str) -> None:
    """Wait until the line above the table says so: the search waits for a pause in typing."""
    page.wait_for_function(
        "text => document.getElementById('count').textContent === text", arg=text
    )


def opened(problem: Locator) -> None:
    """Click on a problem and wait for its completions."""
    problem.locator("summary").click()
    problem.locator(".sample").first.wait_for()


def sizes(page: Page, selector: str) -> list[dict[str, Any]]:
    return page.eval_on_selector_all(
        selector, "all => all.map(each => each.getBoundingClientRect().toJSON())"
    )


def test_charts_are_drawn(page: Page) -> None:
    assert page.locator(".chart polyline.line").count() == 3
    assert page.locator(".chart polygon.band").count() == 3
    assert page.locator(".chart circle.dot").count() == 3 * 8
    bars = sizes(page, ".chart rect.bar:not(.cut)")
    assert len(bars) > 9 and max(bar["height"] for bar in bars) > 100
    statuses = [each["width"] for each in sizes(page, ".bars .fill")]
    assert len(statuses) == 5 and statuses[-1] < max(statuses) / 2
    ranges = sizes(page, ".intervals .range")
    assert len(ranges) == 7 and all(2 < each["width"] < 400 for each in ranges)
    svgs = sizes(page, ".card svg[role=img]")
    assert len(svgs) == 3 and all(each["width"] > 250 for each in svgs)


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    opened(page.locator("#problems details").first)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_problems_come_in_pages_and_completions_on_opening(page: Page) -> None:
    count(page, "200 of 200 problems")
    assert page.locator("#problems details").count() == 50
    assert page.locator("#problems pre").count() == 0
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#problems details").count() == 100
    for _ in range(2):
        page.get_by_role("button", name="Show more").click()
    assert not page.get_by_role("button", name="Show more").is_visible()
    first = page.locator("#problems details").first
    opened(first)
    assert first.locator(".sample").count() == 8
    assert first.locator(".sample pre").first.inner_text().startswith(HOSTILE)


def test_search_finds_text_of_completions(page: Page) -> None:
    page.fill("#search", "NEEDLE-problem-7-3")
    count(page, "1 of 200 problems")
    page.fill("#search", "no such text")
    count(page, "0 of 200 problems")
    assert page.locator("#problems .none").is_visible()
    page.fill("#search", "")
    count(page, "200 of 200 problems")


def test_filters_combine_and_show_only_what_was_asked_for(page: Page) -> None:
    page.get_by_label("difficulty").select_option("unjudged")
    count(page, "1 of 200 problems")
    page.get_by_label("difficulty").select_option("")
    page.get_by_label("subject").select_option(label="Sets <&>")
    page.get_by_label("verdict").select_option("limit")
    page.get_by_label("order").select_option("hardest")
    first = page.locator("#problems details").first
    opened(first)
    shown = first.locator(".sample header b").all_inner_texts()
    assert shown and set(shown) == {"limit"}
    assert "subject: Sets <&>" in first.inner_text()
    rates = [
        int(right) / int(judged)
        for right, judged in (
            each.split("/") for each in page.locator("#problems .rate").all_inner_texts()
        )
        if judged != "0"
    ]
    assert rates == sorted(rates) and len(rates) > 5


def test_the_other_benchmark_opens_without_curves(page: Page) -> None:
    page.get_by_role("button", name="b-single").click()
    count(page, "1,319 of 1,319 problems")
    assert page.locator(".chart polyline.line").count() == 0
    assert page.locator(".chart rect.bar").count() > 0
    assert page.locator("h1").inner_text() == "tiny"


def test_dark_mode_has_readable_text(browser: Browser, report: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(report)
    ink, page_color = page.evaluate(
        "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
    )
    context.close()
    assert (ink, page_color) == ("rgb(255, 255, 255)", "rgb(13, 13, 13)")
