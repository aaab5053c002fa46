from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import llmpq_jax
from tools import generated, write_cli_docs, write_format_docs, write_results
from tools.format_examples import FILES
from tools.type_names import record_in, type_name

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
LANGUAGE = tomllib.loads((ROOT / "tests/language.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [write_format_docs, write_cli_docs, write_results])
def test_a_generated_page_is_what_its_tool_writes(page, capsys):
    code = generated.main(
        page.render, ROOT / page.PAGE, module=page.__name__, arguments=["--check"]
    )
    assert code == 0, capsys.readouterr().err


def test_checking_a_page_that_is_out_of_date_says_how_to_write_it(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("old\n")
    arguments = {"path": path, "module": "tools.write_x"}
    assert generated.main(lambda: "new\n", arguments=["--check"], **arguments) == 1
    shown = capsys.readouterr().err
    assert "-old\n+new\n" in shown
    assert "page.md is out of date: run python -m tools.write_x" in shown
    assert generated.main(lambda: "new\n", arguments=[], **arguments) == 0
    assert generated.main(lambda: "new\n", arguments=["--check"], **arguments) == 0


def test_a_page_s_tool_refuses_other_arguments(tmp_path, capsys):
    path = tmp_path / "page.md"
    code = generated.main(str, path, module="tools.write_x", arguments=["--chek"])
    assert code == 2
    assert not path.exists()
    assert "usage: python -m tools.write_x [--check]" in capsys.readouterr().err


def records_of_all_files() -> set[type]:
    found: set[type] = set()
    todo: list[type] = [kind.cls for kind in FILES]
    while todo:
        cls = todo.pop()
        found.add(cls)
        hints = write_format_docs.get_type_hints(cls, include_extras=True)
        inner = [record_in(hint)[0] for hint in hints.values()]
        todo += [each for each in inner if each is not None and each not in found]
    return found


@pytest.mark.parametrize("cls", sorted(records_of_all_files(), key=str))
def test_a_record_s_docstring_explains_each_field_once_and_in_order(cls):
    assert list(write_format_docs.attributes(cls)) == [f.name for f in fields(cls)]


def test_a_type_without_a_name_is_refused():
    with pytest.raises(TypeError, match="complex'> has no name: expected a type that"):
        type_name(complex)


def test_the_packages_in_the_table_are_those_on_disk():
    listed = re.findall(r"^\| \d+ \| `(\w+)` \|", ARCHITECTURE, flags=re.MULTILINE)
    on_disk = [path.parent.name for path in ROOT.glob("llmpq_jax/*/__init__.py")]
    assert sorted(listed) == sorted(on_disk)


def test_the_layers_in_the_table_are_those_that_are_checked():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", ARCHITECTURE, flags=re.MULTILINE)
    described = [{name for n, name in rows if n == level} for level, _ in rows]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    checked = [set(re.findall(r"\w+", layer)) for layer in layers[:-2]]
    assert [level for level in checked for _ in level] == described
    assert layers[-2:] == ["interrupts", "units | errors"]


def test_the_places_named_in_the_architecture_exist():
    table = ARCHITECTURE.partition("## Where do I change")[2].partition("\n## ")[0]
    places = re.findall(r"`([a-z_/]+(?:/|\.py))`", table)
    assert len(places) > 10
    assert [p for p in places if not (ROOT / "llmpq_jax" / p).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(
        r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")
    )
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(page):
    links = re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in anchors(page.parent / target if target else page)
    ]
    assert missing == []


def test_the_index_of_pages_names_each():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert linked == pages


def test_the_page_of_the_interface_names_all_of_it():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)", text))
    assert set(llmpq_jax.__all__) - {"__version__"} <= named
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for names in re.findall(r"^from llmpq_jax import (.*)$", block, re.MULTILINE):
            assert set(names.split(", ")) <= set(llmpq_jax.__all__)
        compile(block, "docs/api.md", "exec")


def test_the_index_of_tools_names_each():
    index = (ROOT / "tools/README.md").read_text(encoding="utf-8")
    programs = {path.name for path in ROOT.glob("tools/*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in ROOT.glob("tools/*/__init__.py")}
    named = set(re.findall(r"`(\w+(?:\.py|/))`", index))
    # What only runs as the part of another tool is in that tool's page.
    assert programs | folders - {"emulation/"} <= named
    assert [name for name in named if not (ROOT / "tools" / name).exists()] == []


def test_terms_of_the_glossary_are_in_order_and_each_is_there_once():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    spelled_out = text.replace("ω (omega)", "omega").replace("θ (theta)", "theta")
    all_terms = []
    for section in spelled_out.split("\n## ")[1:]:
        rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
        terms = [term.lower() for term in rows if term != "term"]
        assert terms == sorted(terms)
        all_terms += terms
    assert len(all_terms) == len(set(all_terms)) > 60


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_pages_of_the_root_use_the_project_s_words(page):
    refused = [re.compile(word) for word in LANGUAGE["words"]]
    lines = page.read_text(encoding="utf-8").splitlines()
    # A table of renamed things names the old ones, as code.
    prose = [re.sub(r"`[^`]*`", "", line) for line in lines]
    assert [line for line in prose if any(word.search(line) for word in refused)] == []


def test_decisions_are_numbered_without_gaps_and_have_all_parts():
    pages = sorted(ROOT.glob("docs/adr/*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]} ")
        assert re.search(
            r"^\*Status:\* (accepted|superseded by \d{4})$", text, re.MULTILINE
        )
        parts = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "Alternatives"]


@pytest.mark.parametrize(
    ("page", "most"),
    [("README.md", 130), ("CONTRIBUTING.md", 120), ("docs/architecture.md", 160)],
)
def test_a_page_that_everybody_reads_stays_short(page, most):
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= most


def test_the_tools_that_write_pages_run_as_commands():
    command = [sys.executable, "-m", "tools.write_format_docs", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
