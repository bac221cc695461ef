"""The real book in a headless Chromium, from files and from a server."""

import re
from posixpath import dirname, normpath
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

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


# What a page says of itself, read once: opening them all is what takes the time.
FACTS = """() => ({
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  links: [...document.querySelectorAll("[href],[src]")]
    .map(e => e.attributes.href ?? e.attributes.src).map(a => a.value),
  broken: [...document.querySelectorAll("main code.short")]
    .filter(e => e.getClientRects().length > 1).map(e => e.textContent),
  narrow: [...document.querySelectorAll("main svg")].filter(e => e.getClientRects().length &&
    e.getBoundingClientRect().width < Math.min(e.viewBox.baseVal.width * .6, 440)).map(e => e.ariaLabel),
  ragged: [...document.querySelectorAll("mtd[columnalign=right]")].filter(e => e.lastElementChild &&
    e.getBoundingClientRect().right - e.lastElementChild.getBoundingClientRect().right > 9)
    .map(e => e.textContent),
})"""


@pytest.fixture(scope="module")
def on_a_phone(real, pages, open_for_all):
    """The facts of every page on a phone, whether it is too wide in each scheme, and what went wrong."""
    page, facts = open_for_all(width=390), {}
    for name in pages:
        page.goto((real / name).as_uri())
        facts[name] = page.evaluate(FACTS) | {"wide": []}
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                facts[name]["wide"].append(scheme)
    return facts, page.wrong


def test_every_link_and_anchor_resolves(real, on_a_phone):
    facts, dead = on_a_phone[0], []
    ids = {name: set(fact["ids"]) for name, fact in facts.items()}
    for name, url in ((name, url) for name, fact in facts.items() for url in fact["links"]):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "mailto", "data"):
            continue
        target = normpath(f"{dirname(name)}/{unquote(parts.path)}".lstrip("/")) if parts.path else name
        if not (real / target).is_file() or (
            parts.fragment and unquote(parts.fragment) not in ids.get(target, ())
        ):
            dead.append(f"{name}: {url}")
    assert not dead


@pytest.mark.parametrize("blemish", ["wide", "broken", "narrow", "ragged"])
def test_on_a_phone_nothing_is(on_a_phone, blemish):
    """No page scrolls sideways, no short code breaks over two lines, no figure's words are too small,
    and what stands left of the = of a formula stands close to it."""
    assert not {name: fact[blemish] for name, fact in on_a_phone[0].items() if fact[blemish]}


def test_no_page_says_an_error(on_a_phone):
    assert not on_a_phone[1]


def test_a_server_gives_the_same_book(real, server, pages):
    for name in pages:
        text = (real / name).read_bytes()
        with urlopen(f"{server}/{name}") as answer:
            assert text[text.index(b"<main") :] in answer.read(), name


def test_pages_of_a_server_ask_nobody_else(server, pages, open_page):
    page, of_each_part = open_page(), {dirname(name): name for name in pages}
    for name in of_each_part.values():
        page.goto(f"{server}/{name}")
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
