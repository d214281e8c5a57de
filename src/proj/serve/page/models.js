// The page at / of a server with several models: one leads to each.

import { carryKey, json } from "./api.js";
import { $, element } from "./dom.js";

const TAKES = { image: "Takes pictures", text: "Takes texts", series: "Takes measurements" };

async function start() {
  carryKey($("metrics-link"));
  try {
    const { models } = await json("models", {}, (text) => ($("status").textContent = text));
    $("models").replaceChildren(...models.map(card));
    $("status").textContent = `${models.length} models answer here. Choose one.`;
  } catch (e) {
    $("status").textContent = "";
    $("error").textContent = `The list of models cannot be read. ${e.message}`;
    $("error").hidden = false;
  }
}

function card({ name, title, question, model, modality }) {
  const item = element("li", "card");
  const heading = element("h2");
  const link = element("a", "", title);
  link.href = `${encodeURIComponent(name)}/`;
  heading.append(link);
  const about = element("p", "hint", `${TAKES[modality] ?? modality} · `);
  about.append(element("code", "", model));
  item.append(heading, element("p", "", question), about);
  return item;
}

start();
