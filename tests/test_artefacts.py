"""What docs/ keeps of what commands wrote: each thing once, known to the manifest, shown by a page, and light."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MANIFEST = DOCS / "results" / "MANIFEST.toml"
ENTRIES = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["kept"]
# Pages that people write; those that a command writes are themselves kept.
WRITTEN = {MANIFEST, DOCS / "results" / "README.md"}
# Above this, look first for what is kept twice or longer than it need be.
MOST_BYTES = 5_000_000


def tracked(folder: str) -> list[Path]:
    """The files of ``folder`` that git knows; in an archive of the sources all that lie there."""
    if not (ROOT / ".git").exists():
        return [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


KEPT = {*tracked("docs/results"), *tracked("docs/images"), *DOCS.glob("performance*.md")} - WRITTEN
PAGES = [ROOT / "README.md", *DOCS.rglob("*.md")]


def listed() -> list[Path]:
    names = [name for entry in ENTRIES for name in entry["files"]]
    return [path for name in names for path in (DOCS.glob(name) if "*" in name else [DOCS / name])]


def links(page: Path) -> set[Path]:
    """The files that a page links or shows."""
    addresses = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in addresses if not re.match(r"https?:|data:|mailto:", link)}


def test_the_manifest_has_each_kept_file_once() -> None:
    names = listed()
    assert len(names) == len(set(names))
    assert set(names) == KEPT


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["files"][0])
def test_an_entry_says_how_its_files_were_made(entry) -> None:
    assert entry.keys() <= {"files", "command", "made", "machine"}
    assert entry["command"].strip() and entry["made"].strip()
    for name in entry["files"]:
        assert "*" not in name or list(DOCS.glob(name)), name


def test_pages_link_what_is_kept() -> None:
    """Whatever is no page that somebody wrote: reports, pictures, numbers."""
    for page in PAGES:
        for target in links(page):
            assert target.exists(), (page, target)
            if target.is_file() and target.is_relative_to(DOCS) and target.suffix not in (".md", ".toml", ".py"):
                assert target in KEPT, (page, target)


def test_a_page_uses_what_is_kept() -> None:
    """By a link, or because the page of results tells how to take up the whole folder."""
    used = set().union(*map(links, PAGES))
    commands = (DOCS / "results" / "README.md").read_text(encoding="utf-8")
    for path in KEPT - used:
        folder = path.parent
        assert f"adamomentum study import {folder.name} {folder.relative_to(ROOT).as_posix()} " in commands, path


def test_nothing_is_kept_in_two_forms() -> None:
    """Of a figure the SVG, of trials the lines; what shows a figure in a page is the file."""
    forms = {".svg": "figure", ".pdf": "figure", ".png": "figure", ".xz": "trials", ".parquet": "trials"}
    names = {path: path.parent.name if forms.get(path.suffix) == "trials" else path.name.split(".")[0] for path in KEPT}
    things = [(forms[path.suffix], name) for path, name in names.items() if path.suffix in forms]
    assert len(things) == len(set(things))
    assert not any(path.suffix in (".pdf", ".parquet") for path in KEPT)


def test_the_repository_is_light() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("an archive of the sources")
    assert sum(path.stat().st_size for path in tracked(".")) < MOST_BYTES
