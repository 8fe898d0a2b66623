"""A study's report in a real browser: what its script does, and that all can be seen, read out and printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import browser, check_page, visit
from study.report_mini import Fake, run, study

from adamomentum.study.report import page as report
from adamomentum.study.results import final_curves

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> tuple:
    folder = run(tmp_path_factory.mktemp("study"), study("digits", "pictures"), Fake())
    return folder, report.numbers(folder, "cpu")


@pytest.fixture(scope="module")
def page(numbers) -> Path:
    return report.write(numbers[0], "cpu", "a command", numbers[1])


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def by_css(root, selector):
    return root.find_elements("css selector", selector)


@pytest.mark.parametrize("device", ["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_seen_and_read_out(chromium, page, device, dark) -> None:
    visit(chromium, page, device, dark)
    check_page(chromium)
    figures = by_css(chromium, "figure svg")
    assert len(figures) > 15
    for figure in figures:
        assert figure.size["width"] > 250 and figure.size["height"] > 150
        assert len(by_css(figure, "text")) > 3
    names = [figure.get_attribute("aria-label") for figure in figures]
    assert all(names) and len(set(names)) == len(names)


def test_a_study_of_one_task_has_no_giant_figures(chromium, tmp_path) -> None:
    folder = run(tmp_path, study("digits"), Fake(status=lambda t: "ok" if t.role == "tune" else None))
    visit(chromium, report.write(folder, "cpu", "a command"))
    figures = by_css(chromium, "figure svg")
    assert figures
    assert all(figure.size["width"] < 500 for figure in figures)


def test_the_message_stands_on_top(chromium, page) -> None:
    visit(chromium, page)
    table = chromium.find_element("id", "overview")
    assert table.location["y"] + table.size["height"] < 900
    signs = {sign.get_attribute("aria-label") for sign in by_css(table, ".sign")}
    assert signs <= {"better", "worse", "no evidence of difference"} and len(signs) > 1
    assert "grey: controls, outside of it" in by_css(chromium, ".scroll:has(#overview) + p")[0].text


def test_tables_sort_by_a_click_on_a_column(chromium, page) -> None:
    visit(chromium, page)
    cells = "document.querySelectorAll('#overview tbody td:nth-child(2)')"
    column = f"return [...{cells}].map(cell => parseFloat(cell.innerText))"
    before = chromium.execute_script(column)
    button = by_css(chromium, "#overview thead button")[1]
    for descending in (False, True):
        button.click()
        assert chromium.execute_script(column) == sorted(before, reverse=descending)
        assert button.find_element("xpath", "..").get_attribute("aria-sort") == (
            "descending" if descending else "ascending"
        )
    by_css(chromium, "#overview thead button")[0].click()
    names = [head.text for head in by_css(chromium, "#overview tbody th")]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("ascending", "descending"),
    [
        ("-0.6 -0.15 +0.2 +1.3 –", "+1.3 +0.2 -0.15 -0.6 –"),
        ("7e-08 3e-05 0.001 0.040 1.000", "1.000 0.040 0.001 3e-05 7e-08"),
        ("8.95 ▼|10.02 =|89.00* ▼|does not train ▼", "89.00* ▼|10.02 =|8.95 ▼|does not train ▼"),
        ("300 (6/10)|1,200 (3/5)|not reached (0/10)|not reached (5/10)|–",
         "1,200 (3/5)|300 (6/10)|not reached (5/10)|not reached (0/10)|–"),
        ("lr 5e-05, wd 0.1|lr 0.003, wd 0.1|lr 0.02, wd 0.001|nothing",
         "lr 0.02, wd 0.001|lr 0.003, wd 0.1|lr 5e-05, wd 0.1|nothing"),
        ("0 of 10|4 of 8|10 of 10", "10 of 10|4 of 8|0 of 10"),
        ("-0.81 to +0.1|-0.2 to +0.4|+0.3 to +1", "+0.3 to +1|-0.2 to +0.4|-0.81 to +0.1"),
        ("at least 0.27|0.5 ± 0.1|above 2", "above 2|0.5 ± 0.1|at least 0.27"),
        ("cifar9|mnist10|mnist2", "mnist2|mnist10|cifar9"),
        ("AdamW, batch 200|AdamW, full batch|SGD", "SGD|AdamW, full batch|AdamW, batch 200"),
        ("0c77|12163f1a|7ead", "7ead|12163f1a|0c77"),
    ],
)  # fmt: skip
def test_cells_are_compared_as_what_they_are(chromium, page, ascending, descending) -> None:
    visit(chromium, page)
    orders = [text.split("|" if "|" in text else " ") for text in (ascending, descending)]
    for known in orders:  # whatever the order is at first
        sort = """const table = document.createElement("table");
            table.innerHTML = "<thead><tr><th><th><tbody>";
            for (const text of arguments[0]) table.tBodies[0].insertRow().append(
                document.createElement("th"), Object.assign(document.createElement("td"), {textContent: text}));
            return [0, 1].map(() => {
                sortBy(table.tHead.rows[0].cells[1], 1);
                return [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
            });"""
        assert chromium.execute_script(sort, known) == orders


def test_names_with_digits_sort_as_names(chromium, page) -> None:
    visit(chromium, page)
    heads = by_css(chromium, "#overview tbody th")
    names = ["5 b", "30 a", "lr 1", *(f"x{k}" for k in range(len(heads) - 3))]
    for head, name in zip(heads, names, strict=True):
        chromium.execute_script("arguments[0].textContent = arguments[1]", head, name)
    by_css(chromium, "#overview thead button")[0].click()
    assert [head.text for head in by_css(chromium, "#overview tbody th")] == sorted(names)


def test_a_table_of_several_tasks_sorts_within_each(chromium, page) -> None:
    visit(chromium, page)
    table = by_css(chromium, "#differences + .scroll table")[0]
    rows = "return [...arguments[0].tBodies].map(b => [...b.rows].map(r => r.cells[0].innerText))"
    before = chromium.execute_script(rows, table)
    by_css(table, "thead button")[0].click()
    after = chromium.execute_script(rows, table)
    assert len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert new == [old[0], *sorted(old[1:])]


def test_the_text_of_figures_can_be_searched(chromium, page) -> None:
    visit(chromium, page)
    assert chromium.execute_script("return window.find('right: AdaMomentum is better')")
    where = "return getSelection().anchorNode.parentElement.closest('svg') !== null"
    assert chromium.execute_script(where)
    assert not chromium.execute_script("return window.find('what no page says')")


def test_optimizers_can_be_picked(chromium, page) -> None:
    visit(chromium, page)
    by_css(chromium, ".pick summary")[0].click()
    marks = by_css(chromium, "svg [data-values=adamw]")
    others = by_css(chromium, "svg [data-values=adabelief]")
    assert len(marks) > 5
    box = by_css(chromium, ".pick input[value=adamw]")[0]
    assert box.get_dom_attribute("autocomplete") == "off", "else a reload keeps it unchecked, and the series is drawn"
    for shown in (False, True):
        box.click()
        assert {mark.value_of_css_property("display") != "none" for mark in marks} == {shown}
        assert {mark.value_of_css_property("display") != "none" for mark in others} == {True}


def over(running, figure, x: float, y: float) -> str:
    """Moves the pointer to a place of a figure, in its own units, and returns what is then said."""
    running.execute_script(
        """const p = new DOMPoint(arguments[1], arguments[2]).matrixTransform(arguments[0].getScreenCTM());
        arguments[0].dispatchEvent(new PointerEvent("pointermove", {clientX: p.x, clientY: p.y, bubbles: true}));""",
        figure, x, y,
    )  # fmt: skip
    tip = by_css(running, ".tip")[0]
    return tip.text if tip.is_displayed() else ""


def test_values_stand_under_the_pointer(chromium, page, numbers) -> None:
    visit(chromium, page)
    curves = final_curves(numbers[1][0], "digits")
    figure = chromium.find_element("css selector", "svg[aria-label^='digits: validation loss']")
    scales = chromium.execute_script("return JSON.parse(arguments[0].dataset.scales)", figure)
    left, right, low, high, _ = scales["x"]
    top, bottom = scales["y"][1], scales["y"][0]
    x = left + (30 - low) / (high - low) * (right - left)
    said = dict(line.split(": ") for line in over(chromium, figure, x, (top + bottom) / 2).splitlines())
    assert float(said.pop("optimizer step")) == pytest.approx(30, abs=0.2)
    labels = {"AdamW": "adamw", "AdaMomentum": "adamomentum", "Own variant": "own", "AdaBelief": "adabelief"}
    for label, name in labels.items():
        mine = curves[(curves["optimizer"] == name) & (curves["step"] == 30)]["val_loss"]
        assert float(said[label]) == pytest.approx(mine.median(), rel=2e-3)
    assert len(said) == 5
    # The highest line first.
    assert list(said.values()) == sorted(said.values(), key=float, reverse=True)
    assert over(chromium, figure, left - 20, bottom + 20) == ""


def test_a_mark_says_its_value(chromium, page, numbers) -> None:
    visit(chromium, page)
    figure = chromium.find_element("css selector", "svg[aria-label^='pictures: final runs']")
    row = numbers[1][1].row("pictures", "adamw")
    mark = by_css(figure, "[data-values=adamw] use")[-1]
    said = over(chromium, figure, float(mark.get_attribute("x")), float(mark.get_attribute("y")))
    mean = row.metrics["fid"]
    value, ends = said.splitlines()
    assert float(value.removeprefix("AdamW: ")) == pytest.approx(mean.mean, rel=2e-3)
    low, high = ends.removeprefix("95 %: ").split(" to ")
    assert (float(low), float(high)) == pytest.approx((mean.low, mean.high), rel=2e-3)
    run = by_css(figure, "[data-values=adamw] use")[0]
    said = over(chromium, figure, float(run.get_attribute("x")), float(run.get_attribute("y")))
    assert len(said.splitlines()) == 1, "a single run has no interval"


def test_a_figure_can_be_enlarged_and_zoomed(chromium, page) -> None:
    from selenium.webdriver import ActionChains, Keys

    visit(chromium, page)
    figure = by_css(chromium, ".panels figure")[3]
    small = by_css(figure, "svg")[0]
    width, box, name = small.size["width"], small.get_dom_attribute("viewBox"), small.get_attribute("aria-label")
    button = by_css(figure, "button.enlarge")[0]
    assert button.get_attribute("aria-label") == f"Enlarge: {name}"
    button.send_keys(Keys.ENTER)
    large = chromium.find_element("css selector", "dialog[open] svg")
    assert large.size["width"] > 1.8 * width
    actions = ActionChains(chromium).move_to_element(large).click_and_hold().move_by_offset(120, 90).release()
    actions.perform()
    assert [float(v) for v in large.get_dom_attribute("viewBox").split()] != [float(v) for v in box.split()]
    assert " to " in by_css(chromium, "dialog span")[0].text
    assert by_css(large, "use[transform]") and by_css(chromium, "dialog .tick")
    by_css(chromium, "dialog .whole")[0].click()
    assert large.get_dom_attribute("viewBox") == box
    assert not by_css(large, "use[transform]") and not by_css(chromium, "dialog .tick")
    ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
    assert not by_css(chromium, "dialog[open]")
    assert by_css(figure, ":scope > :first-child")[0].get_attribute("aria-label") == name
    assert chromium.get_log("browser") == []


def box_of(svg) -> list[float]:
    return [float(v) for v in svg.get_dom_attribute("viewBox").split()]


def enlarged(running, page, start: str):
    visit(running, page)
    figure = running.find_element("css selector", f"svg[aria-label^='{start}']")
    running.execute_script("arguments[0].closest('figure').querySelector('.enlarge').click()", figure)
    return figure


def test_keys_zoom_too(chromium, page) -> None:
    from selenium.webdriver import ActionChains, Keys

    figure = enlarged(chromium, page, "digits: validation loss")
    x, y, width, height = whole = box_of(figure)

    def after(*keys) -> list[float]:
        ActionChains(chromium).send_keys(*keys).perform()
        return box_of(figure)

    assert after(Keys.ARROW_LEFT, "-") == whole
    assert after("+") == pytest.approx([x + width / 4, y + height / 4, width / 2, height / 2])
    said = by_css(chromium, "dialog span")[0].text
    assert after(Keys.ARROW_RIGHT, Keys.ARROW_UP) == pytest.approx(
        [x + 3 * width / 8, y + height / 8, width / 2, height / 2]
    )
    assert by_css(chromium, "dialog span")[0].text != said
    assert after(Keys.ARROW_LEFT, Keys.ARROW_DOWN, "+", "-") == pytest.approx(
        [x + width / 4, y + height / 4, width / 2, height / 2]
    )
    assert after("-") == whole


def test_what_is_said_of_a_zoomed_part_lies_on_the_axes(chromium, page) -> None:
    """A rectangle may begin in the margin, where there are no values: here all of it but a corner."""
    figure = enlarged(chromium, page, "digits: validation loss")
    chromium.execute_script("zoom(arguments[0])", [0.0, 0.0, *box_of(figure)[2:]])
    scales = chromium.execute_script("return JSON.parse(arguments[0].dataset.scales)", figure)
    across = by_css(chromium, "dialog span")[0].text.split("; ")[0].removeprefix("optimizer step: ")
    assert [float(v) for v in across.split(" to ")] == pytest.approx(scales["x"][2:4], abs=0.1)


@pytest.mark.parametrize(
    ("start", "box"),
    [
        ("digits: validation loss", (0.3, 0.3, 0.3, 0.3)),
        ("digits: validation loss", (0.2, 0.1, 0.7, 0.8)),
        ("digits: final runs", (0.4, 0.2, 0.2, 0.5)),
        ("digits: validation loss: peak learning rate", (0.2, 0.2, 0.6, 0.6)),
    ],
)
def test_a_zoomed_part_has_ticks_at_their_values(chromium, page, start, box) -> None:
    figure = enlarged(chromium, page, start)
    x, y, width, height = box_of(figure)
    box = [x + box[0] * width, y + box[1] * height, box[2] * width, box[3] * height]
    chromium.execute_script("zoom(arguments[0])", box)
    scales = chromium.execute_script("return JSON.parse(arguments[0].dataset.scales)", figure)
    seen = figure.rect
    for side, scale, begin, length, at, extent in (
        ("left", scales["x"], box[0], box[2], "x", "width"),
        ("top", scales["y"], box[1], box[3], "y", "height"),
    ):
        marks = by_css(chromium, f"dialog .tick[style*={side}]")
        assert 2 <= len(marks) <= 9 if scale else not marks
        for mark in marks:
            middle = (mark.rect[at] + mark.rect[extent] / 2 - seen[at]) / seen[extent]
            there = chromium.execute_script("return value(...arguments)", begin + middle * length, scale)
            assert float(mark.text) == pytest.approx(there, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 1, False, [0, 0.5, 1]),
        (-3, 12, False, [0, 5, 10]),
        (2.31, 2.38, False, [2.32, 2.34, 2.36, 2.38]),
        (3e-4, 0.06, True, [5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2]),
        (1e-6, 1, True, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]),
        (1, 2, True, [1, 1.5, 2]),
    ],
)
def test_ticks_are_round_numbers(chromium, page, low, high, log, expected) -> None:
    visit(chromium, page)
    assert chromium.execute_script("return ticksOf(...arguments)", low, high, log) == pytest.approx(expected)


def test_between_the_pieces_of_a_line_there_is_no_value(chromium, page) -> None:
    visit(chromium, page)
    line = [[0, 0, True], [10, 10, False], [20, 5, True], [30, 7, False]]
    heights = chromium.execute_script("return [5, 15, 25].map((x) => heightAt(arguments[0], x))", line)
    assert heights == [5, None, 6]


def test_a_second_finger_draws_no_rectangle(chromium, page) -> None:
    figure = enlarged(chromium, page, "digits: validation loss")
    events = """const at = (type, x, isPrimary) => arguments[0].dispatchEvent(
        new PointerEvent(type, {clientX: x, clientY: 300, isPrimary, pointerId: 1, bubbles: true}));
        arguments[0].setPointerCapture = () => {};
        at("pointerdown", 300, arguments[1]);
        at("pointermove", 400, arguments[1]);
        const drawn = arguments[0].querySelector(".area") !== null;
        at("pointercancel", 400, arguments[1]);
        return drawn;"""
    assert [chromium.execute_script(events, figure, first) for first in (True, False)] == [True, False]


def test_the_pointer_says_the_value_of_a_zoomed_place(chromium, page) -> None:
    """Near a mark is by what is seen: far from it on the screen is far, however near in the figure's own units."""
    figure = enlarged(chromium, page, "digits: final runs")
    mark = by_css(figure, "[data-values=adamw] use")[-1]
    x, y = (float(mark.get_dom_attribute(key)) for key in "xy")
    assert over(chromium, figure, x + 3, y).startswith("AdamW: ")
    chromium.execute_script("zoom(arguments[0])", [x - 5, y - 5, 10, 10])
    assert over(chromium, figure, x, y).startswith("AdamW: ")
    assert over(chromium, figure, x + 3, y - 3) == ""


def test_a_rectangle_that_is_given_up_leaves_nothing(chromium, page) -> None:
    from selenium.webdriver import ActionChains, Keys

    figure = enlarged(chromium, page, "digits: validation loss")
    whole = box_of(figure)
    for way_out in ("cancel", "escape"):
        ActionChains(chromium).move_to_element(figure).click_and_hold().move_by_offset(120, 90).perform()
        assert by_css(figure, ".area")
        assert chromium.execute_script("return arguments[0].hasPointerCapture(1)", figure), (
            "let go outside: never known"
        )
        if way_out == "cancel":
            cancel = "arguments[0].dispatchEvent(new PointerEvent('pointercancel', {bubbles: true}))"
            chromium.execute_script(cancel, figure)
        else:
            ActionChains(chromium).send_keys(Keys.ESCAPE).perform()
        assert not by_css(chromium, ".area")
        ActionChains(chromium).release().perform()
        assert box_of(figure) == whole
    assert not by_css(chromium, ".tip")[0].is_displayed()


def test_a_tap_shows_values_until_a_scroll_or_the_next_tap(chromium, page) -> None:
    visit(chromium, page, "phone")
    figure = chromium.find_element("css selector", "svg[aria-label^='digits: validation loss']")
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def tap(element) -> None:
        x, y = chromium.execute_script(
            "const r = arguments[0].getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]", element
        )
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    try:
        tap(figure)
        tip = by_css(chromium, ".tip")[0]
        assert "AdamW: " in tip.text
        chromium.execute_script("scrollBy(0, 30)")
        chromium.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert not tip.is_displayed(), "the figure has moved from under it"
        tap(figure)
        assert tip.is_displayed()
        chromium.execute_script("document.body.dispatchEvent(new PointerEvent('pointerdown', {bubbles: true}))")
        assert not tip.is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_a_tap_on_a_cell_shows_its_difference(chromium, page) -> None:
    visit(chromium, page, "phone")
    cell = by_css(chromium, "#overview td[title]:not([title=''])")[0]
    tap = "arguments[0].dispatchEvent(new PointerEvent('pointerdown', {bubbles: true, pointerType: arguments[1]}))"
    chromium.execute_script(tap, cell, "touch")
    tip = by_css(chromium, ".tip")[0]
    assert tip.text == cell.get_attribute("title") and " to " in tip.text
    chromium.execute_script(tap, cell, "mouse")
    assert not tip.is_displayed(), "the browser itself shows a title to a mouse"


def test_on_paper_all_series_are_drawn(chromium, page) -> None:
    visit(chromium, page)
    hide = "document.querySelector('.pick input[value=adamw]').click()"
    chromium.execute_script(hide)
    marks = by_css(chromium, "svg [data-values=adamw]")
    assert not any(mark.is_displayed() for mark in marks)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert {mark.value_of_css_property("display") for mark in marks} == {"inline"}


def test_on_paper_no_column_is_lost(chromium, page) -> None:
    visit(chromium, page, media="print")
    tables = by_css(chromium, "table")
    assert len(tables) > 10
    for table in tables:
        assert table.rect["x"] + table.rect["width"] <= 1032 + 1, table.text[:80]
        assert chromium.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth + 1", table)
    assert not any(each.is_displayed() for each in by_css(chromium, ".pick, nav, .enlarge"))


def test_of_what_is_not_picked_or_off_the_scale_no_value_is_said(chromium, page) -> None:
    visit(chromium, page)
    figure = chromium.find_element("css selector", "svg[aria-label^='digits: validation loss']")
    left, right, *_ = chromium.execute_script("return JSON.parse(arguments[0].dataset.scales).x", figure)
    middle = box_of(figure)[3] / 2
    assert "AdamW: " in over(chromium, figure, (left + right) / 2, middle)
    chromium.execute_script("document.querySelector('.pick input[value=adamw]').click()")
    assert not any(part.is_displayed() for part in by_css(figure, "[data-part=adamw]"))
    said = over(chromium, figure, (left + right) / 2, middle)
    assert "AdaBelief: " in said and "AdamW: " not in said
    chromium.execute_script(
        """const scales = JSON.parse(arguments[0].dataset.scales);
        scales.y[1] = scales.y[0] - 5;
        arguments[0].dataset.scales = JSON.stringify(scales);""",
        figure,
    )
    bottom = chromium.execute_script("return JSON.parse(arguments[0].dataset.scales).y[0]", figure)
    assert "AdaBelief: off the scale" in over(chromium, figure, (left + right) / 2, bottom - 1)
