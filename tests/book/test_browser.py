"""The real book in a headless Chromium, from files and from a server."""

import re
from posixpath import dirname, normpath
from urllib.parse import unquote, urlsplit

import pytest


@pytest.fixture(scope="module")
def pages(real):
    """The addresses of all pages, from the top of the book."""
    found = sorted(
        path.relative_to(real).as_posix() for path in real.rglob("*.html") if path.name != "404.html"
    )
    assert "index.html" in found and len(found) > 5
    return found


@pytest.fixture(scope="module")
def server(real, serving):
    """The address of the book on a server."""
    with serving(real) as url:
        yield url


@pytest.fixture(scope="module")
def a_chapter(pages):
    return next(page for page in pages if page.startswith("foundations/"))


def test_every_link_and_anchor_resolves(real, pages, open_page):
    page, ids, links = open_page(), {}, []
    for name in pages:
        page.goto((real / name).as_uri(), wait_until="domcontentloaded")
        ids[name] = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        links += [
            (name, url)
            for url in page.evaluate(
                "[...document.querySelectorAll('[href],[src]')]"
                ".map(e => e.attributes.href ?? e.attributes.src).map(a => a.value)"
            )
        ]
    dead = []
    for name, url in links:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "mailto", "data"):
            continue
        target = normpath(f"{dirname(name)}/{unquote(parts.path)}".lstrip("/")) if parts.path else name
        if not (real / target).is_file() or (
            parts.fragment and unquote(parts.fragment) not in ids.get(target, ())
        ):
            dead.append(f"{name}: {url}")
    assert not dead


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_on_a_phone_or_says_an_error(real, pages, open_page, scheme):
    page, wide = open_page(width=390, color_scheme=scheme), []
    for name in pages:
        page.goto((real / name).as_uri())
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(name)
    assert not wide
    assert not page.wrong


def test_a_server_gives_the_same_book_and_asks_nobody_else(server, pages, open_page):
    page = open_page()
    for name in pages:
        assert page.goto(f"{server}/{name}").status == 200
    assert not page.wrong
    page.goto(f"{server}/no/such/page.html")
    page.get_by_role("link", name="front page").click()
    assert page.url == f"{server}/index.html"


@pytest.mark.parametrize("where", ["file", "server"])
def test_search_finds_a_word(real, server, a_chapter, open_page, where):
    page = open_page()
    top = server if where == "server" else real.as_uri()
    page.goto(f"{top}/{a_chapter}")
    page.keyboard.press("/")
    page.keyboard.type("gradch")
    hit = page.locator(".finder [role=option]").first
    hit.wait_for()
    assert "gradcheck" in hit.inner_text().lower()
    assert page.locator(".finder mark").count()
    page.keyboard.press("ArrowDown")
    assert page.locator(".finder [aria-selected=true]").count() == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"derivative\.html"))
    assert not page.wrong


def test_titles_come_before_text(real, open_page):
    page = open_page()
    page.goto((real / "index.html").as_uri())
    page.locator(".bar .search").click()
    page.locator(".finder input").fill("einsum")
    hit = page.locator(".finder [role=option]").first
    hit.wait_for()
    assert re.search(r"\beinsum$", hit.locator("b").inner_text(), re.I)
    page.locator(".finder input").fill("zzzzqqq")
    assert "Nothing" in page.locator(".finder .none").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator(".finder").is_visible()


def background(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_dark_theme_toggles_and_persists(real, pages, open_page):
    page = open_page(color_scheme="light")
    page.goto((real / "index.html").as_uri())
    light = background(page)
    page.locator(".bar .theme").click()
    dark = background(page)
    assert dark != light
    page.goto((real / pages[0]).as_uri())
    assert background(page) == dark, "the choice holds on the next page"
    page.locator(".bar .theme").click()
    assert background(page) == light
    night = open_page(color_scheme="dark")
    night.goto((real / "index.html").as_uri())
    assert background(night) == dark, "without a choice, the system's"


def test_the_chapters_open_as_a_drawer_on_a_phone(real, a_chapter, open_page):
    page = open_page(width=390)
    page.goto((real / a_chapter).as_uri())
    current = page.locator("#sidebar [aria-current=page]")
    assert not current.is_visible()
    page.locator(".bar .menu").click()
    page.wait_for_timeout(300)
    assert current.is_visible()
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert not current.is_visible()
    assert not page.wrong


def test_the_book_can_be_read_without_scripts(real, a_chapter, open_page):
    page = open_page(java_script_enabled=False)
    page.goto((real / a_chapter).as_uri())
    assert page.locator("main h1").is_visible() and page.locator("#sidebar").is_visible()
    assert not page.locator(".bar .theme").is_visible()


def test_a_map_node_leads_to_its_chapter(real, open_page):
    page = open_page()
    page.goto((real / "index.html").as_uri())
    node = page.locator("main svg #n-tensor")
    link = (
        node
        if node.evaluate("e => e.tagName") == "a"
        else node.locator("xpath=ancestor-or-self::*[name()='a']")
    )
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"foundations/tensor\.html"))
    assert "Tensor" in page.locator("main h1").inner_text()


def test_lines_have_the_length_of_a_book(real, a_chapter, open_page):
    page = open_page()
    page.goto((real / a_chapter).as_uri())
    per_line = page.evaluate("""() => {
      const lengths = []
      for (const p of document.querySelectorAll("main > p")) {
        const lines = p.getBoundingClientRect().height / parseFloat(getComputedStyle(p).lineHeight)
        if (lines > 3 && !p.querySelector("math, .equation")) lengths.push(p.textContent.length / lines)
      }
      return lengths.sort((a, b) => a - b)[lengths.length >> 1]
    }""")
    assert 60 <= per_line <= 76


def test_search_finds_signs_inside_words_and_says_when_there_is_nothing(real, open_page):
    page = open_page()
    page.goto((real / "index.html").as_uri())
    page.keyboard.press("/")
    field, hits = page.locator(".finder input"), page.locator(".finder [role=option]")
    field.fill("->ik")  # stands in ij,jk->ik
    hits.first.wait_for()
    assert field.get_attribute("aria-expanded") == "true"
    for nothing in ("", "[[[("):
        field.fill(nothing)
        assert hits.count() == 0 and field.get_attribute("aria-expanded") == "false"
    assert not page.wrong


def test_short_code_stays_on_one_line(real, pages, open_page):
    page = open_page(width=390)
    for name in pages:
        page.goto((real / name).as_uri())
        broken = page.evaluate(
            "[...document.querySelectorAll('main code.short')]"
            ".filter(e => e.getClientRects().length > 1).map(e => e.textContent)"
        )
        assert not broken, name


def test_the_words_of_figures_are_legible_on_a_phone(real, pages, open_page):
    page = open_page(width=390)
    for name in pages:
        page.goto((real / name).as_uri())
        narrow = page.evaluate(
            "[...document.querySelectorAll('main svg')].filter(e => e.getClientRects().length &&"
            " e.getBoundingClientRect().width < Math.min(e.viewBox.baseVal.width * .6, 440))"
            ".map(e => e.ariaLabel)"
        )
        assert not narrow, name


def test_the_page_behind_an_open_drawer_cannot_be_reached(real, a_chapter, open_page):
    page = open_page(width=390)
    page.goto((real / a_chapter).as_uri())
    inert = "document.querySelector('.page').inert"
    page.locator(".bar .menu").click()
    assert page.evaluate(inert)
    page.set_viewport_size({"width": 1280, "height": 844})
    page.wait_for_function(f"!{inert}")
    assert not page.locator(".veil").is_visible()


def test_the_map_fits_on_paper(real, open_page):
    page = open_page(width=640)
    page.emulate_media(media="print")
    page.goto((real / "index.html").as_uri())
    assert page.evaluate("document.querySelector('.techmap').getBoundingClientRect().right <= innerWidth")
