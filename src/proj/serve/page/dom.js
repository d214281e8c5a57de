// What every part of the page uses: elements, and figures as a reader takes them.

export const $ = (id) => document.getElementById(id);
export const words = (name) => name.replaceAll("_", " ").replace(/\bf1\b/, "F1").replace(/\bauroc\b/, "AUROC");
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
export const percent = (p) => `${(100 * p).toFixed(p > 0.0995 && p < 0.995 ? 0 : 1)} %`;

export function number(value) {
  return Intl.NumberFormat("en", { maximumSignificantDigits: 4 }).format(value);
}

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function button(text, className, action) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

// Why a file cannot be sent, or "".
export function tooLarge(file, facts) {
  const limit = facts.limits.max_upload_mb;
  return file.size > limit * 1e6 ? `${file.name} has ${number(file.size / 1e6)} MB; the limit is ${limit} MB.` : "";
}
