"""The pages in a real browser, which finds no network but the server's own address."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Project, copy, serving
from test_pipeline import held_out, predict

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium (Debian's chromium) is not installed"),
]

KEY = "a-key-of-the-tests"
SHOTS = os.environ.get("SCREENSHOTS")  # a folder to look at the page in
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # The system's own browser, as no other may be downloaded; root needs --no-sandbox.
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(
    pipeline: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, str]]:
    """The project and the address of its server, which asks for a key."""
    project = copy(pipeline, tmp_path_factory.mktemp("page"), promoted=True)
    program = str(pipeline.path / ".venv/bin" / pipeline.slug)
    with serving(project, program, "serve", API_KEYS=f"tester:{KEY}") as address:
        yield project, address


@pytest.fixture
def visit(browser: Any, served: tuple[Project, str]) -> Iterator[Any]:
    """Return a function that opens the page; nothing may go wrong or be asked elsewhere."""
    _, address = served
    wrong: list[str] = []
    expected: list[int] = []  # statuses that the browser reports as errors, and a test provokes

    def watch(page: Any) -> None:
        def heed(route: Any) -> None:
            if route.request.url.startswith(f"{address}/"):
                route.continue_()
            else:
                wrong.append(f"asked {route.request.url}")
                route.abort()

        def said(message: Any) -> None:
            provoked = any(f"status of {status}" in message.text for status in expected)
            if message.type in ("error", "warning") and not provoked:
                wrong.append(message.text)

        page.route("**/*", heed)
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(str(error)))

    with ExitStack() as until_the_end:

        def visit(provoked: tuple[int, ...] = (), **options: Any) -> Any:
            context = browser.new_context(
                **{"viewport": DESK, "service_workers": "block"} | options
            )
            until_the_end.callback(context.close)
            page = context.new_page()
            expected.extend(provoked)
            watch(page)
            page.goto(f"{address}/")
            return page

        yield visit
    assert not wrong


def shoot(page: Any, name: str) -> None:
    if SHOTS:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def enter(page: Any, name: str, keys: str) -> None:
    """Type over what a field holds, without a mouse."""
    page.get_by_label(name, exact=True).focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(keys)


def answer(page: Any) -> Any:
    playwright.expect(page.locator("#answer > *").first).to_be_visible()
    return page.locator("#answer")


def problem(page: Any, name: str) -> str:
    """Return what is said of a field, as a screen reader would find it."""
    field = page.get_by_label(name, exact=True)
    playwright.expect(field).to_have_attribute("aria-invalid", "true")
    playwright.expect(field).to_be_focused()
    about = field.get_attribute("aria-describedby").split()
    return " ".join(
        page.locator(f"#{part}").inner_text() for part in about if part.endswith("-error")
    )


def test_the_form_predicts_what_the_api_predicts_and_needs_no_mouse(
    visit: Any, served: tuple[Project, str]
) -> None:
    project, address = served
    page = visit()
    enter(page, "arrival_minute", "7")
    enter(page, "temperature", "")
    page.keyboard.press("Delete")  # it may be missing
    page.get_by_label("origin", exact=True).focus()
    page.keyboard.type("LGA")
    page.get_by_label("API key", exact=True).focus()
    page.keyboard.type(KEY)
    page.keyboard.press("Tab")
    playwright.expect(page.get_by_role("button", name="Predict")).to_be_focused()
    page.keyboard.press("Enter")
    shown = answer(page).inner_text()
    manifest = json.loads((project.path / "build/champion/bundle.json").read_text("utf-8"))
    row = manifest["example"] | {"arrival_minute": 7, "origin": "LGA"}
    del row["temperature"]
    headers = {"X-API-Key": KEY}
    asked = httpx.post(f"{address}/v1/predict", json={"rows": [row]}, headers=headers).json()
    (expected,) = asked["predictions"]
    assert shown.splitlines()[0] == expected["label"]
    for name, share in expected["probabilities"].items():
        assert name in shown
        assert f"{100 * share:.1f} %".replace(".0 %", " %") in shown
    assert f"of version {asked['model_version']}" in shown
    shoot(page, "answer")


def test_what_the_browser_or_the_server_refuses_is_said_beside_its_field(visit: Any) -> None:
    page = visit(provoked=(401, 422))
    enter(page, "arrival_minute", "9999")
    page.keyboard.press("Enter")
    assert "1439" in problem(page, "arrival_minute")
    assert "mend what is marked" in answer(page).inner_text()
    # The same without the browser's help: the server must say it. But it asks for the key first.
    page.get_by_label("arrival_minute", exact=True).evaluate(
        "field => field.removeAttribute('max')"
    )
    page.keyboard.press("Enter")
    assert problem(page, "API key") == "A key is needed."
    page.keyboard.type("another")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#key-error")).to_have_text("This key is not known.")
    enter(page, "API key", KEY)
    page.keyboard.press("Enter")
    assert "1439" in problem(page, "arrival_minute")
    playwright.expect(page.locator("#key-error")).to_be_empty()
    shoot(page, "refused")
    enter(page, "arrival_minute", "1439")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#answer .result")).to_be_visible()
    playwright.expect(page.locator("[aria-invalid=true]")).to_have_count(0)


@pytest.mark.parametrize(
    ("status", "headers", "body", "words"),
    [
        (429, {"Retry-After": "7"}, '{"detail": "slow down"}', "Try again in 7 s."),
        (503, {}, '{"detail": "full"}', "cannot answer just now"),
        (400, {}, '{"detail": "<b>not</b> JSON"}', "<b>not</b> JSON"),
        (500, {}, "<html>", "failed with 500"),
        (200, {}, "<html>", "cannot be read"),
    ],
)
def test_other_refusals_are_said_in_words(
    visit: Any, status: int, headers: dict[str, str], body: str, words: str
) -> None:
    page = visit(provoked=(status,))
    # What a server without troubles does not answer.
    page.route(
        "**/v1/predict", lambda route: route.fulfill(status=status, headers=headers, body=body)
    )
    page.get_by_role("button", name="Predict").click()
    assert words in answer(page).inner_text()
    playwright.expect(page.get_by_role("button", name="Predict")).to_be_enabled()


def test_the_state_is_shown_and_a_new_version_is_announced(visit: Any) -> None:
    page = visit(provoked=(502, 503))
    playwright.expect(page.locator("#state")).to_have_text("Version 1 is ready")
    looks = iter(
        [
            (200, {"status": "ready", "model_version": "2", "log": {"spool_rows": 12345}}),
            (503, {"status": "not ready", "model_version": "1", "refused": "it was <changed>"}),
        ]
    )

    def next_look() -> None:
        status, body = next(looks)
        page.unroute("**/health/ready")
        page.route("**/health/ready", lambda route: route.fulfill(status=status, json=body))
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # looks at once

    next_look()
    playwright.expect(page.locator("#state")).to_contain_text(
        "Version 2 is ready. Reload this page"
    )
    playwright.expect(page.locator("#details")).to_have_text("rows that wait on disk12,350")
    next_look()
    playwright.expect(page.locator("#state")).to_have_text("Version 1 is not ready")
    playwright.expect(page.locator("#details")).to_have_text("refusedit was <changed>")
    page.unroute("**/health/ready")
    page.route("**/health/ready", lambda route: route.fulfill(status=502, body="<html>"))
    playwright.expect(page.locator("#state")).to_have_text(
        "The server cannot be reached", timeout=20_000
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_nothing_is_wider_than_the_screen_and_texts_can_be_read(
    visit: Any, viewport: dict[str, int], scheme: str
) -> None:
    page = visit(viewport=viewport, color_scheme=scheme)
    enter(page, "API key", KEY)
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#answer .result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    for place in ("label", ".hint", "a", "button", "#state", "#answer .result", "article p", "td"):
        assert contrast(page, place) >= 4.5, place  # what WCAG 2.2 asks for (AA)
    for box in page.locator("input:visible, select, button").all():
        assert box.bounding_box()["height"] >= 24
    shoot(page, f"{viewport['width']}-{scheme}")


@pytest.fixture(scope="module")
def reported(served: tuple[Project, str]) -> Project:
    """The project with a monitored window and the summary of a retraining."""
    project, address = served
    headers = {"X-API-Key": KEY}
    predict(address, held_out(project, 600), **headers).raise_for_status()
    for verb in ("monitor", "retrain"):
        project.uv(project.slug, verb, check=False)
    return project


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_report_fits_the_screen_and_links_to_what_is_there(
    browser: Any, reported: Project, width: int, scheme: str
) -> None:
    build = reported.path / "build"
    pages = list((reported.path / "reports").rglob("*.html"))
    pages += [build / "bundle/card.html", build / "champion/card.html"]
    own = [path for path in pages if path.name != "evidently.html"]  # which has a page of its own
    assert {path.name for path in own} >= {"evaluation.html", "validation.html", "summary.html"}
    assert len(own) >= 8
    viewport = {"width": width, "height": 900}
    context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for path in own:
        page.goto(path.as_uri())
        name = path.relative_to(reported.path).as_posix()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert contrast(page, "h1") >= 4.5, name
        assert contrast(page, ".quiet") >= 4.5, name
        links = page.locator("a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
        assert links, name
        for link in links:
            assert (path.parent / link).is_file(), f"{name}: {link}"
        shoot(page, f"{name.replace('/', '-')}-{width}-{scheme}")
    context.close()
    assert not wrong


def contrast(page: Any, place: str) -> float:
    """Return the contrast of a text to what is behind it, from 1 to 21, as WCAG defines it."""
    colours = page.locator(place).first.evaluate(
        """element => {
          const text = getComputedStyle(element).color;
          let back = "rgba(0, 0, 0, 0)";
          for (; back === "rgba(0, 0, 0, 0)" && element; element = element.parentElement)
            back = getComputedStyle(element).backgroundColor;
          return [text, back].map((colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number));
        }"""
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    shares = [part / 255 for part in colour]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_without_a_script_the_card_is_there_and_the_form_says_why_it_is_not(visit: Any) -> None:
    page = visit(java_script_enabled=False)
    playwright.expect(page.get_by_text("The form needs JavaScript")).to_be_visible()
    playwright.expect(page.get_by_role("button", name="Predict")).to_be_disabled()
    playwright.expect(page.get_by_role("heading", name="Model card: flight-delays")).to_be_visible()
