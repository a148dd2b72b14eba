"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const settings = { responsive: true, displayModeBar: false };
const perSecond = 10;

// ---- the table: a click on a heading sorts by it, a second one the other way round

const table = $("figures");
const headings = [...table.tHead.rows[0].cells];
headings.forEach((heading, column) =>
  heading.firstElementChild.addEventListener("click", () => {
    const order = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    const sign = order === "ascending" ? 1 : -1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", order);
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      if (column === 0) return -sign * value(a).localeCompare(value(b));
      const [x, y] = [Number(value(a)), Number(value(b))];
      return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y); // what was not measured comes last
    });
    table.tBodies[0].append(...rows);
  }),
);

// ---- the clips: every frame once, the masks of each layer over it

let clip = null; // the chosen sequence, its pictures loaded
let timer = null;

const load = (uri) => {
  if (!uri) return null;
  const image = new Image();
  image.src = uri;
  return image.decode().then(() => image);
};

async function open(name) {
  stop();
  clip = null;
  const source = page.clips[name];
  $("player").hidden = !source;
  $("no-clip").hidden = Boolean(source);
  Plotly.react("time", page.times[name].data, structuredClone(page.times[name].layout), settings);
  if (!source) return;
  const views = Object.entries(source.layers).map(([caption, masks]) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = source.size;
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = page.colours[caption] ?? "#20262d";
    const text = document.createElement("figcaption");
    text.append(dot, caption);
    const figure = document.createElement("figure");
    figure.append(canvas, text);
    return { figure, context: canvas.getContext("2d"), masks };
  });
  $("views").replaceChildren(...views.map((view) => view.figure));
  const all = (uris) => Promise.all(uris.map(load));
  const [frames, ...masks] = await Promise.all([all(source.frames), ...views.map((view) => all(view.masks))]);
  if ($("sequence").value !== name) return; // another one was chosen meanwhile
  views.forEach((view, index) => (view.masks = masks[index]));
  clip = { views, frames, numbers: source.numbers };
  $("scrubber").max = frames.length - 1;
  show(Math.floor(frames.length / 2)); // the first shows what was given, alike in all views
}

function show(place) {
  $("scrubber").value = place;
  if (!clip) return;
  const number = clip.numbers[place];
  $("number").textContent = `frame ${number}`;
  for (const { context, masks } of clip.views) {
    context.globalAlpha = 1;
    context.drawImage(clip.frames[place], 0, 0);
    context.globalAlpha = $("opacity").value / 100;
    if (masks[place]) context.drawImage(masks[place], 0, 0);
  }
  const cursor = { type: "line", x0: number, x1: number, y0: 0, y1: 1, yref: "paper", line: { color: "#20262d", width: 1 } };
  Plotly.relayout("time", { shapes: [cursor] });
}

function stop() {
  clearInterval(timer);
  timer = null;
  $("play").textContent = "\u25B6";
  $("play").setAttribute("aria-label", "play");
}

$("play").addEventListener("click", () => {
  if (timer) return stop();
  $("play").textContent = "\u23F8";
  $("play").setAttribute("aria-label", "pause");
  timer = setInterval(() => clip && show((Number($("scrubber").value) + 1) % clip.frames.length), 1000 / perSecond);
});
$("scrubber").addEventListener("input", () => {
  stop();
  show(Number($("scrubber").value));
});
$("opacity").addEventListener("input", () => show(Number($("scrubber").value)));
$("sequence").addEventListener("change", () => open($("sequence").value));

// ---- the charts

Plotly.newPlot("speed", page.speed.data, page.speed.layout, settings);
Plotly.newPlot("sequences", page.sequences.data, page.sequences.layout, settings).then((chart) =>
  chart.on("plotly_click", (event) => {
    const name = event.points[0].y;
    if (!(name in page.times)) return;
    $("sequence").value = name;
    open(name);
    $("sequence").scrollIntoView({ behavior: "smooth" });
  }),
);
open($("sequence").value);
