"""The documentation holds what it says: its example runs, its links lead somewhere."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]


def test_the_example_of_the_readme_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    scope = {}
    exec(example, scope)
    assert scope["g"].y0.shape == (100, 2) and np.isfinite(scope["value"])
    assert "100 samples" in capsys.readouterr().out


def test_the_example_of_events_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/events.md").read_text(), re.S)
    scope = {}
    exec(example, scope)
    assert "[1. 2.]" in capsys.readouterr().out
    np.testing.assert_allclose(scope["g"].params["bounce"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(scope["fit"].params["bounce"], 0.6, atol=3e-3)


@pytest.mark.parametrize("name", ["stability", "stiff", "splitting"])
def test_a_page_says_what_is_printed(name):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    page = str(ROOT / "docs" / f"{name}.md")
    result = doctest.testfile(page, module_relative=False, optionflags=flags)
    assert result.failed == 0 and result.attempted > 5


def links(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            yield (page.parent / target).resolve()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert [str(target) for target in links(page) if not target.exists()] == []


def test_the_index_knows_every_page():
    index = ROOT / "docs" / "index.md"
    pages = set((ROOT / "docs").rglob("*.md")) - {index}
    assert pages - set(links(index)) == set()


def test_pages_that_the_code_names_exist():
    sources = [p for kind in ("*.py", "*.pyx", "*.h", "*.c") for p in (ROOT / "src").rglob(kind)]
    named = {name for p in sources for name in re.findall(r"docs/\S+?\.md", p.read_text("utf-8"))}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
