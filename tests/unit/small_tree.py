"""Small trees on disk, each made for one test: settings.ini, nbs/techtree.yml, and a notebook a chapter."""

import json
from pathlib import Path

ERAS = {"old": "Old times", "new": "New times"}


def write_notebook(path: Path, *cells: tuple[str, str]) -> Path:
    """Write a notebook of (kind, source) pairs; kind is "raw", "markdown" or "code"."""
    code = {"outputs": [], "execution_count": None}
    made = [{"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
            | (code if kind == "code" else {}) for number, (kind, source) in enumerate(cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}), "utf-8")
    return path


def chapter(id: str, *, era: str = "old", kind: str = "tech", requires: list[str] = (),
            front: str | None = None, title: str | None = None, export: str | None = None,
            test: str | None = None, cells: list[tuple[str, str]] = (), words: int = 320,
            **fields) -> list[tuple[str, str]]:
    """The cells of a chapter that keeps every rule, apart from what the arguments say.

    fields: further front matter, as in grants={…}. front, title, export, test: the whole of that cell.
    cells: more (kind, source) pairs, put before the test.
    """
    name = id.replace("-", "_")
    entry = {"id": id, "requires": list(requires)} | fields
    lines = [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    return [
        ("raw", front if front is not None else "\n".join(["---", f"{kind}:", *lines, "---"])),
        ("markdown", title or f"# The {id} {{#sec-{id}}}\n\n> It does what {id} does."),
        ("code", f"#| default_exp {era}.{name}"),
        ("markdown", "## How\n\n" + "word " * words),
        ("code", export or f"#| exports\ndef {name}_one() -> int:\n    \"\"\"One.\"\"\"\n    return 1"),
        *cells,
        ("code", test or f"def test_{name}():\n    assert {name}_one() == 1\n\ntest_{name}()"),
    ]


def small_tree(root: Path, chapters: dict[str, dict], *, planned: list[dict] = (),
               eras: dict[str, str] | None = None) -> Path:
    """Write a tree below `root` and return `root`.

    chapters: id -> arguments of `chapter`, and "file" for a path below nbs/ other than ERA/ID.ipynb.
    planned: rows of techtree.yml with their id; the rest is filled in.
    """
    (root / "nbs").mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").write_text("[DEFAULT]\nlib_name = scratchlm\n", "utf-8")
    filled = {"era": "new", "requires": [], "title": "Soon", "about": "it is planned"}
    rows = [filled | row for row in planned]
    plan = {"eras": ERAS if eras is None else eras, "planned": rows}
    (root / "nbs" / "techtree.yml").write_text(json.dumps(plan), "utf-8")  # JSON is YAML
    for id, options in chapters.items():
        options = dict(options)
        file = options.pop("file", f"{options.get('era', 'old')}/{id.replace('-', '_')}.ipynb")
        write_notebook(root / "nbs" / file, *chapter(id, **options))
    return root
