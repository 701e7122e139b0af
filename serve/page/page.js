// The page: a picture goes to /v2/models/NAME/classify with a deadline, and what comes back is shown.
// It knows nothing that the server does not say: subnets, their times and the load come from /v2/models/NAME/subnets.

import { drawLine, drawTicks } from "./charts.js";

const SECONDS_SHOWN = 60;
const STREAMS = 4; // requests under way at once while the page keeps asking
const TOP = 5;
const byId = (id) => document.getElementById(id);

const state = {
  model: null,
  family: null,
  picture: null, // { blob, type, name }
  chosen: null, // name of the subnet that answered last
  scale: [1, 1000], // milliseconds at the ends of the deadline's scale
  asked: 0, // number of the newest question; older answers are not shown
  isStreaming: false,
  history: { images: [], latency: [] },
  before: null, // counts of the last look
};

let token = sessionStorage.getItem("token") ?? "";

/** Ask the server; a failure becomes an Error whose message is the server's own. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. It may have stopped; start it again and press “Ask again”.");
  }
  if (answer.status === 401) {
    byId("door").hidden = false;
    byId("token").focus();
  }
  const value = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(value?.error ?? `The server answered ${answer.status}.`);
  return { value, timing: answer.headers.get("Server-Timing") ?? "" };
}

const count = (number) => {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (number >= size) return `${(number / size).toPrecision(3)} ${unit}`;
  }
  return String(number);
};
const ms = (milliseconds) =>
  milliseconds >= 100 ? milliseconds.toFixed(0) : milliseconds >= 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(2);

// The deadline's scale: logarithmic, from half the fastest subnet's time to eight times the slowest's; its end is none.

// It is laid out once for a model: the times move while serving, and the slider's meaning must not move with them.

function layOutScale() {
  const times = state.family.subnets.map((subnet) => subnet.latency_ms).filter((time) => time > 0);
  if (times.length) state.scale = [Math.min(...times) * 0.5, Math.max(20, Math.max(...times) * 8)];
}

function deadlineMs() {
  const at = Number(byId("deadline").value);
  if (at >= 100) return null;
  const [low, high] = state.scale;
  return low * (high / low) ** (at / 99);
}

function shareOf(time) {
  const [low, high] = state.scale;
  return Math.min(1, Math.max(0, (Math.log(time / low) / Math.log(high / low)) * 0.99));
}

function showDeadline() {
  const deadline = deadlineMs();
  const text = deadline === null ? "none" : `${ms(deadline)} ms`;
  byId("deadline-value").textContent = text;
  byId("deadline").setAttribute("aria-valuetext", text);
}

// Asking

function classify() {
  const { blob, type } = state.picture;
  const headers = { "Content-Type": type };
  const deadline = deadlineMs();
  if (deadline !== null) headers["Deps-Timeout-Ms"] = deadline.toFixed(3);
  const path = `v2/models/${encodeURIComponent(state.model)}/classify?top=${TOP}`;
  return ask(path, { method: "POST", body: blob, headers });
}

async function askOnce() {
  if (!state.picture || !state.model) return;
  const mine = ++state.asked;
  byId("answer").setAttribute("aria-busy", "true");
  const start = performance.now();
  try {
    const { value, timing } = await classify();
    const elapsed = performance.now() - start;
    if (mine === state.asked) showAnswer(value, elapsed, timing);
  } catch (error) {
    if (mine === state.asked) showError(error.message);
  } finally {
    if (mine === state.asked) byId("answer").setAttribute("aria-busy", "false");
  }
}

async function stream() {
  while (state.isStreaming) {
    await askOnce();
    // A refused question comes back at once; asking on without a pause would only heat the room.
    if (!byId("error").hidden) await new Promise((resolve) => setTimeout(resolve, 250));
  }
}

function setStreaming(isStreaming) {
  const wasStreaming = state.isStreaming;
  state.isStreaming = isStreaming;
  byId("stream").setAttribute("aria-pressed", String(isStreaming));
  byId("stream").textContent = isStreaming ? "Stop asking" : "Keep asking";
  // While answers stream in, a screen reader would never end.
  byId("classes").setAttribute("aria-live", isStreaming ? "off" : "polite");
  if (isStreaming && !wasStreaming) for (let index = 0; index < STREAMS; index += 1) stream();
}

// Showing

function showError(message) {
  byId("error").textContent = message;
  byId("error").hidden = false;
  byId("classes").classList.add("stale");
}

function showAnswer(answer, elapsed, timing) {
  byId("error").hidden = true;
  byId("empty").hidden = true;
  const list = byId("classes");
  list.classList.remove("stale");
  list.replaceChildren(
    ...answer.classes.map(({ label, score }) => {
      const item = document.createElement("li");
      const name = document.createElement("span");
      const share = document.createElement("span");
      const bar = document.createElement("span");
      name.className = "label";
      name.textContent = label;
      share.className = "share";
      share.textContent = `${(100 * score).toFixed(1)} %`;
      bar.className = "bar";
      bar.style.setProperty("--share", score);
      item.append(name, share, bar);
      return item;
    }),
  );
  const { subnet, precision, engine } = answer.parameters;
  state.chosen = subnet;
  byId("facts").hidden = false;
  byId("by-subnet").textContent = subnet;
  byId("by-engine").textContent = `${precision}, ${engine}`;
  byId("round-trip").textContent = `${ms(elapsed)} ms`;
  const parts = [...timing.matchAll(/(queue|engine);dur=([0-9.]+)/g)].map((found) => `${ms(Number(found[2]))} ms`);
  byId("inside").textContent = parts.length === 2 ? parts.join(" + ") : "not told";
  showFamily();
}

function cell(text, kind = "td") {
  const element = document.createElement(kind);
  element.textContent = text;
  return element;
}

function showFamily() {
  const { subnets } = state.family;
  byId("family").tBodies[0].replaceChildren(
    ...subnets.map((subnet) => {
      const row = document.createElement("tr");
      if (subnet.name === state.chosen) {
        row.className = "chosen";
        row.setAttribute("aria-current", "true");
      }
      const name = cell(subnet.name, "th");
      name.scope = "row";
      name.title = `${subnet.precision}, ${subnet.engine}`;
      row.append(
        name,
        cell(count(subnet.flops)),
        cell(subnet.accuracy === null ? "not measured" : `${(100 * subnet.accuracy).toFixed(2)} %`),
        cell(subnet.latency_ms === null ? "–" : `${ms(subnet.latency_ms)} ms`),
        cell(String(subnet.images)),
      );
      return row;
    }),
  );
  drawTicks(
    byId("ticks"),
    subnets
      .filter((subnet) => subnet.latency_ms > 0)
      .map((subnet) => ({
        share: shareOf(subnet.latency_ms),
        isChosen: subnet.name === state.chosen,
        title: `${subnet.name}: ${ms(subnet.latency_ms)} ms`,
      })),
  );
}

function setHealth(kind, text) {
  byId("health").className = kind;
  byId("health-text").textContent = text;
}

function remember(list, value) {
  list.push(value);
  if (list.length > SECONDS_SHOWN) list.shift();
}

async function look() {
  if (!state.model) return;
  try {
    const { value } = await ask(`v2/models/${encodeURIComponent(state.model)}/subnets`);
    const now = performance.now() / 1000;
    const { before } = state;
    const isFirst = state.family === null;
    state.family = value;
    if (isFirst) layOutScale();
    state.before = { now, images: value.images, requests: value.requests, seconds: value.seconds };
    if (before) {
      const rate = (value.images - before.images) / (now - before.now);
      const requests = value.requests - before.requests;
      const mean = requests > 0 ? (1000 * (value.seconds - before.seconds)) / requests : null;
      remember(state.history.images, rate);
      remember(state.history.latency, mean);
      byId("throughput").textContent = rate >= 10 ? rate.toFixed(0) : rate.toFixed(1);
      byId("latency").textContent = mean === null ? "–" : ms(mean);
    }
    byId("queue").textContent = value.queue_images;
    byId("refused").textContent = value.refused;
    byId("model-name").textContent = value.name;
    byId("model-facts").textContent = `${value.subnets.length === 1 ? "one subnet" : `${value.subnets.length} subnets`}, made for ${value.target}`;
    document.title = `${value.name}: classify a picture`;
    setHealth("ready", "ready");
    showFamily();
  } catch (error) {
    setHealth("broken", "not answering");
    byId("health").title = error.message;
    remember(state.history.images, null);
    remember(state.history.latency, null);
  }
  drawLine(byId("throughput-chart"), state.history.images, SECONDS_SHOWN);
  drawLine(byId("latency-chart"), state.history.latency, SECONDS_SHOWN);
}

function take(file) {
  if (!file) return;
  if (!["image/jpeg", "image/png"].includes(file.type)) {
    showError(`${file.name || "This"} is ${file.type || "of an unknown kind"}; drop a JPEG or PNG picture.`);
    return;
  }
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `the picture ${file.name}`;
  preview.hidden = false;
  byId("invitation").hidden = true;
  byId("file-name").textContent = file.name;
  byId("again").disabled = byId("stream").disabled = false;
  state.picture = { blob: file, type: file.type, name: file.name };
  askOnce();
}

async function choose(name) {
  state.model = name;
  state.before = null;
  state.chosen = null;
  state.history = { images: [], latency: [] };
  state.family = null;
  await look();
  showDeadline();
  await askOnce();
}

async function open() {
  try {
    const { value } = await ask("v2/repository/index", {
      method: "POST",
      body: JSON.stringify({ ready: true }),
      headers: { "Content-Type": "application/json" },
    });
    byId("door").hidden = true;
    // A model that takes raw pixels is the same one under a second name; one entry is enough for pictures.
    const names = value.map((entry) => entry.name);
    const shown = names.filter((name) => !(name.endsWith("-uint8") && names.includes(name.slice(0, -6))));
    byId("model").replaceChildren(...shown.map((name) => new Option(name, name)));
    byId("model-choice").hidden = shown.length < 2;
    if (shown.length) await choose(shown[0]);
    else setHealth("broken", "no model is loaded");
  } catch (error) {
    setHealth("broken", "not answering");
    showError(error.message);
  }
}

// Wiring

const drop = byId("drop");
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
byId("again").addEventListener("click", askOnce);
byId("stream").addEventListener("click", () => setStreaming(!state.isStreaming));
byId("model").addEventListener("change", (event) => choose(event.target.value));
byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  open();
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));

let settled = 0;
byId("deadline").addEventListener("input", () => {
  showDeadline();
  clearTimeout(settled);
  settled = setTimeout(() => !state.isStreaming && askOnce(), 120);
});

showDeadline();
setInterval(() => document.visibilityState === "visible" && look(), 1000);
open();
