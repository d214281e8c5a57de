// A model's page: an input of its kind goes to `predict` beside the page, and the answer is shown.

import { Answer } from "./answer.js";
import { ROOT, carryKey, json } from "./api.js";
import { $, button, element, number, sentence, words } from "./dom.js";
import { Photo } from "./photo.js";
import { Series } from "./series.js";
import { Text } from "./text.js";

const CHANGED = "proj-changed"; // what is said after the page has loaded itself anew
const INPUTS = { image: Photo, text: Text, series: Series };

let answer;
let facts;
let input;
let asked = null; // AbortController of the question in flight
let timer = 0;

async function start() {
  links();
  try {
    facts = await json("model", {}, (text) => ($("status").textContent = text));
  } catch (e) {
    $("status").textContent = "";
    $("error").textContent = `The model's facts cannot be read. ${e.message}`;
    $("error").hidden = false;
    return;
  }
  describe();
  // What an input may do: ask now, ask after a pause, go back to the start, say what is wrong.
  input = new INPUTS[facts.modality](facts, { ask, later, reset, fail });
  answer = new Answer(facts, input.hint);
  $("input-heading").textContent = input.heading;
  listen();
  showSamples();
  reset();
  const said = sessionStorage.getItem(CHANGED);
  sessionStorage.removeItem(CHANGED);
  if (said) sayChanged(said);
  linkToAll().catch(() => {}); // the page does without
}

// The page stands at the server's root or in a model's folder; what is the server's own is at its root.
function links() {
  for (const link of document.querySelectorAll("a[data-root]")) link.href = new URL(link.dataset.root, ROOT);
  for (const id of ["facts-link", "metrics-link"]) carryKey($(id));
}

async function linkToAll() {
  if (new URL(".", location.href).pathname === ROOT.pathname) return;
  const { models } = await json(new URL("models", ROOT));
  $("all").hidden = models.length < 2;
}

// A newer model has answered: the page becomes that one's.
async function renew() {
  const newer = await json("model");
  if (newer.model === facts.model) return; // asked of a worker that has not changed yet: the next answer asks again
  const shape = ({ modality, page_input, kind, preprocess }) => JSON.stringify([modality, page_input, kind, preprocess]);
  if (shape(newer) !== shape(facts)) {
    sessionStorage.setItem(CHANGED, newer.model);
    location.reload(); // it takes inputs of another kind
    return;
  }
  facts = answer.facts = input.facts = newer;
  describe();
  showSamples();
  answer.reset();
  sayChanged(newer.model);
}

function sayChanged(model) {
  $("changed").textContent = `The model has changed: ${model} answers now.`;
  $("changed").hidden = false;
}

// Of values: each one's mean absolute error, in its unit.
function errors() {
  return facts.names.flatMap((name, i) => {
    const mae = facts.metrics[`${name}_mae`];
    return mae === undefined ? [] : [`${words(name)} ± ${number(mae)} ${facts.units[i]}`];
  });
}

function describe() {
  document.title = facts.title;
  $("title").textContent = facts.title;
  $("question").textContent = facts.question;
  $("model").textContent = facts.model;
  const metrics = Object.entries(facts.metrics).map(([name, v]) => `${words(name)} ${number(v)}`);
  const figures = facts.kind === "values" ? errors() : metrics;
  $("metrics").textContent = figures.length ? `${figures.join(", ")} on the ${facts.split} split` : "";
  $("warning").hidden = !facts.warning;
  $("warning").textContent = facts.warning ? sentence(facts.warning) : "";
  $("main").classList.toggle("wide", facts.modality !== "image");
}

function listen() {
  $("clear").addEventListener("click", () => input.clear());
  $("choose").addEventListener("click", () => $("file").click());
  for (const id of ["file", "camera"]) {
    $(id).addEventListener("change", (e) => {
      input.files([...e.target.files]);
      e.target.value = ""; // the same file may be chosen again
    });
  }
  document.addEventListener("paste", (e) => {
    // A spreadsheet puts a picture of the cells beside their text.
    const text = e.target.matches?.("textarea, input") && e.clipboardData.getData("text/plain");
    if (e.clipboardData.files.length && !text) input.files([...e.clipboardData.files]);
  });
  const holdsFiles = (e) => e.dataTransfer.types.includes("Files"); // a text that is dragged goes its own way
  document.addEventListener("dragover", (e) => {
    if (!holdsFiles(e)) return;
    e.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (e) => {
    if (!e.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (e) => {
    if (!holdsFiles(e)) return;
    e.preventDefault();
    document.body.classList.remove("dropping");
    if (e.dataTransfer.files.length) input.files([...e.dataTransfer.files]);
  });
}

function showSamples() {
  const { samples } = facts;
  $("samples").hidden = !samples.length;
  $("sample-list").replaceChildren(
    ...samples.map((sample) => {
      const made = button("", "sample", () => input.sample(sample));
      const picture = sample.body.image ?? sample.body.views?.[0];
      if (picture) {
        const image = element("img");
        image.src = `data:image/png;base64,${picture}`;
        image.alt = sample.name;
        made.title = sample.name;
        made.classList.add("picture");
        made.append(image);
      } else made.textContent = sample.name;
      const item = element("li");
      item.append(made);
      return item;
    }),
  );
}

function later(action, ms) {
  clearTimeout(timer);
  timer = setTimeout(action, ms);
}

function reset() {
  clearTimeout(timer);
  asked?.abort();
  asked = null;
  answer.reset();
}

function fail(text) {
  reset();
  answer.fail(text);
}

// `body` as fetch takes it, `type` its content type ("" where the browser says it), `name` what the answer is called.
async function ask(body, type, name = "") {
  clearTimeout(timer);
  asked?.abort();
  const controller = (asked = new AbortController());
  answer.busy(true);
  const headers = type ? { "Content-Type": type } : {};
  const wait = (text) => controller === asked && answer.wait(text);
  try {
    const found = await json("predict", { method: "POST", body, headers, signal: controller.signal }, wait);
    if (controller !== asked) return;
    if (found.model !== facts.model) await renew().catch(() => {}); // the answer stands; the next one tries again
    if (controller === asked) answer.show(found, name);
  } catch (e) {
    if (controller !== asked || e.name === "AbortError") return; // a newer question has taken its place
    fail(e instanceof TypeError ? "The server does not answer. Is it still running?" : e.message);
  } finally {
    if (controller === asked) answer.busy(false);
  }
}

start();
