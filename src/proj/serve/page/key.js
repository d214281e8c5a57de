// The question for a key.

import { button, element } from "./dom.js";

const PRINTABLE = /^[\x21-\x7e]+$/; // what can stand in a header

// Resolves with the key, or null where none is given. `wrong`: the one before was not known.
export function askForKey(wrong) {
  const { dialog, form, input, error } = build();
  const complain = (text) => {
    error.textContent = text;
    error.hidden = !text;
    input.toggleAttribute("aria-invalid", Boolean(text));
    input.select();
  };
  let given = null;
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const typed = input.value.trim();
    if (!PRINTABLE.test(typed)) {
      complain("That is no key: a key has letters, digits and signs only.");
      return;
    }
    given = typed;
    dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  if (wrong) complain("This key is not known here. It may have been revoked.");
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
  });
}

function build() {
  const dialog = element("dialog", "key");
  const form = element("form");
  const heading = element("h2", "", "A key is needed");
  const about = element("p", "hint", "This server answers those who have a key. It stays in this tab, until the tab is closed.");
  const label = element("label", "", "Key");
  const input = element("input");
  const error = element("p", "error");
  const tools = element("div", "tools");
  const use = element("button", "main", "Use this key");
  heading.id = "key-heading";
  about.id = "key-about";
  error.id = "key-error";
  error.hidden = true;
  error.setAttribute("role", "alert");
  dialog.setAttribute("aria-labelledby", heading.id);
  dialog.setAttribute("aria-describedby", about.id);
  label.htmlFor = input.id = "key-input";
  Object.assign(input, { type: "password", required: true, autocomplete: "off", spellcheck: false, autofocus: true });
  input.setAttribute("aria-describedby", error.id);
  use.type = "submit";
  tools.append(use, button("Cancel", "", () => dialog.close()));
  form.append(heading, about, label, input, error, tools);
  dialog.append(form);
  return { dialog, form, input, error };
}
