"""The renderer on a small book: numbers, references, cells, mistakes, and what a failed build leaves."""

import html
import re
import socket
import urllib.error
import urllib.request
from configparser import ConfigParser

import pytest
from sample import FIRST, INDEX, SECOND, THEME, code, md, shown, write_book, write_notebook

from scratchlm.workshop.book import BookError, process, render
from scratchlm.workshop.process import Book
from scratchlm.workshop.site import PortError, serve


def text(path) -> str:
    """The words of a page's main part, without markup."""
    body = re.search(r"<main.*?</main>", path.read_text(), re.S)[0]
    body = re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", body, flags=re.S)
    return " ".join(html.unescape(body).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def first(sample):
    return (sample / "one/first.html").read_text()


def test_references_have_quartos_words(sample):
    words = text(sample / "one/first.html")
    assert "Section 1.1.1, Figure 1.1, Figure 1.2, Equation 1.1, Table 1.1, Table 1.2 and Appendix A" in words
    assert "After 1.1." in words and "(1.1)" in words
    assert "Figure 1.1: A curve." in words and "Table 1.2: A frame." in words
    assert "Begin with the first or Chapter 2." in text(sample / "index.html")
    assert "Section A.1 and helper." in text(sample / "workshop/tools.html")
    assert "2.1 Counted" in text(sample / "two/second.html")


def test_references_lead_across_pages(sample, first):
    assert '<a href="../two/second.html#sec-second" class="xref">' in first
    assert '<a href="#fig-plot" class="xref">' in first
    assert 'href="../one/first.html#sec-deep"' in (sample / "two/second.html").read_text()
    assert 'href="one/first.html#sec-first"' in (sample / "index.html").read_text(), "a link inside the map"


def test_citations_agree_across_the_book(sample, first):
    assert "Able (2014b)" in text(sample / "one/first.html") and "(Able 2014a, 3)" in text(
        sample / "one/first.html"
    )
    assert "Able (2014b) again" in text(sample / "two/second.html")
    assert 'href="../references.html#ref-able2014"' in first
    entries = text(sample / "references.html")
    assert "On Another Thing" in entries and "Never cited" not in entries


def test_names_in_backticks_lead_to_their_definition(sample, first):
    assert 'id="Thing.run"' in first and 'id="hidden"' in first
    second = (sample / "two/second.html").read_text()
    assert '<a href="../one/first.html#Thing"><code>Thing</code></a>' in second
    assert '<a href="../one/first.html#helper"><code>helper()</code></a>' in second
    assert 'href="one/first.html#Thing.run"' in (sample / "index.html").read_text()


def test_cells_show_what_they_should(sample, first):
    words = text(sample / "one/first.html")
    assert "secret" not in words and "def hidden" not in words and "default_exp" not in words
    assert first.count('<span class="module">scratchlm.one.first</span>') == 2
    assert "image()" not in words and re.search(r'<img src="first_files/[^"]*\.png"', first)
    assert (sample / "one" / re.search(r'src="(first_files/[^"]*\.png)"', first)[1]).stat().st_size > 50
    assert "Written <em>as it is</em>" in first and "100% done" in words and "90%" not in words
    assert "ZeroDivisionError: division by zero" in words and "\x1b" not in first
    assert '<details class="code-fold"><summary>Show it</summary>' in first
    assert '<table border="1" class="dataframe">' in first and "<style scoped>" not in first


def test_blocks(first):
    assert '<details class="callout callout-tip"><summary class="callout-title">' in first
    assert first.count('class="callout callout-') == 4 and first.count('class="tab"') == 2
    inside = first[first.index("callout-important") : first.index('class="tabset"')]
    assert "inside_a_callout" in inside, "a callout that spans cells"
    assert "With a title" not in re.search(r'<nav class="toc".*?</nav>', first, re.S)[0]
    assert 'class="footnotes' in first and "<math" in first


def test_figures_follow_the_theme_and_have_ids_of_their_own(first):
    assert "#7d8287" not in first and first.count('stroke="currentColor"') == 2
    assert 'aria-label="A rising curve"' in first
    ids = re.findall(r'\sid="([^"]+)"', first)
    assert len(ids) == len(set(ids))
    assert first.count('id="axis"') == 1 and len(re.findall(r'id="svg\d+-axis"', first)) == 1
    renamed = re.search(r'id="(svg\d+-clip)"', first)[1]
    assert f"url(#{renamed})" in first


def test_the_frame(sample, first):
    assert "<title>1 First things – A sample</title>" in first
    assert '<meta name="description" content="What comes first, in one line.">' in first
    assert 'href="https://example.org/repo/edit/main/nbs/one/first.ipynb"' in first
    assert 'href="https://example.org/repo/blob/main/nbs/one/first.ipynb"' in first
    assert 'aria-current="page"' in first and 'rel="prev"' in first and 'rel="next"' in first
    assert (sample / "theme/search-index.js").read_text().startswith("window.searchIndex = [[")
    assert not re.search(r'(src|href)="(https?:)?//(?!example\.org/repo)', first), (
        "nothing comes from the network"
    )


def test_the_front_matter_of_the_tree_is_not_quartos(sample):
    processed = (sample.parent / "_proc/one/first.ipynb").read_text()
    assert "tech:" not in processed and "First things" in processed
    assert "toc: false" in (sample.parent / "_proc/two/second.ipynb").read_text()
    assert (sample.parent / "_proc/_quarto.yml").read_text() == (sample.parent / "_quarto.yml").read_text()


MISTAKES = {
    "an unknown figure": (
        INDEX + [md("@fig-plott")],
        "nbs/index.ipynb, cell c1: @fig-plott leads nowhere: no such "
        "label in the book; did you mean 'fig-plot'?",
    ),
    "an unknown citation": (
        INDEX + [md("[@able2015]")],
        "nbs/index.ipynb, cell c1: @able2015 has no entry in the bibliography; did you mean",
    ),
    "a label twice": (
        INDEX + [md("$$x$$ {#eq-line}")],
        "nbs/one/first.ipynb, cell c4: the label #eq-line is taken by nbs/index.ipynb, cell c1",
    ),
    "a link to no page": (
        INDEX + [md("[x](one/fist.ipynb)")],
        "nbs/index.ipynb, cell c1: the link to one/fist.ipynb "
        "leads to no page of the book; did you mean 'one/first.ipynb'?",
    ),
    "a link to no place": (
        INDEX + [md("[x](one/first.ipynb#sec-deeep)")],
        "nbs/index.ipynb, cell c1: the link to "
        "one/first.html#sec-deeep finds no #sec-deeep there; did you mean 'sec-deep'?",
    ),
    "a dead link in HTML": (
        INDEX + [md('<a href="gone.html">x</a>')],
        "nbs/index.ipynb, cell c1: the link to gone.html leads to no page of the book",
    ),
    "a missing picture": (
        INDEX + [md("![x](gone.png)")],
        "nbs/index.ipynb, cell c1: gone.png is missing: there is no file nbs/gone.png",
    ),
    "an unknown option": (
        INDEX + [code("#| fig-capp: x\nplot()", shown(plain="x"))],
        "nbs/index.ipynb, cell c1: the option 'fig-capp' is unknown here; did you mean 'fig-cap'?",
    ),
    "no title": ([md("Words.")], "nbs/index.ipynb: the page has 0 titles"),
}


@pytest.mark.parametrize("cells, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_and_leaves_the_old_book(tmp_path, cells, message):
    write_book(tmp_path, index=INDEX, first=FIRST)
    out = render("pandoc", tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    write_notebook(tmp_path / "nbs/index.ipynb", cells)
    with pytest.raises(BookError) as error:
        render("pandoc", tmp_path)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_book", "_proc", "_quarto.yml", "nbs"]


def test_all_mistakes_come_at_once(tmp_path):
    write_book(tmp_path, index=INDEX + [md("@fig-a")], second=SECOND + [md("@tbl-b")])
    with pytest.raises(BookError) as error:
        render("pandoc", tmp_path)
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "nbs/index.ipynb, cell c1",
        "nbs/two/second.ipynb, cell c4",
    ]


def test_a_page_that_is_listed_must_exist(tmp_path):
    write_book(tmp_path)
    (tmp_path / "nbs/two/second.ipynb").unlink()
    with pytest.raises(BookError, match=r"^_quarto\.yml: chapters: nbs/two/second\.ipynb does not exist$"):
        render("pandoc", tmp_path)


def test_a_second_build_does_only_what_is_needed(tmp_path, capsys, monkeypatch):
    write_book(tmp_path)
    out = render("pandoc", tmp_path)
    inode = (out / "index.html").stat().st_ino
    render("pandoc", tmp_path)
    assert (out / "index.html").stat().st_ino == inode and "up to date" in capsys.readouterr().out

    from scratchlm.workshop import book, crossref

    calls = []
    count = lambda *args, **more: calls.append(args) or crossref.pandoc(*args, **more)  # noqa: E731
    monkeypatch.setattr(book, "pandoc", count)
    write_notebook(tmp_path / "nbs/two/second.ipynb", SECOND + [md("A new paragraph.")])
    render("pandoc", tmp_path)
    assert "A new paragraph." in (out / "two/second.html").read_text()
    assert len(calls) == 1, "only the changed page is written again"


def test_what_was_removed_does_not_linger(tmp_path):
    write_book(tmp_path)
    process(tmp_path)
    (tmp_path / "nbs/one/extra.txt").write_text("x")
    process(tmp_path)
    assert (tmp_path / "_proc/one/extra.txt").exists()
    (tmp_path / "nbs/one/extra.txt").unlink()
    process(tmp_path)
    assert not (tmp_path / "_proc/one/extra.txt").exists()


def test_quarto_is_called_and_its_failure_is_an_error(tmp_path, monkeypatch):
    write_book(tmp_path)
    program = tmp_path / "quarto"
    program.write_text(
        '#!/bin/sh\necho "$@" > args\nmkdir -p "$2/_book" && echo made > "$2/_book/index.html"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("QUARTO", str(program))
    out = render(root=tmp_path)
    assert (out / "index.html").read_text() == "made\n"
    assert (tmp_path / "args").read_text() == f"render {tmp_path / '_proc'} --no-execute\n"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(BookError, match="Quarto could not render"):
        render(root=tmp_path, force=True)
    assert (out / "index.html").read_text() == "made\n"


def test_a_taken_port_is_one_clear_line(sample):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortError) as error:
            serve(port, sample.parent)
    assert str(error.value) == f"port {port} is taken; choose another, as in --port {port + 1}"


def test_the_server_is_quiet_and_knows_what_is_missing(sample, capfd, serving):
    with serving(sample) as top:
        assert b"The front page" in urllib.request.urlopen(f"{top}/").read()
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{top}/one/none.html")
        assert error.value.code == 404 and b'data-base="/"' in error.value.read()
    assert capfd.readouterr() == ("", "")


def test_the_settings_of_the_real_book_agree(root):
    settings = ConfigParser(interpolation=None)
    settings.read(root / "settings.ini")
    assert Book(root).out.name == settings["DEFAULT"]["doc_path"]
    assert (root / "nbs/_quarto.yml").resolve() == root / "_quarto.yml"


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), parts)
    )


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read(theme):
    blocks = re.findall(r"\{([^{}]*--paper:[^{}]*--err[^{}]*)\}", (THEME / "content.css").read_text())
    colours = dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", blocks[theme]))
    on_paper = ["ink", "soft", "faint", "accent", "note", "tip", "warning", "important", "err"]
    on_wash = ["ink", "soft", "kw", "fn", "str", "num", "com", "op", "err"]
    for names, ground in ((on_paper, "paper"), (on_wash, "wash"), (["accent"], "accent-wash")):
        for name in names:
            pair = sorted([luminance(colours[name]), luminance(colours[ground])])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, f"{name} on {ground}"
