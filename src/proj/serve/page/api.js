// Requests to the server: with a key where it asks for one, and with patience while it is busy.

import { sentence } from "./dom.js";
import { askForKey } from "./key.js";

export const ROOT = new URL("..", import.meta.url); // where the server is, whatever a proxy puts before its paths

const STORE = "proj-key"; // of this tab alone, until it is closed
const RETRIES = 3;
const PATIENCE_S = 15; // a longer wait is left to whoever asks

let asking = null; // the question for a key, while it is open

// fetch with the key; on 401 one is asked for. Resolves with the 401 only where none was given.
export async function request(url, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(STORE);
    const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
    const response = await fetch(url, { ...options, headers });
    if (response.status !== 401) return response;
    if (sessionStorage.getItem(STORE) !== key) continue; // another request has got one meanwhile
    sessionStorage.removeItem(STORE);
    asking ??= askForKey(Boolean(key)).finally(() => (asking = null));
    const given = await asking;
    if (!given) return response;
    sessionStorage.setItem(STORE, given);
  }
}

// JSON of an answer. While the server is busy it is asked again after the time that it names; `say` tells so.
export async function json(url, options = {}, say = () => {}) {
  for (let tried = 1; ; tried++) {
    const response = await request(url, options);
    if (response.ok) return response.json();
    const seconds = waitOf(response);
    if (!seconds || seconds > PATIENCE_S || tried > RETRIES) throw new Error(await problem(response, seconds));
    const why = response.status === 429 ? "Too many requests came from here" : "The server is busy";
    say(`${why}: trying again in ${seconds} s.`);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    options.signal?.throwIfAborted();
  }
}

// Seconds after which one may ask again; 0: asking again is no use.
function waitOf(response) {
  const busy = response.status === 503 || response.status === 429;
  return busy ? Math.ceil(Number(response.headers.get("Retry-After"))) || 1 : 0;
}

async function problem(response, seconds) {
  if (response.status === 401) return "A key is needed; load the page again to enter one.";
  const again = seconds ? ` Try again in ${seconds} s.` : "";
  try {
    const { detail, error } = await response.json();
    return sentence(detail ?? error) + again;
  } catch {
    return `The server answered with status ${response.status}.${again}`;
  }
}

// A link cannot carry a key: what it leads to is fetched with it, and shown.
export function carryKey(link) {
  link.addEventListener("click", async (e) => {
    if (!sessionStorage.getItem(STORE)) return;
    e.preventDefault();
    const response = await request(link.href);
    const isJson = (response.headers.get("Content-Type") ?? "").includes("json");
    const shown = new Blob([await response.text()], { type: isJson ? "application/json" : "text/plain" });
    location.assign(URL.createObjectURL(shown));
  });
}
