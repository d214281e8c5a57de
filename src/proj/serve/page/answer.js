// The right side of the page: probabilities as bars, values with their units, and what went wrong.

import { $, element, number, percent, words } from "./dom.js";

const ALL_UP_TO = 12; // classes; of more, only the most probable are shown
const SHOWN = 8;

export class Answer {
  constructor(facts, hint) {
    this.facts = facts;
    this.hint = hint; // what to do, while there is no answer
    this.rows = new Map(); // class → its row of the bars
  }

  busy(is) {
    if (is) $("answer").setAttribute("aria-busy", "true");
    else $("answer").removeAttribute("aria-busy");
  }

  wait(text) {
    $("error").hidden = true;
    this.#say(text);
  }

  show(answer, name) {
    $("error").hidden = true;
    if (this.facts.kind === "values") {
      this.#values(answer.values);
      this.#say(name || "These are the values.");
      return;
    }
    this.#bars(answer.probabilities);
    $("bars").classList.toggle("unsure", answer.label === null);
    const suffix = name ? ` · ${name}` : "";
    if (answer.label !== null) this.#say(`${percent(answer.confidence)}${suffix}`, answer.label);
    else this.#say(`${this.#doubt(answer)}${suffix}`, "Not sure");
  }

  // The state before any question: all classes there are, at nought.
  reset() {
    this.busy(false);
    $("error").hidden = true;
    $("values").hidden = true;
    $("bars").classList.remove("unsure");
    this.rows = new Map();
    if (this.facts.kind === "classes" && this.facts.names.length <= ALL_UP_TO) this.#makeRows(this.facts.names);
    else $("bars").replaceChildren();
    this.#say(this.hint);
  }

  fail(text) {
    this.reset();
    this.#say("");
    $("error").textContent = text;
    $("error").hidden = false;
  }

  #doubt({ probabilities, confidence }) {
    const [closest] = Object.entries(probabilities).reduce((a, b) => (b[1] > a[1] ? b : a));
    return `closest is ${closest} with ${percent(confidence)}; an answer needs ${percent(this.facts.threshold)}`;
  }

  #say(text, strong = "") {
    $("status").replaceChildren(...(strong ? [element("strong", "", strong), " "] : []), text);
  }

  #bars(probabilities) {
    const all = Object.entries(probabilities);
    const few = all.length <= ALL_UP_TO;
    const shown = few ? all : all.toSorted((a, b) => b[1] - a[1]).slice(0, SHOWN);
    const best = Math.max(...all.map(([, p]) => p));
    if (!few || shown.some(([name]) => !this.rows.has(name))) this.#makeRows(shown.map(([name]) => name));
    for (const [name, p] of shown) {
      const row = this.rows.get(name);
      row.item.classList.toggle("best", p === best);
      row.fill.style.width = `${100 * p}%`;
      row.share.textContent = percent(p);
    }
  }

  #makeRows(names) {
    this.rows = new Map();
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
      this.rows.set(name, { item, fill, share });
    }
    const longest = Math.max(1, ...names.map((n) => n.length));
    $("bars").style.setProperty("--label-width", `${Math.min(10, 0.62 * longest + 0.6)}rem`);
    $("bars").replaceChildren(...[...this.rows.values()].map((row) => row.item));
  }

  #values(values) {
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
}
