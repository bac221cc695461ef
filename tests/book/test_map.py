"""The map in a browser: what is lit, what a tap does, and both themes. Its chapter tests the rest."""

from pathlib import Path

import pytest

from scratchlm.workshop.map import draw_map
from scratchlm.workshop.tree import Tech, Tree


def tech(id, era, *requires, written=True):
    notebook = Path(f"nbs/{era}/{id}.ipynb") if written else None
    return Tech(id, id.title(), f"about {id}", era, requires, notebook=notebook)


TREE = Tree({each.id: each for each in [
    tech("array", "old"), tech("slope", "old", "array"), tech("text", "new", "array", written=False),
    tech("linear", "new", "slope", written=False), tech("mlp", "new", "linear", written=False)]},
    {"old": "Old", "new": "New"})
STATES = {"array": "unlocked", "slope": "locked", "text": "planned", "linear": "planned", "mlp": "planned"}


def open_map(browser, **options):
    """A page that holds the map inline, and the list of what goes wrong in it."""
    page, problems = browser.new_page(**options), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    html = f"<!DOCTYPE html><body style='color: rgb(1, 2, 3)'>{draw_map(TREE, STATES)}"
    page.route("http://book.test/**", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("http://book.test/index.html")
    return page, problems


def lit(page):
    return set(page.eval_on_selector_all(".node.near", "all => all.map(each => each.dataset.id)"))


def test_pointing_lights_up_what_is_before_and_behind(browser):
    page, problems = open_map(browser)
    page.hover("#n-slope")
    assert lit(page) == {"array", "slope", "linear", "mlp"}
    ends = "all => all.map(line => line.dataset.from + '-' + line.dataset.to)"
    found = page.eval_on_selector_all(".lines .near", ends)
    assert set(found) == {"array-slope", "slope-linear", "linear-mlp"}
    page.hover("#n-text")  # array leads to slope too, but text has nothing to do with that
    assert lit(page) == {"array", "text"}
    page.mouse.move(1, 1)
    assert lit(page) == set() and problems == []


def test_the_tab_key_goes_through_the_chapters_in_order(browser):
    page, problems = open_map(browser)
    for expected in ("array", "slope"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.dataset.id") == expected
        assert expected in lit(page)
    page.keyboard.press("Enter")
    page.wait_for_url("http://book.test/old/slope.html")
    assert problems == []


def test_the_first_tap_lights_up_and_the_second_follows(browser):
    page, problems = open_map(browser, has_touch=True)
    page.tap("#n-slope")
    assert page.url.endswith("index.html") and "mlp" in lit(page)
    page.tap("#n-linear")  # planned: there is nothing to follow
    assert page.url.endswith("index.html") and "array" in lit(page)
    page.tap("#n-slope")
    page.tap("#n-slope")
    page.wait_for_url("http://book.test/old/slope.html")
    assert problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_page_and_as_an_image_the_reader(browser, scheme):
    page, _ = open_map(browser, color_scheme=scheme)
    assert page.eval_on_selector("#n-mlp text", "text => getComputedStyle(text).fill") == "rgb(1, 2, 3)"
    page.route("http://book.test/map.svg",
               lambda route: route.fulfill(body=draw_map(TREE, STATES), content_type="image/svg+xml"))
    page.goto("http://book.test/map.svg")  # alone, it is its own root
    fill = page.eval_on_selector("#n-mlp text", "text => getComputedStyle(text).fill")
    red = int(fill.removeprefix("rgb(").partition(",")[0])
    assert red > 150 if scheme == "dark" else red < 110
