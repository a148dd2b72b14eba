// The page: what its buttons and keys do, and how it follows what runs.

import * as api from "./api.js";
import { Frames } from "./frames.js";
import { History } from "./history.js";
import { listen } from "./keys.js";
import { Labels } from "./labels.js";
import { Player } from "./player.js";
import { Saver } from "./saver.js";
import { Timeline } from "./timeline.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

const POLL = 300; // milliseconds between two looks at what runs
const $ = (id) => document.getElementById(id);

const about = await api.open().catch((error) => {
  $("status").textContent = error.message;
  throw error;
});
const count = about.names.length;
const labels = new Labels(about.width, about.height, about.palette);
const view = new View($("view"), labels);
const frames = new Frames(count, about.width, about.height);
const history = new History();
const saver = new Saver((text, wrong) => {
  $("saved").textContent = text;
  $("saved").classList.toggle("wrong", Boolean(wrong));
}, () => refresh());
const player = new Player({ view, labels, frames, saver, seconds: about.seconds, shown, failed: (error) => say(error.message, true) });
const timeline = new Timeline($("timeline"), labels, count, (t) => player.go(t));
timeline.old = isOld;
const tools = new Tools(view, labels, { may, commit, grow, object: () => object, size: () => Number($("size").value) });

let object = 1;
const known = new Set([1]); // ids of all objects
let state = { version: 0, running: "", changed: [], direction: "forward" };

// ---------------------------------------------------------------- what is shown

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// Whether the mask of a frame was made before something that it depends on was given.
function isOld(t) {
  const { changed, direction } = state;
  if (!changed.length || !timeline.frames[t]?.mask) return false;
  if (direction === "forward") return t >= changed[0];
  return direction === "both" || t <= changed[changed.length - 1];
}

function shown(t) {
  tools.clear();
  $("scrubber").value = t;
  $("where").textContent = `frame ${about.names[t]} · ${t + 1} of ${count}`;
  timeline.at = t;
  timeline.draw();
  note();
}

function note() {
  const frame = timeline.frames[player.t];
  const text = frame?.given.length ? "given" : isOld(player.t) ? "from before a change" : "";
  $("note").textContent = text;
  $("note").hidden = !text;
  $("take-back").disabled = !frame?.given.length || Boolean(state.running);
}

function showObjects() {
  const ids = [...known].sort((a, b) => a - b);
  $("objects").replaceChildren(...ids.map((id) => {
    const button = document.createElement("button");
    const swatch = document.createElement("i");
    swatch.style.background = labels.css(id);
    button.append(swatch, String(id));
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", id === object);
    button.onclick = () => choose(id);
    return button;
  }));
  timeline.ids = ids;
  timeline.draw();
}

function choose(id) {
  if (id > 254) return say("an id is 1 to 254", true);
  object = id;
  known.add(id);
  tools.clear();
  showObjects();
}

function tool(name) {
  tools.choose(name);
  for (const button of $("tools").children) button.setAttribute("aria-pressed", button.dataset.tool === name);
  $("beside-row").hidden = name !== "grow";
}

// ---------------------------------------------------------------- edits

function may() {
  if (state.running) say("masks are being propagated; stop that first, then paint", true);
  return player.ready && !state.running;
}

function commit(before) {
  const change = labels.changes(before);
  if (!change) return;
  history.add({ t: player.t, ...change });
  saver.save(player.t, labels.ids.slice());
}

async function grow(strokes) {
  const t = player.t;
  say("growing …");
  try {
    await saver.flush();
    const ids = await api.grow(t, { object, width: Math.max(1, Math.round($("size").value / 3)), ...strokes });
    if (t !== player.t || !may()) return;
    const before = labels.ids.slice();
    labels.set(ids);
    view.draw();
    commit(before);
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

async function step(edit) {
  if (!edit) return;
  await player.go(edit.t);
  labels.paste(edit.box, edit.content);
  view.draw();
  saver.save(edit.t, labels.ids.slice());
}

const undo = () => !state.running && step(history.undo());
const redo = () => !state.running && step(history.redo());

async function takeBack() {
  if (!may()) return;
  const before = labels.ids.slice();
  await attempt(async () => {
    await saver.flush();
    await api.takeBack(player.t);
    await player.go(player.t, true);
    const change = labels.changes(before);
    if (change) history.add({ t: player.t, ...change });
  });
}

// ---------------------------------------------------------------- what runs

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    say(error.message, true);
  }
  await refresh();
}

function propagate(direction = $("direction").value) {
  $("direction").value = direction;
  const until = $("until").value === "" ? null : Number($("until").value);
  return attempt(async () => {
    await saver.flush();
    await api.propagate(direction, until);
  });
}

let timer = 0, looks = 0;
async function refresh() {
  clearTimeout(timer);
  const mine = ++looks;
  let news;
  try {
    news = await api.state(state.version);
    if (mine !== looks) return; // a newer look is on its way: what this one saw may be from before it
  } catch (error) {
    if (mine !== looks) return;
    say(error.message, true);
    timer = setTimeout(refresh, 10 * POLL);
    return;
  }
  const was = state;
  state = news;
  for (const [t, frame] of Object.entries(news.frames)) {
    timeline.frames[t] = frame;
    for (const id of [...frame.given, ...Object.keys(frame.objects)]) known.add(Number(id));
  }
  showObjects();
  showRun(was);
  note();
  const done = news.running === "propagate" && $("follow").checked && news.at !== was.at;
  if (done) player.go(news.at, true);
  else if (news.frames[player.t] && (news.running || was.running)) player.go(player.wanted, true);
  if (news.running) timer = setTimeout(refresh, POLL);
}

function showRun(was) {
  const { running, begun, done, total, fps } = state;
  document.body.dataset.running = running;
  for (const id of ["propagate", "undo", "redo", "new"]) $(id).disabled = Boolean(running);
  $("stop").disabled = !running;
  $("export").disabled = Boolean(running) || !state.complete;
  $("look").disabled = state.look === null;
  $("progress").max = Math.max(1, total);
  $("progress").value = begun || !running ? done : 0;
  if (running === "export") say("writing overlay, mattes and run-length codes …");
  else if (running && !begun) say("starting …");
  else if (running) {
    const left = fps ? `, ${Math.ceil((total - done) / fps)} s left` : "";
    say(`${done} of ${total} frames, ${fps.toFixed(1)} a second${left}`);
  } else if (was.running) say(state.message, state.failed);
  else if (state.changed.length > was.changed.length) say("masks from before the change remain until you propagate");
  if (!running && state.changed.length) $("progress").value = 0;
}

// ---------------------------------------------------------------- buttons and keys

const toggle = () => {
  if (state.running) return attempt(api.stop);
  if (player.playing) player.pause();
  else player.play();
};
const look = () => state.look !== null && player.go(state.look);
const by = (frames) => () => player.go(player.wanted + frames);
const resize = (factor) => () => {
  $("size").value = Math.round(Number($("size").value) * factor + Math.sign(factor - 1));
  $("size").oninput();
};
let opacity = 0;
const hide = () => {
  [opacity, $("opacity").value] = [$("opacity").value, opacity];
  $("opacity").oninput();
};

$("name").textContent = document.title = about.name;
$("scrubber").max = $("until").max = count - 1;
$("scrubber").oninput = () => player.go(Number($("scrubber").value));
$("size").oninput = () => ($("size-shown").textContent = $("size").value);
$("opacity").oninput = () => {
  view.opacity = Number($("opacity").value) / 100;
  view.draw();
};
$("beside").onchange = () => (tools.beside = $("beside").checked);
for (const button of $("tools").children) button.onclick = () => tool(button.dataset.tool);
const fresh = () => choose(Math.max(0, ...known) + 1);
Object.entries({
  undo, redo, fit: () => view.fit(), in: () => view.zoom(1.4), out: () => view.zoom(1 / 1.4), new: fresh, "take-back": takeBack,
  propagate: () => propagate(), stop: () => attempt(api.stop), play: toggle, look, export: () => attempt(api.exportAll),
}).forEach(([id, action]) => ($(id).onclick = action));

listen({
  object: choose, n: fresh, p: () => tool("brush"), e: () => tool("eraser"), o: () => tool("polygon"), g: () => tool("grow"),
  v: () => tool("hand"), "[": resize(1 / 1.25), "]": resize(1.25), "Control+z": undo, "Control+y": redo,
  "Control+Shift+z": redo, f: () => !state.running && propagate("forward"), b: () => !state.running && propagate("backward"),
  " ": toggle, x: look, h: hide, "+": () => view.zoom(1.4), "=": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4),
  0: () => view.fit(), Delete: takeBack, Escape: () => tools.clear(), Enter: () => tools.close(),
  ArrowLeft: by(-1), ArrowRight: by(1), "Shift+ArrowLeft": by(-10), "Shift+ArrowRight": by(10),
  Home: () => player.go(0), End: () => player.go(count - 1),
});

tool("brush");
$("size").oninput();
$("opacity").oninput();
view.resize();
await refresh();
$("direction").value = state.direction;
const first = timeline.frames.findIndex((frame) => frame.given.length);
await player.go(Math.max(0, first));
document.body.dataset.ready = "yes";
