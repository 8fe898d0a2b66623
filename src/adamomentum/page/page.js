// What a page can do beyond being read: sort tables, choose the series of its figures, show values under the pointer,
// enlarge a figure and zoom into it. The page is whole without.
"use strict";

// --- tables: a click on a column's name sorts by it, a second one the other way round ---

// The number that a cell begins with, at most a word before it, as in "lr 0.003, wd 0.1" or "at least 0.27"; else NaN.
function numberOf(text) {
  const found = text.match(/^(?:[a-z ]+ )?([-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?)(?!\.?\w)/);
  return found ? Number(found[1].replace(/,/g, "")) : NaN;
}

function sortBy(head, column) {
  const table = head.closest("table"), up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    const texts = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
    const filled = rows.filter((row) => texts.get(row).replace("–", ""));
    const empty = rows.filter((row) => !filled.includes(row));
    // The first column has names. Words among numbers, such as "not reached", come after them either way.
    const numbers = new Map(rows.map((row) => [row, column ? numberOf(texts.get(row)) : NaN]));
    filled.sort((a, b) => Number.isNaN(numbers.get(a)) - Number.isNaN(numbers.get(b))
      || (up ? 1 : -1) * (numbers.get(a) - numbers.get(b) || texts.get(a).localeCompare(texts.get(b))));
    body.append(...filled, ...empty);
  }
}

for (const table of document.querySelectorAll(".scroll table")) {
  if (!table.tHead || table.querySelectorAll("tbody tr:not(.group)").length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(head, column));
  });
}

// --- figures: which series are shown ---

const pick = document.querySelector(".pick");
const labels = new Map();
const hidden = new Set();

function show() {
  for (const part of document.querySelectorAll("[data-values], [data-part]")) {
    part.classList.toggle("gone", hidden.has(part.dataset.values || part.dataset.part));
  }
}

if (pick) {
  pick.hidden = false;
  for (const box of pick.querySelectorAll("input")) {
    labels.set(box.value, box.parentElement.textContent.trim());
    box.addEventListener("change", () => {
      hidden[box.checked ? "delete" : "add"](box.value);
      show();
    });
  }
}

// --- figures: values under the pointer ---

const value = (place, [from, to, low, high, log]) => {
  const share = (place - from) / (to - from);
  return log ? low * (high / low) ** share : low + share * (high - low);
};

function written(v, [, , low, high, log]) {
  if (log) return String(Number(v.toPrecision(Math.abs(Math.log10(high / low)) < 1 ? 4 : 3)));
  const text = v.toFixed(Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(high - low))))));
  return Number(text) ? text : text.replace("-", "");
}

// The corners of a path whose points after the first are steps from the one before.
function corners(path) {
  const steps = path.getAttribute("d").match(/[a-z]|-?\d*\.?\d+/gi) || [];
  const found = [];
  let letter = "", x = 0, y = 0;
  for (let k = 0; k < steps.length; ) {
    if (/[a-z]/i.test(steps[k])) letter = steps[k++];
    else {
      [x, y] = letter === "M" ? [+steps[k], +steps[k + 1]] : [x + +steps[k], y + +steps[k + 1]];
      found.push([x, y, letter === "M"]);
      k += 2;
    }
  }
  return found;
}

// Each series of a figure: as a line, or as marks.
function seriesOf(svg) {
  return [...svg.querySelectorAll("[data-values]")].map((group) => {
    const path = group.matches("path") ? group : group.querySelector(":scope > path");
    const marks = [...(group.matches("use") ? [group] : group.querySelectorAll("use"))];
    return {
      name: group.dataset.values,
      line: path ? corners(path) : null,
      marks: path ? [] : marks.map((mark) => [+mark.getAttribute("x"), +mark.getAttribute("y")]),
    };
  });
}

function heightAt(line, x) {
  for (let k = 1; k < line.length; k++) {
    const [[x0, y0], [x1, y1, apart]] = [line[k - 1], line[k]];
    if (!apart && x >= x0 && x <= x1) return x1 > x0 ? y0 + ((x - x0) / (x1 - x0)) * (y1 - y0) : y1;
  }
  return null;
}

// The ends of the interval that is drawn at a mark of a series, in a figure whose rows have names.
function interval(seen, name, y, scale) {
  const line = seen.find((each) => each.name === name && each.line && Math.abs(each.line[0][1] - y) < 1)?.line;
  return line ? [`95 %: ${line.map(([x]) => written(value(x, scale), scale)).join(" to ")}`] : [];
}

// Pixels of the screen within which the pointer is at a mark, in a figure that is enlarged or zoomed, too.
const NEAR = 10;

// What is to be said at a place of a figure, in lines of text, or null.
function reading(svg, series, x, y) {
  const scales = JSON.parse(svg.dataset.scales);
  const seen = series.filter((each) => !hidden.has(each.name));
  const name = (each) => labels.get(each.name) || each.name;
  const screen = svg.getScreenCTM(), distance = (a, b) => Math.hypot((a - x) * screen.a, (b - y) * screen.d);
  const marks = seen.flatMap((each) => each.marks.map(([a, b]) => [distance(a, b), each, a, b]));
  const near = marks.sort((a, b) => a[0] - b[0])[0];
  if (near && near[0] < NEAR) {
    const [, each, a, b] = near;
    const at = written(value(a, scales.x), scales.x);
    return [scales.y ? `${name(each)}: ${written(value(b, scales.y), scales.y)}` : `${name(each)}: ${at}`]
      .concat(scales.y ? [`${scales.label}: ${at}`] : interval(seen, each.name, b, scales.x));
  }
  const [left, right] = scales.x, [bottom, top] = scales.y || [0, 0];
  if (!scales.y || x < left || x > right || y > bottom || y < top) return null;
  const lines = seen.filter((each) => each.line).map((each) => [heightAt(each.line, x), each]);
  const there = lines.filter(([height]) => height !== null).sort((a, b) => a[0] - b[0]);
  if (!there.length) return null;
  // On the edge of the axes lies what is further out.
  const text = (height) => (height < top - 1 || height > bottom + 1 ? "off the scale" : written(value(height, scales.y), scales.y));
  return [`${scales.label}: ${written(value(x, scales.x), scales.x)}`]
    .concat(there.map(([height, each]) => `${name(each)}: ${text(height)}`));
}

const placeIn = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;

function tell(event, lines) {
  tip.hidden = !lines;
  if (!lines) return;
  tip.replaceChildren(...lines.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
  // Above what else there is, a figure in a dialog too.
  (event.target.closest("dialog") || document.body).append(tip);
  const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, room))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4))}px`;
}

for (const svg of document.querySelectorAll("svg[data-scales]")) {
  let series = null;
  const say = (event) => {
    series ||= seriesOf(svg);
    const place = placeIn(svg, event);
    tell(event, reading(svg, series, place.x, place.y));
  };
  svg.addEventListener("pointermove", say);
  svg.addEventListener("pointerdown", say);
  // A finger leaves when it is lifted: what it asked for stays until it touches something else, or scrolls.
  svg.addEventListener("pointerleave", (event) => { tip.hidden ||= event.pointerType !== "touch"; });
}
const silent = () => { tip.hidden = true; };
document.addEventListener("pointerdown", (event) => {
  if (event.target.closest?.("svg[data-scales]")) return;
  // A browser shows titles to a mouse alone.
  const titled = event.pointerType === "touch" && event.target.closest?.("td[title]");
  tell(event, titled && titled.title ? [titled.title] : null);
});
document.addEventListener("scroll", silent, { capture: true, passive: true });

// --- figures: enlarged; there a rectangle that is drawn with the pointer, or chosen by keys, fills the whole ---

const dialog = document.createElement("dialog");
dialog.className = "enlarged";
dialog.innerHTML = '<p class="soft"><button class="whole">Whole figure</button> <button class="close">Close</button> <span></span></p><div></div>';
document.body.append(dialog);
const HINT = "Draw a rectangle to zoom in, or press +, - and the arrows.";
const hint = dialog.querySelector("span");
hint.setAttribute("role", "status");
hint.textContent = HINT;
let home = null;

function enlarge(figure) {
  silent();
  const svg = figure.querySelector("svg");
  home = { figure, svg, box: svg.getAttribute("viewBox") };
  figure.style.minHeight = `${figure.offsetHeight}px`;
  dialog.setAttribute("aria-label", svg.getAttribute("aria-label"));
  dialog.querySelector("div").append(svg);
  dialog.showModal();
}

// Round values between two.
function ticksOf(low, high, log) {
  const ticks = [];
  if (log && high / low > 5) {
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const digit of high / low > 1000 ? [1] : [1, 2, 5]) ticks.push(digit * 10 ** power);
    }
  } else {
    const least = (high - low) / 4, power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 5, 10].find((k) => k * power >= least);
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step);
  }
  return ticks.filter((v) => v >= low && v <= high);
}

// The marks of an axis between two places of a figure that fill the whole; its own are out of sight, or stretched.
function ticks(start, length, scale, side) {
  const [from, to, low, high, log] = scale, within = (v) => Math.max(Math.min(from, to), Math.min(Math.max(from, to), v));
  const ends = [start, start + length].map((v) => value(within(v), scale)).sort((a, b) => a - b);
  const share = (v) => (log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low));
  return ticksOf(...ends, log).map((v) => {
    const tick = Object.assign(document.createElement("span"), { className: "tick", textContent: String(Number(v.toPrecision(6))) });
    tick.style[side] = `${(100 * (from + share(v) * (to - from) - start)) / length}%`;
    return tick;
  });
}

// Lines and marks keep their size when the part of the figure within a box fills the whole.
function zoom(box) {
  const { svg } = home, whole = home.box.split(" ").map(Number), scales = JSON.parse(svg.dataset.scales);
  const [across, down] = [box[2] / whole[2], box[3] / whole[3]];
  svg.setAttribute("viewBox", box.join(" "));
  svg.setAttribute("preserveAspectRatio", "none");
  svg.style.aspectRatio = `${whole[2]} / ${whole[3]}`;
  svg.classList.add("zoomed");
  for (const mark of svg.querySelectorAll("use")) {
    const [x, y] = [+mark.getAttribute("x"), +mark.getAttribute("y")];
    mark.setAttribute("transform", `translate(${x} ${y}) scale(${across} ${down}) translate(${-x} ${-y})`);
  }
  clear();
  dialog.querySelector("div").append(...ticks(box[0], box[2], scales.x, "left"), ...(scales.y ? ticks(box[1], box[3], scales.y, "top") : []));
  const within = (place, [from, to]) => Math.max(Math.min(from, to), Math.min(Math.max(from, to), place));
  const span = (scale, ends) => ends.map((place) => written(value(within(place, scale), scale), scale)).join(" to ");
  hint.textContent = `${scales.label}: ${span(scales.x, [box[0], box[0] + box[2]])}`
    + (scales.y ? `; upwards: ${span(scales.y, [box[1] + box[3], box[1]])}` : "");
}

function clear() {
  for (const tick of dialog.querySelectorAll(".tick")) tick.remove();
}

function whole() {
  const { svg } = home;
  clear();
  svg.setAttribute("viewBox", home.box);
  svg.removeAttribute("preserveAspectRatio");
  svg.classList.remove("zoomed");
  for (const mark of svg.querySelectorAll("use")) mark.removeAttribute("transform");
  hint.textContent = HINT;
}

dialog.addEventListener("close", () => {
  silent();
  drop();
  whole();
  home.figure.prepend(home.svg);
  home.figure.style.minHeight = "";
});
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.querySelector(".whole").addEventListener("click", whole);

let corner = null;
const area = document.createElementNS("http://www.w3.org/2000/svg", "rect");
area.setAttribute("class", "area");

function rectangle(event) {
  const end = placeIn(home.svg, event);
  return [Math.min(corner.x, end.x), Math.min(corner.y, end.y), Math.abs(corner.x - end.x), Math.abs(corner.y - end.y)];
}

function drop() {
  corner = null;
  area.remove();
}

dialog.addEventListener("pointerdown", (event) => {
  if (!event.target.closest("svg") || !event.isPrimary || event.button) return;
  corner = placeIn(home.svg, event);
  // The pointer may be let go outside of the window.
  home.svg.setPointerCapture(event.pointerId);
  event.preventDefault();
});
dialog.addEventListener("pointermove", (event) => {
  if (!corner) return;
  home.svg.append(area);
  rectangle(event).forEach((length, k) => area.setAttribute(["x", "y", "width", "height"][k], length));
});
dialog.addEventListener("pointerup", (event) => {
  if (!corner) return;
  const box = rectangle(event), screen = home.svg.getScreenCTM();
  if (box[2] * screen.a > NEAR && box[3] * screen.d > NEAR) zoom(box);
  drop();
});
dialog.addEventListener("pointercancel", drop);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [x, y, width, height] = home.svg.getAttribute("viewBox").split(" ").map(Number), step = ARROWS[event.key];
  const zoomed = home.svg.classList.contains("zoomed"), last = 2 * width >= Number(home.box.split(" ")[2]);
  if (event.key === "+") zoom([x + width / 4, y + height / 4, width / 2, height / 2]);
  else if (zoomed && step) zoom([x + step[0] * width / 4, y + step[1] * height / 4, width, height]);
  else if (event.key === "-" && last) whole();
  else if (event.key === "-") zoom([x - width / 2, y - height / 2, 2 * width, 2 * height]);
  else return;
  event.preventDefault();
});

for (const figure of document.querySelectorAll(".panels figure")) {
  const button = document.createElement("button");
  button.className = "enlarge";
  button.textContent = "⤢";
  button.setAttribute("aria-label", `Enlarge: ${figure.querySelector("svg").getAttribute("aria-label")}`);
  button.addEventListener("click", () => enlarge(figure));
  figure.append(button);
}
