// Series: a window of measurements is pasted, dropped or clicked, drawn as a trace, and asked about.

import { $, element, number, tooLarge } from "./dom.js";
import { columns, fromCsv, fromNpy, fromSample, toCsv } from "./table.js";

const PAUSE_MS = 400;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 40;

export class Series {
  constructor(facts, page) {
    this.facts = facts;
    this.page = page;
    this.channels = facts.preprocess.channels;
    this.file = null; // a .npy, which has no text to show
    this.heading = "Your recording";
    this.hint = `Paste a window of measurements${facts.samples.length ? ", or try an example" : ""}.`;
    const what = `${facts.preprocess.steps} steps of ${this.channels.join(", ")}`;
    $("table-help").textContent = `CSV, a row a step: ${what}. A header may name the channels.`;
    $("table").placeholder = `${this.channels.join(",")}\n…`;
    $("recording").hidden = $("keys-help").hidden = $("ask").hidden = $("choose").hidden = false;
    $("stage").hidden = true;
    $("file").accept = ".csv,.npy,text/csv";
    $("file").setAttribute("aria-label", "Series from a file");
    $("ask").addEventListener("click", () => this.#ask());
    $("table").addEventListener("input", () => this.#typed());
    $("table").addEventListener("keydown", (e) => {
      if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) this.#ask();
    });
    this.#draw(null);
  }

  async files(given) {
    const file = given[0];
    const large = tooLarge(file, this.facts);
    if (large) {
      this.page.fail(large);
      return;
    }
    const start = new Uint8Array(await file.slice(0, 6).arrayBuffer());
    if (start[0] === 0x93) {
      this.#show("", fromNpy(await file.arrayBuffer()), file);
    } else {
      const text = await file.text();
      this.#show(text, fromCsv(text), null);
    }
    this.#ask(file.name);
  }

  sample({ name, body }) {
    const table = fromSample(body.series);
    this.#show(toCsv(table, this.channels), table, null);
    this.#ask(name);
  }

  clear() {
    this.#show("", null, null);
    this.page.reset();
    $("table").focus();
  }

  #typed() {
    const text = $("table").value;
    this.#show(text, fromCsv(text), null);
    if (text.trim()) this.page.later(() => this.#ask(), PAUSE_MS);
    else this.page.reset();
  }

  #show(text, table, file) {
    this.file = file;
    if ($("table").value !== text) $("table").value = text;
    $("clear").disabled = $("ask").disabled = !text.trim() && !file;
    this.#draw(table);
  }

  #ask(name = "") {
    const text = $("table").value;
    if (this.file) this.page.ask(this.file, "application/octet-stream", name || this.file.name);
    else if (text.trim()) this.page.ask(text, "text/csv", name);
  }

  #draw(table) {
    const traces = table ? columns(table, this.channels) : [];
    const few = traces.length < this.channels.length;
    const steps = table?.rows.length ?? 0;
    $("trace").classList.toggle("empty", !traces.length);
    $("trace-caption").textContent = traces.length
      ? `${steps} steps${few ? `, ${traces.length} of ${this.channels.length} channels` : ""}; each channel on its own scale`
      : "The trace is drawn here. A file can be dropped anywhere.";
    const longest = Math.max(1, ...traces.map(({ name }) => name.length));
    $("trace-rows").style.setProperty("--name-width", `${Math.min(8, 0.6 * longest + 0.6)}rem`);
    $("trace-rows").replaceChildren(...traces.map(row));
  }
}

// A channel: its name, its line, its lowest and highest number.
function row({ name, steps }) {
  const [low, high] = steps.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
  const made = element("li");
  const range = element("span", "range", low === high ? number(low) : `${number(low)} … ${number(high)}`);
  const label = element("span", "name", name);
  label.title = name;
  made.append(label, line(steps, low, high), range);
  return made;
}

function line(steps, low, high) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const y = (v) => (high > low ? 3 + (HEIGHT - 6) * (1 - (v - low) / (high - low)) : HEIGHT / 2);
  const x = (i) => (steps.length > 1 ? (WIDTH * i) / (steps.length - 1) : WIDTH / 2);
  if (low < 0 && high > 0) svg.append(shape("line", { class: "nought", x1: 0, x2: WIDTH, y1: y(0), y2: y(0) }));
  const points = steps.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  svg.append(shape("polyline", { points }));
  return svg;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
