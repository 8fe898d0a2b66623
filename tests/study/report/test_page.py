"""The page of a study's report: whole by itself, in every state of the study."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from study.report_mini import Fake, run, study
from unrendered import savefig

from adamomentum import page
from adamomentum.page import figures as page_figures
from adamomentum.page.figures import INK
from adamomentum.study.engine import Folder
from adamomentum.study.report import figures
from adamomentum.study.report import page as report
from adamomentum.study.studyfile import StudyError


def write(folder: Folder, known: report.Numbers | None = None) -> str:
    return report.write(folder, "cpu", "adamomentum study report <made-up>", known).read_text()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> tuple[Folder, report.Numbers]:
    folder = run(tmp_path_factory.mktemp("complete"), study(), Fake())
    return folder, report.numbers(folder, "cpu")


@pytest.fixture(scope="module")
def complete(numbers) -> tuple[Folder, str]:
    """Figures of one task and of all together are rendered, not those of other tasks: the same with other numbers."""
    folder, known = numbers
    real = page_figures.save

    def save(figure, name: str, place: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            if name.endswith(("-words", "-sentences", "-pictures")):
                patch.setattr(Figure, "savefig", savefig)
            return real(figure, name, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_figures, "save", save)
        return folder, write(folder, known)


class Tags(HTMLParser):
    """Checks that tags are closed in the order in which they were opened."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        pass

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def check_whole(page: str) -> None:
    """Nothing is loaded from elsewhere, tags close, ids are unique, and every reference meets one."""
    Tags(page)
    page, script, end = re.split(r"<script>|</script>", page)
    assert script.strip() and "</body>" in end
    body = page.split("</style>", 1)[1]
    addresses = re.findall(r"""(?:src|href)=["'](?!#)([^"']*)""", page)
    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    # Names of XML vocabularies are no addresses that anyone opens.
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used
    assert used <= set(ids)
    assert INK not in body
    assert "nan" not in re.findall(r"<td[^>]*>([^<]*)</td>", page)


def test_a_complete_study(complete) -> None:
    folder, page = complete
    check_whole(page)
    assert "Made up &lt;for&gt; a test" in page
    assert "part of the study" not in page
    assert "Still to be run" not in page
    assert folder.study.hash in page
    assert "adamomentum study report &lt;made-up&gt;" in page
    assert "Printed and run settings differ." in page
    assert "What swapping one line does." in page
    assert "Guten Tag" in page and "sat on the &lt;mat&gt;" in page and "data:image/png;base64," in page
    assert "most frequent class" in page and "12.30" in page
    for task in folder.study.tasks:
        assert f'id="task-{task.name}"' in page
    assert page.count('class="card claim"') >= 3
    assert "Below 6 tasks no test" in page
    assert "prove" not in page


def test_figures_and_tables_can_be_read_out(complete) -> None:
    page = complete[1]
    drawn = re.findall(r"<svg[^>]*>", page)
    names = [re.search(r'role="img" aria-label="([^"]+)"', tag) for tag in drawn if "aria-hidden" not in tag]
    assert len(names) > 30 and all(names)
    assert any("difference in accuracy, % right: AdaMomentum is better" in name[1] for name in names)
    assert len({name[1] for name in names}) == len(names)
    headers = re.findall(r"<th\b([^>]*)>([^<]*)", page)
    assert all("scope=" in attributes for attributes, _ in headers)
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert all(re.findall(r'<th scope="col">([^<]*)</th>', table)), "a column has no name"
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table.split("</thead>")[1], re.DOTALL)
        assert all(row.startswith(('<th scope="row"', '<th scope="rowgroup"')) for row in rows)


def test_what_may_be_said_stands_beside_the_name(complete) -> None:
    """A wide table scrolls: its last columns are the ones out of sight."""
    places = {"differences": 3, "differences-published": 3, "steps-to-target": 2, "training-loss": 2, "controls": 3,
              "tracks": 3, "selected": 3}  # fmt: skip
    for name, place in places.items():
        header = (complete[0].report / "tables" / f"{name}.md").read_text().splitlines()[0].split(" | ")
        assert header[place] == "reading" or "AdaMomentum beside it" in header[place], header


def test_files_of_figures_stand_on_white_and_those_in_the_page_on_its_own_ground(complete) -> None:
    folder, page = complete
    files = list((folder.report / "figures").glob("*.svg"))
    assert len(files) > 30
    for path in files:
        assert path.read_text().count('<rect width="100%" height="100%" fill="#ffffff"/>') == 1, path
    assert "#ffffff" not in page.split("</style>", 1)[1]
    assert page.count("currentColor") > len(files)


def test_figures_are_the_same_when_drawn_again(numbers, complete, tmp_path, monkeypatch) -> None:
    folder, (results, tables) = numbers
    monkeypatch.setattr(figures, "PER_TASK", ("finals", "curves"))
    figures.draw(replace(results, study=folder.study.only(("digits",))), tables, tmp_path)
    names = {"finals-digits.svg", "curves-digits.svg", "scores.svg", "profile.svg"}
    assert {path.name for path in tmp_path.glob("*.svg")} == {*names, "forest.svg"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder.report / "figures" / name).read_bytes()


def test_text_in_figures_is_text(complete) -> None:
    assert re.search(r"<text[^>]*>SGD \+ momentum</text>", complete[1])


def test_a_complete_study_leaves_files_for_others(numbers, complete) -> None:
    folder, (results, _) = numbers
    pd.testing.assert_frame_equal(pd.read_parquet(folder.report / "report.parquet"), results.trials, check_dtype=False)
    for kind in figures.PER_TASK:
        for task in folder.study.tasks:
            if (kind, task.name) == ("training", "pictures"):
                continue
            name = f"{kind}-{task.name}"
            assert "<svg" in (folder.report / "figures" / f"{name}.svg").read_text()
            assert (folder.report / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((folder.report / "figures").glob("*.svg"))) == 4 * len(figures.PER_TASK) - 1 + 3
    for name in ("results-digits", "differences", "tracks", "steps-to-target", "controls", "all-tasks", "cost"):
        table = pd.read_csv(folder.report / "tables" / f"{name}.csv")
        assert len(table)
        assert (folder.report / "tables" / f"{name}.md").read_text().startswith("| ")
        assert "\\toprule" in (folder.report / "tables" / f"{name}.tex").read_text()
    for task in folder.study.tasks:
        table = pd.read_csv(folder.report / "tables" / f"results-{task.name}.csv")
        metric = {"digits": "accuracy", "words": "perplexity", "sentences": "loss", "pictures": "fid"}[task.name]
        t = results.trials
        mine = t[(t["role"] == "final") & (t["task"] == task.name) & (t["optimizer"] == "adamw")][f"test_{metric}"]
        row = table[(table["optimizer"] == "adamw") & (table["track"] == "tuned")]
        assert row[metric].item() == pytest.approx(mine.mean())


def in_role(*roles):
    return Fake(status=lambda t: "ok" if t.role in roles else None)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Fake(status=lambda t: None), ["Nothing can be said yet", "Not tested yet", "Nothing to show yet"]),
        (in_role("tune"), ["Nothing can be said yet", "Still to be run", "digits: all"]),
        (in_role("default"), ["Nothing can be said yet", "Still to be run"]),
        (
            Fake(status=lambda t: "ok" if t.role != "final" or t.spec.replicate < 2 else None),
            ["2 of 8 runs so far", "Runs are missing", "part of the study"],
        ),
        (Fake(status=lambda t: "ok" if t.spec.replicate == 0 else None), ["too few runs"]),
        (Fake(status=lambda t: "error"), ["Failed trials", "RuntimeError: &lt;b&gt;boom&lt;/b&gt;"]),
        (
            Fake(status=lambda t: "error" if t.role == "final" and t.spec.replicate == 1 else "ok"),
            ["Failed trials", "7 of 8 runs so far"],
        ),
        (
            Fake(status=lambda t: "diverged" if t.role == "final" and t.spec.replicate == 1 else "ok"),
            ["1 of 8", "mean over the others"],
        ),
        (
            Fake(status=lambda t: "diverged" if t.optimizer == "sgdm" else "ok"),
            ["nothing that was tried trains it"],
        ),
        (Fake(status=lambda t: "diverged"), ["nothing that was tried trains it"]),
    ],
    ids=lambda v: "" if isinstance(v, Fake) else v[0],
)
@pytest.mark.usefixtures("unrendered")
def test_every_state_of_a_study_can_be_shown(tmp_path, fake, words) -> None:
    page = write(run(tmp_path, study("digits"), fake))
    check_whole(page)
    for word in words:
        assert word in page, word


def test_without_a_run_there_is_no_report(tmp_path) -> None:
    with pytest.raises(StudyError, match="study run"):
        write(Folder(tmp_path, study()))


def recorded(path: Path, **provenance: str) -> None:
    """Makes the record of a trial one of another machine, without a digest, as earlier versions wrote them."""
    record = json.loads(path.read_text())
    record["result"]["provenance"] |= {key.replace("_", " "): value for key, value in provenance.items()}
    del record["digest"]
    path.write_text(json.dumps(record))


@pytest.mark.usefixtures("unrendered")
def test_edits_and_different_machines_are_told(tmp_path) -> None:
    folder = run(tmp_path, study("words"), in_role("tune", "default"))
    recorded(next(folder.store.root.glob("??/*.json")), cpu="AVX512")
    edited = Folder(tmp_path, folder.study.model_copy(update={"title": "Another title"}))
    edited.register()
    page = write(edited)
    assert "differ in cpu" in page
    assert "AVX512 (1 trials)" in page
    assert "edited 1 time after" in page
    assert folder.study.hash in page and edited.study.hash in page


@pytest.mark.usefixtures("unrendered")
def test_what_only_some_trials_recorded_is_told_as_such(tmp_path) -> None:
    """Trials of an earlier version know no commit and no processor."""
    folder = run(tmp_path, study("words"), in_role("tune", "default"))
    paths = sorted(folder.store.root.glob("??/*.json"))
    for path in paths[:3]:
        recorded(path, commit="0123456789ab", cpu_model="A Processor")
    page = write(folder)
    assert "<dt>commit</dt><dd>0123456789ab (3 trials)</dd>" in page
    assert "<dt>cpu model</dt><dd>A Processor (3 trials)</dd>" in page
    assert "<dt>torch</dt><dd>1.2.3</dd>" in page
    assert "differ in" not in page
    record = json.loads(paths[1].read_text())
    record["result"]["provenance"]["commit"] = "ba9876543210"
    paths[1].write_text(json.dumps(record))
    assert "differ in commit" in write(folder)


@pytest.mark.usefixtures("unrendered")
def test_a_changed_study_leaves_no_old_figures_or_tables(tmp_path) -> None:
    folder = run(tmp_path, study("digits"), in_role("tune"))
    for name in ("figures/tuning-gone.svg", "figures/tuning-gone.pdf", "tables/results-gone.csv"):
        (folder.report / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.report / name).write_text("old")
    write(folder)
    assert not list(folder.report.rglob("*gone*"))


def test_the_page_is_styled_from_one_file() -> None:
    folder = Path(report.__file__).parent
    text = (folder / "report.html.j2").read_text()
    assert '{% include "style.css" %}' in text
    assert "prefers-color-scheme: dark" not in text
    style = (Path(page.__file__).parent / "style.css").read_text()
    assert "prefers-color-scheme: dark" in style
    # A lone panel is no wider than one of several; on paper nothing is cut off or folded away.
    assert re.search(r"\.panels \{[^}]*auto-fill", style)
    printed = style[style.index("@media print") :]
    assert re.search(r"\.scroll[^{]*\{ overflow: visible", printed)
    assert "details::details-content { content-visibility: visible" in printed
