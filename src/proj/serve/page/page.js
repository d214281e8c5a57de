// The page at /: a drawing or a photo goes to /predict, and the answer is shown as bars or values.

import { Pad } from "./draw.js";

const PAUSE_MS = 120; // after a stroke, before the question is sent
const RETRIES = 3; // while the server's queue is full
const ALL_UP_TO = 12; // classes; of more, only the most probable are shown
const SHOWN = 8;

const $ = (id) => document.getElementById(id);
const percent = (p) => `${(100 * p).toFixed(p > 0.0995 && p < 0.9995 ? 0 : 1)} %`;
const words = (name) => name.replaceAll("_", " ").replace(/\bf1\b/, "F1");
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

let facts;
let pad = null;
let rows = new Map(); // class → its row of the bars
let asked = null; // AbortController of the question in flight
let timer = 0;

async function start() {
  try {
    const response = await fetch("model");
    if (!response.ok) throw new Error(await problem(response));
    facts = await response.json();
  } catch (e) {
    say("");
    fail(`The model's facts cannot be read. ${e.message}`);
    return;
  }
  describe();
  if (facts.page_input === "sketch") startDrawing();
  else $("zone").hidden = false;
  listen();
  reset();
}

function describe() {
  document.title = facts.title;
  $("title").textContent = facts.title;
  $("question").textContent = facts.question;
  $("model").textContent = facts.model;
  const figures = Object.entries(facts.metrics).map(([name, v]) => `${words(name)} ${number(v)}`);
  $("metrics").textContent = figures.length ? `${figures.join(", ")} on the ${facts.split} split` : "";
  $("warning").hidden = !facts.warning;
  $("warning").textContent = facts.warning ? sentence(facts.warning) : "";
  $("input-heading").textContent = facts.page_input === "sketch" ? "Your drawing" : "Your photo";
}

function startDrawing() {
  for (const id of ["pad", "pad-help", "undo"]) $(id).hidden = false;
  // Drawings of few pixels come from thick pens, of many from thin ones.
  const penWidth = (facts.preprocess.ink_px || 28) <= 20 ? 22 : 12;
  pad = new Pad($("pad"), penWidth, drawn);
}

function listen() {
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", clear);
  for (const id of ["choose", "zone"]) $(id).addEventListener("click", () => $("file").click());
  $("take").addEventListener("click", () => $("camera").click());
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", (e) => {
      photo(e.target.files);
      e.target.value = ""; // the same file may be chosen again
    });
  }
  document.addEventListener("paste", (e) => photo(e.clipboardData.files));
  document.addEventListener("dragover", (e) => {
    e.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (e) => {
    if (!e.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (e) => {
    e.preventDefault();
    document.body.classList.remove("dropping");
    photo(e.dataTransfer.files);
  });
  $("preview-image").addEventListener("error", () => ($("preview-image").hidden = true));
}

function drawn() {
  $("undo").disabled = $("clear").disabled = pad.empty;
  clearTimeout(timer);
  if (pad.empty) {
    reset();
    return;
  }
  timer = setTimeout(async () => ask(await pad.toBlob(), ""), PAUSE_MS);
}

function photo(files) {
  if (!files.length) return;
  const file = files[0];
  clearTimeout(timer);
  showPreview(file);
  const limit = facts.limits.max_upload_mb * 1e6;
  if (file.size > limit) {
    reset();
    fail(`${file.name} has ${number(file.size / 1e6)} MB; the limit is ${facts.limits.max_upload_mb} MB.`);
    return;
  }
  ask(file, files.length > 1 ? `${file.name}, the first of ${files.length}` : file.name);
}

function showPreview(file) {
  const image = $("preview-image");
  URL.revokeObjectURL(image.src);
  image.hidden = false;
  image.src = URL.createObjectURL(file);
  image.alt = `Preview of ${file.name}`;
  $("preview-name").textContent = file.name;
  $("preview").hidden = false;
  $("clear").disabled = false;
  $("undo").disabled = true;
}

function clear() {
  clearTimeout(timer);
  $("preview").hidden = true;
  URL.revokeObjectURL($("preview-image").src);
  $("preview-image").removeAttribute("src");
  $("clear").disabled = true;
  if (pad) pad.clear();
  else reset();
}

async function ask(blob, name) {
  asked?.abort();
  const controller = (asked = new AbortController());
  $("answer").setAttribute("aria-busy", "true");
  try {
    const answer = await post(blob, controller.signal);
    if (controller === asked) show(answer, name);
  } catch (e) {
    if (controller !== asked || e.name === "AbortError") return; // a newer question has taken its place
    reset();
    say("");
    fail(e instanceof TypeError ? "The server does not answer. Is it still running?" : e.message);
  } finally {
    if (controller === asked) $("answer").removeAttribute("aria-busy");
  }
}

async function post(blob, signal) {
  // What is not declared as a picture goes as plain bytes: the server looks inside and says what it found.
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  for (let tried = 0; ; tried++) {
    const response = await fetch("predict", { method: "POST", body: blob, headers: { "Content-Type": type }, signal });
    if (response.ok) return response.json();
    if (response.status !== 503 || tried === RETRIES) throw new Error(await problem(response));
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    signal.throwIfAborted();
  }
}

async function problem(response) {
  try {
    const body = await response.json();
    return sentence(body.detail);
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

function show(answer, name) {
  $("error").hidden = true;
  if (facts.kind === "values") {
    showValues(answer.values);
    say(name || "These are the values.");
    return;
  }
  showBars(answer.probabilities);
  say(`${percent(answer.confidence)}${name ? ` · ${name}` : ""}`, answer.label);
}

function showBars(probabilities) {
  const all = Object.entries(probabilities);
  const few = all.length <= ALL_UP_TO;
  const shown = few ? all : all.toSorted((a, b) => b[1] - a[1]).slice(0, SHOWN);
  const best = Math.max(...all.map(([, p]) => p));
  if (!few || !rows.size) makeRows(shown.map(([name]) => name));
  for (const [name, p] of shown) {
    const row = rows.get(name);
    row.item.classList.toggle("best", p === best);
    row.fill.style.width = `${100 * p}%`;
    row.share.textContent = percent(p);
  }
}

function makeRows(names) {
  rows = new Map();
  for (const name of names) {
    const item = element("li");
    const label = element("span", "name", name);
    label.title = name;
    const track = element("span", "track");
    track.setAttribute("aria-hidden", "true");
    const fill = element("div", "fill");
    const share = element("span", "share");
    track.append(fill);
    item.append(label, track, share);
    rows.set(name, { item, fill, share });
  }
  const longest = Math.max(1, ...names.map((n) => n.length));
  $("bars").style.setProperty("--label-width", `${Math.min(10, 0.62 * longest + 0.6)}rem`);
  $("bars").replaceChildren(...[...rows.values()].map((row) => row.item));
}

function showValues(values) {
  const lines = Object.entries(values).map(([name, { value, unit }]) => {
    const line = element("div");
    const amount = element("dd", "", number(value));
    amount.append(element("span", "unit", unit));
    line.append(element("dt", "", words(name)), amount);
    return line;
  });
  $("values").replaceChildren(...lines);
  $("values").hidden = false;
}

// The state before any question: all classes there are, at nought.
function reset() {
  asked?.abort();
  asked = null;
  $("answer").removeAttribute("aria-busy");
  $("error").hidden = true;
  $("values").hidden = true;
  rows = new Map();
  if (facts.kind === "classes" && facts.names.length <= ALL_UP_TO) makeRows(facts.names);
  else $("bars").replaceChildren();
  say(facts.page_input === "sketch" ? "Draw something: the answer follows each stroke." : "Give it a photo.");
}

function say(text, strong = "") {
  $("status").replaceChildren(...(strong ? [element("strong", "", strong), " "] : []), text);
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = false;
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function number(value) {
  return Intl.NumberFormat("en", { maximumSignificantDigits: 4 }).format(value);
}

start();
