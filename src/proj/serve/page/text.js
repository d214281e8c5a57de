// Texts: a box for each field; the answer follows the button, Ctrl+Enter, or a pause.

import { $, element, sentence, tooLarge, words } from "./dom.js";

const PAUSE_MS = 700;
const SHORT = new Set(["title", "headline", "subject"]);
const TEXT_FILE = /\.(txt|md)$/i;

export class Text {
  constructor(facts, page) {
    this.facts = facts;
    this.page = page;
    this.heading = "Your text";
    this.hint = `Paste a text${facts.samples.length ? ", or try an example" : ""}.`;
    this.boxes = new Map(facts.preprocess.fields.map((name) => [name, this.#box(name)]));
    this.last = this.boxes.get(facts.preprocess.fields.at(-1));
    $("fields").hidden = $("keys-help").hidden = $("ask").hidden = $("choose").hidden = false;
    $("stage").hidden = true;
    $("file").accept = ".txt,text/plain";
    $("file").setAttribute("aria-label", "Text from a file");
    $("ask").addEventListener("click", () => this.#ask());
  }

  async files(given) {
    const file = given[0];
    const large = tooLarge(file, this.facts);
    if (large || !(file.type.startsWith("text/plain") || TEXT_FILE.test(file.name))) {
      this.page.fail(large || `${file.name} is not a text file (.txt).`);
      return;
    }
    this.#fill({ [this.facts.preprocess.fields.at(-1)]: await file.text() });
    this.#ask();
  }

  sample({ body }) {
    const last = this.facts.preprocess.fields.at(-1);
    this.#fill(last in body ? body : { [last]: body.text });
    this.#ask();
  }

  clear() {
    this.#fill({});
    this.page.reset();
    this.boxes.values().next().value.focus();
  }

  #box(name) {
    const short = SHORT.has(name);
    const box = element(short ? "input" : "textarea");
    box.id = `field-${name}`;
    if (short) box.type = "text";
    else box.rows = 10;
    const label = element("label", "", sentence(words(name)).replace(/\.$/, ""));
    label.htmlFor = box.id;
    box.addEventListener("input", () => this.#changed());
    box.addEventListener("keydown", (e) => {
      if (e.key !== "Enter" || e.isComposing || !(short || e.ctrlKey || e.metaKey)) return;
      e.preventDefault();
      this.#ask();
    });
    $("fields").append(label, box);
    return box;
  }

  #fill(body) {
    for (const [name, box] of this.boxes) box.value = body[name] ?? "";
    this.#buttons();
  }

  #buttons() {
    $("clear").disabled = [...this.boxes.values()].every((box) => !box.value);
    $("ask").disabled = !this.last.value.trim();
  }

  #changed() {
    this.#buttons();
    if (this.last.value.trim()) this.page.later(() => this.#ask(), PAUSE_MS);
    else this.page.reset();
  }

  #ask() {
    if (!this.last.value.trim()) return;
    const body = Object.fromEntries([...this.boxes].map(([name, box]) => [name, box.value]));
    const count = this.last.value.trim().split(/\s+/).length;
    this.page.ask(JSON.stringify(body), "application/json", `${count} word${count === 1 ? "" : "s"}`);
  }
}
