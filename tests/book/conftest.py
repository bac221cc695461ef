"""The sample book, the real book, and a browser that may not leave this machine."""

import asyncio
from contextlib import contextmanager
from threading import Thread

import pytest


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The folder of the sample book, built with Pandoc."""
    from sample import write_book

    from scratchlm.workshop.book import render

    root = write_book(tmp_path_factory.mktemp("book"))
    return render("pandoc", root)


@pytest.fixture(scope="session")
def real(root):
    """The folder of the real book, built if it is not up to date."""
    from scratchlm.workshop.book import render

    return render("pandoc", root)


@pytest.fixture(scope="session")
def serving(root):
    """A `with` block in which a book's folder is served; it has the address. load: of the chat's model."""
    from scratchlm.workshop.site import Assistant, listen, make_app, make_server

    @contextmanager
    def serve(folder, load=None):
        with listen(0) as taken:
            page = root / "nbs" / "theme" / "chat.html"
            models = (Assistant(name, load) for name in ("smollm2-135m", "tiny-words"))
            server = make_server(make_app(folder, page, *models))
            thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[taken])))
            thread.start()
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
            server.should_exit = True
            thread.join()

    return serve


@pytest.fixture(scope="module")
def browser(chromium):
    """A running Chromium. Playwright keeps an event loop running, so not beyond the module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opening(browser):
    """A function that opens pages in a fresh profile. What goes wrong is in `page.wrong`.

    That is, errors, warnings, and requests that leave the machine.
    """
    contexts = []

    def open_one(width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        contexts.append(context)
        page = context.new_page()
        page.wrong = []
        page.on(
            "console", lambda m: m.type in ("error", "warning") and page.wrong.append(f"{page.url}: {m.text}")
        )
        page.on("pageerror", lambda error: page.wrong.append(f"{page.url}: {error}"))
        local = ("file:", "data:", "blob:", "http://127.0.0.1:")
        page.on(
            "request", lambda r: r.url.startswith(local) or page.wrong.append(f"{page.url} asks for {r.url}")
        )
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(browser):
    """Opens pages for one test."""
    with opening(browser) as open_one:
        yield open_one


@pytest.fixture(scope="module")
def open_for_all(browser):
    """Opens pages for a whole file of tests."""
    with opening(browser) as open_one:
        yield open_one
