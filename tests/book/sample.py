"""A small book that uses everything the renderer knows, written into a folder for each test."""

import json
import shutil
from pathlib import Path

THEME = Path(__file__).resolve().parents[2] / "nbs" / "theme"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk+M9Qz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC"
)
SVG = """<?xml version="1.0"?>
<!DOCTYPE svg>
<svg xmlns="http://www.w3.org/2000/svg" width="240pt" height="80pt" viewBox="0 0 240 80">
<metadata>no</metadata>
<defs><clipPath id="clip"><rect width="240" height="80"/></clipPath></defs>
<g clip-path="url(#clip)"><path id="axis" d="M10 70H230" stroke="#7d8287"/>
<path d="M10 70C80 60 120 10 230 12" fill="none" stroke="#3b8fbd" stroke-width="2"/></g></svg>
"""
MAP = """<svg xmlns="http://www.w3.org/2000/svg" width="320" height="60" viewBox="0 0 320 60">
<a id="n-first" href="FOLDERfirst.ipynb#sec-first"><text x="10" y="30" fill="#7d8287">First</text></a></svg>
"""

CONFIG = """
project: {type: book, output-dir: _book}
lang: en-GB
bibliography: references.bib
book:
  title: A sample
  subtitle: A book to try the renderer on
  site-url: https://example.org/sample
  repo-url: https://example.org/repo
  repo-branch: main
  repo-subdir: nbs
  repo-actions: [edit, source]
  chapters:
    - index.ipynb
    - part: "I. One"
      chapters: [one/first.ipynb]
    - part: "II. Two"
      chapters: [two/second.ipynb]
    - references.qmd
  appendices: [workshop/tools.ipynb]
"""

BIB = """
@article{able2014, author = {Able, Ann}, title = {On one thing}, journal = {Things}, year = {2014}}
@article{able2014b, author = {Able, Ann}, title = {On another thing}, journal = {Things}, year = {2014}}
@book{baker1999, author = {Baker, Bob}, title = {Never cited}, publisher = {Nobody}, year = {1999}}
"""


def md(text):
    return {"cell_type": "markdown", "source": text}


def raw(text):
    return {"cell_type": "raw", "source": text}


def code(text, *outputs):
    return {"cell_type": "code", "source": text, "outputs": list(outputs)}


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text.splitlines(True)}


def shown(**data):
    kinds = {"svg": "image/svg+xml", "png": "image/png", "html": "text/html", "plain": "text/plain"}
    return {"output_type": "display_data", "metadata": {}, "data": {kinds[k]: v for k, v in data.items()}}


INDEX = [
    md("""# A sample

> The front page.

Begin with [the first](one/first.ipynb) or @sec-second.

![The map](map.svg){.inline}

## How to read

Slowly, and `Thing.run` first.""")
]

FRAME = """<div><style scoped>x{}</style><table border="1" class="dataframe"><tr><th></th><th>a</th></tr>
<tr><th>0</th><td>1</td></tr></table></div>"""

FIRST = [
    raw("---\ntech:\n  id: first\n---"),
    md("""# First things {#sec-first}

> What comes first, in one line.

See @sec-second, @sec-deep, [@fig-plot; @fig-drawn], @eq-line, @tbl-words, @tbl-frame and @sec-tools.
Cited: @able2014 and [@able2014b, p. 3].[^n]

[^n]: A footnote with $x$."""),
    code("#| default_exp one.first"),
    code("#| exports\nimport math"),
    md("""## A section

### Deeper {#sec-deep}

Text with $a_i$.

$$ y = \\sum_{i=1}^n a_i x_i + b $$ {#eq-line}

After [-@eq-line]."""),
    code("""#| exports
class Thing:
    'A thing.'
    def run(self): return math.pi


def helper(x: int) -> int:
    # a comment
    return x + 1"""),
    code("#| export\ndef hidden(): return 1"),
    code("#| hide\nsecret = 1"),
    code('print("hello")\nThing()', stream("hello\n"), stream("careful\n", "stderr"), shown(plain="<Thing>")),
    code(
        '#| label: fig-plot\n#| fig-cap: "A *curve*."\n#| fig-alt: "A rising curve"\nplot()', shown(svg=SVG)
    ),
    code("plot()", shown(svg=SVG)),
    code("#| echo: false\nimage()", shown(png=PNG, plain="<Image>")),
    md("""![A drawing with $x$.](map.svg){#fig-drawn .inline}

| word | count |
|------|-------|
| a    | 1     |

: Words. {#tbl-words}"""),
    code('#| label: tbl-frame\n#| tbl-cap: "A frame."\nframe', shown(html=FRAME, plain="a")),
    code("#| output: asis\nprint(1)", stream("Written *as it is*.\n")),
    code("#| code-fold: true\n#| code-summary: Show it\nfolded = 1"),
    code(
        "1/0",
        {
            "output_type": "error",
            "ename": "ZeroDivisionError",
            "evalue": "division by zero",
            "traceback": ["\x1b[31mZeroDivisionError\x1b[0m: division by zero"],
        },
    ),
    code("bar()", stream("10%\r90%\r100%\ndone\n")),
    code("print('x' * 300)", stream("x" * 300 + "\n")),
    md("""::: {.callout-tip collapse="true" title="Solution"}
Opened **here**.

```python
x = 1
```
:::

::: {.callout-note}
## With a title

Text.
:::

::: {.callout-warning}
Hot.
:::

::: {.callout-important}"""),
    code("inside_a_callout = True"),
    md(""":::

::: {.panel-tabset}
## NumPy

`add`

## Torch

```python
import torch
```
:::"""),
]

WIDE = "x + " * 40
SECOND = [
    raw("---\ntech:\n  id: second\ntoc: false\n---"),
    md("""# Second things {#sec-second}

> After the first.

`Thing` and `helper()` come from [the first](../one/first.ipynb#sec-deep). @able2014 again."""),
    code("#| default_exp two.second"),
    md(
        f"$$ {WIDE} x = 1 $$ {{#eq-long}}\n\n## Notes {{.unnumbered}}\n\n## Counted\n\n"
        + "".join("| " + " | ".join([cell] * 14) + " |\n" for cell in ("column", "---", "value"))
    ),
]

TOOLS = [
    raw("---\nworkshop: {id: tools, requires: []}\n---"),
    md("# Tools {#sec-tools}\n\n> The appendix.\n\n## A tool {#sec-tool}\n\n@sec-tool and `helper`."),
]

PAGES = {"index": INDEX, "one/first": FIRST, "two/second": SECOND, "workshop/tools": TOOLS}


def write_notebook(path: Path, cells: list[dict]):
    """Write a notebook whose cells have the ids c0, c1, c2 and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [{"id": f"c{number}", "metadata": {}} | cell for number, cell in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    notebook = {"cells": every, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


def write_book(root: Path, **changed: list[dict]) -> Path:
    """Write the sample book into `root`. `changed` has other cells for some pages: first=[...]."""
    for name, cells in PAGES.items():
        write_notebook(root / "nbs" / f"{name}.ipynb", changed.get(name.rpartition("/")[2], cells))
    (root / "_quarto.yml").write_text(CONFIG, encoding="utf-8")
    nbs = root / "nbs"
    (nbs / "references.bib").write_text(BIB, encoding="utf-8")
    (nbs / "references.qmd").write_text("# References {.unnumbered}\n\n::: {#refs}\n:::\n", encoding="utf-8")
    (nbs / "map.svg").write_text(MAP.replace("FOLDER", "one/"), encoding="utf-8")
    (nbs / "one" / "map.svg").write_text(MAP.replace("FOLDER", ""), encoding="utf-8")
    shutil.copytree(THEME, nbs / "theme", dirs_exist_ok=True)
    return root
