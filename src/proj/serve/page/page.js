// The page at /: an input of the model's kind goes to /predict, and the answer is shown beside it.

import { Answer } from "./answer.js";
import { $, button, element, number, sentence, words } from "./dom.js";
import { Photo } from "./photo.js";
import { Series } from "./series.js";
import { Text } from "./text.js";

const RETRIES = 3; // while the server's queue is full
const INPUTS = { image: Photo, text: Text, series: Series };

let answer;
let asked = null; // AbortController of the question in flight
let timer = 0;

async function start() {
  let facts;
  try {
    const response = await fetch("model");
    if (!response.ok) throw new Error(await problem(response));
    facts = await response.json();
  } catch (e) {
    $("status").textContent = "";
    $("error").textContent = `The model's facts cannot be read. ${e.message}`;
    $("error").hidden = false;
    return;
  }
  describe(facts);
  // What an input may do: ask now, ask after a pause, go back to the start, say what is wrong.
  const input = new INPUTS[facts.modality](facts, { ask, later, reset, fail });
  answer = new Answer(facts, input.hint);
  $("input-heading").textContent = input.heading;
  listen(input);
  showSamples(facts.samples, input);
  reset();
}

// Of values: each one's mean absolute error, in its unit.
function errors(facts) {
  return facts.names.flatMap((name, i) => {
    const mae = facts.metrics[`${name}_mae`];
    return mae === undefined ? [] : [`${words(name)} ± ${number(mae)} ${facts.units[i]}`];
  });
}

function describe(facts) {
  document.title = facts.title;
  $("title").textContent = facts.title;
  $("question").textContent = facts.question;
  $("model").textContent = facts.model;
  const metrics = Object.entries(facts.metrics).map(([name, v]) => `${words(name)} ${number(v)}`);
  const figures = facts.kind === "values" ? errors(facts) : metrics;
  $("metrics").textContent = figures.length ? `${figures.join(", ")} on the ${facts.split} split` : "";
  $("warning").hidden = !facts.warning;
  $("warning").textContent = facts.warning ? sentence(facts.warning) : "";
  $("main").classList.toggle("wide", facts.modality !== "image");
}

function listen(input) {
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

function showSamples(samples, input) {
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
  try {
    const found = await post(body, type, controller.signal);
    if (controller === asked) answer.show(found, name);
  } catch (e) {
    if (controller !== asked || e.name === "AbortError") return; // a newer question has taken its place
    fail(e instanceof TypeError ? "The server does not answer. Is it still running?" : e.message);
  } finally {
    if (controller === asked) answer.busy(false);
  }
}

async function post(body, type, signal) {
  const headers = type ? { "Content-Type": type } : {};
  for (let tried = 0; ; tried++) {
    const response = await fetch("predict", { method: "POST", body, headers, signal });
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

start();
