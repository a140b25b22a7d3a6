"""The page in a real browser: it opens from disk, answers to the hand, and fits every width."""

import shutil
import subprocess

import pytest

from mad_lightning.report import load
from mad_lightning.report.page import page

from .ledgers import GENERATIONS, lineage, picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    small = picture(60, 40, "L")
    loops = ("full_synth_of_a_rather_long_name", "full_synth", "fresh")
    runs = [lineage(root, loop, seed, picture=small) for loop in loops[1:] for seed in range(2)]
    runs.append(lineage(root, loops[0], 0, picture=small, metrics=lambda *_: {"recall": 0.5}))
    (runs[0] / "real.png").write_bytes(small)
    path = root / "report.html"
    path.write_text(page(load(runs)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, report):
    """Fails where the page complains, or asks for anything but itself."""
    heard, asked = [], []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert heard == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]


def visible(tab, selector):
    return [part for part in tab.query_selector_all(selector) if part.is_visible()]


def test_nothing_overflows_at_any_width_and_every_answer_is_visible(tab):
    for width in (1280, 768, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function(f"innerWidth === {width}")
        tab.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        answers = visible(tab, "#questions td .chip")
        assert len(answers) == tab.evaluate("document.querySelectorAll('#questions td').length")
        for box in (answer.bounding_box() for answer in answers):
            assert 0 <= box["x"] < box["x"] + box["width"] <= width


def test_groups_come_and_go(tab):
    curves = "#curves svg [data-group='0']"
    n = len(visible(tab, curves))
    tab.click("[data-toggle='0']")
    assert n > 0 == len(visible(tab, curves))
    tab.click("[data-toggle='0']")
    assert len(visible(tab, curves)) == n


def test_values_show_under_the_pointer_and_under_the_keys(tab):
    chart = tab.locator("figure.curves").first
    when, svg = sync_api.expect(chart.locator(".when")), chart.locator("svg")
    when.to_have_text(f"generation 1 → {GENERATIONS}")
    width = svg.bounding_box()["width"]
    svg.hover(position={"x": width - 20, "y": 80})
    when.to_have_text(f"generation {GENERATIONS}")
    tab.mouse.move(0, 0)
    when.to_have_text(f"generation 1 → {GENERATIONS}")
    svg.focus()
    tab.keyboard.press("ArrowLeft")
    when.to_have_text(f"generation {GENERATIONS - 1}")


def test_the_slider_shows_one_generation_of_every_strip(tab):
    tab.evaluate("slider.value = 2; slider.dispatchEvent(new Event('input'))")
    shown = visible(tab, ".film figure")
    assert [figure.get_attribute("data-generation") for figure in shown] == ["2"] * 5
    widths = tab.evaluate("[...document.images].filter(i => i.offsetWidth).map(i => i.offsetWidth)")
    assert all(width % 60 == 0 for width in widths)  # enlarged by a whole number
    tab.evaluate("slider.value = 0; slider.dispatchEvent(new Event('input'))")
    shown = [figure.get_attribute("data-generation") for figure in visible(tab, ".film figure")]
    assert shown == ["0", "1", "1", "1", "1"]
    tab.check("#all")
    assert len(visible(tab, ".film figure")) == 1 + 5 * GENERATIONS


def test_without_a_script_all_of_it_is_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert len(visible(page, ".film figure")) == 1 + 5 * GENERATIONS
    assert visible(page, "#slider") == []
    context.close()


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="there is no pdftotext")
def test_on_paper_every_generation_of_every_strip_is_there(tab, tmp_path):
    paper = tmp_path / "report.pdf"
    tab.pdf(path=str(paper), format="A4")
    told = subprocess.run(["pdftotext", paper, "-"], capture_output=True, text=True, check=True)
    for t in range(1, GENERATIONS + 1):
        assert told.stdout.count(f"generation {t}") >= 5
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 700, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") == 700
    assert (
        tab.evaluate("""[...document.querySelectorAll('body *')].filter(part =>
        part.getBoundingClientRect().right > innerWidth + 1).length""")
        == 0
    )
