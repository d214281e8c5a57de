// Pictures: a drawing or a photo is asked about at once; where the model takes several views, all of them together.

import { $, button, element, tooLarge } from "./dom.js";
import { Pad } from "./draw.js";

const PAUSE_MS = 120; // after a stroke, before the question is sent

export class Photo {
  constructor(facts, page) {
    this.facts = facts;
    this.page = page;
    this.most = facts.preprocess.views ?? 1;
    this.shown = []; // files, or a sample's
    this.pad = null;
    const sketch = facts.page_input === "sketch";
    this.heading = sketch ? "Your drawing" : this.most > 1 ? "Your photos" : "Your photo";
    this.hint = sketch ? "Draw something: the answer follows each stroke." : "Give it a photo.";
    $("choose").textContent = this.most > 1 ? "Add a photo" : "Choose a photo";
    if (sketch) this.#startDrawing();
    else this.#startZone();
    for (const id of ["choose", "take"]) $(id).hidden = false;
    $("file").multiple = this.most > 1;
    $("take").addEventListener("click", () => $("camera").click());
    $("preview-image").addEventListener("error", () => ($("preview-image").hidden = true));
  }

  // Several views are added to those that are there; otherwise the first file takes their place.
  files(given) {
    const files = this.most > 1 ? [...this.shown, ...given] : given.slice(0, 1);
    if (!files.length) return;
    if (files.length > this.most) {
      this.page.fail(`Up to ${this.most} photos of one thing make one answer; these would be ${files.length}.`);
      return;
    }
    const rest = this.most === 1 && given.length > 1 ? `, the first of ${given.length}` : "";
    this.#show(files, rest);
  }

  sample({ name, body }) {
    const pictures = body.views ?? [body.image];
    this.#show(pictures.map((base64, i) => asFile(base64, pictures.length > 1 ? `${name}, ${i + 1}` : name)));
  }

  clear() {
    this.#show([]);
    if (this.pad) this.pad.clear();
    else this.page.reset();
  }

  #startDrawing() {
    for (const id of ["pad", "pad-help", "undo"]) $(id).hidden = false;
    // Drawings of few pixels come from thick pens, of many from thin ones.
    const penWidth = (this.facts.preprocess.ink_px || 28) <= 20 ? 22 : 12;
    this.pad = new Pad($("pad"), penWidth, () => this.#drawn());
    $("undo").addEventListener("click", () => this.pad.undo());
  }

  #startZone() {
    $("zone").hidden = false;
    $("zone").addEventListener("click", () => $("file").click());
    if (this.most === 1) return;
    $("zone-title").textContent = "Drop photos here";
    $("zone-text").textContent = `or click to choose them: up to ${this.most} views of one thing, one answer`;
  }

  #drawn() {
    $("undo").disabled = $("clear").disabled = this.pad.empty;
    if (this.pad.empty) this.page.reset();
    else this.page.later(async () => this.page.ask(await this.pad.toBlob(), "image/png"), PAUSE_MS);
  }

  #show(files, rest = "") {
    this.shown = files;
    if (this.most > 1) this.#thumbnails(files);
    else this.#preview(files[0]);
    $("clear").disabled = !files.length;
    if (!files.length) return;
    $("undo").disabled = true;
    const large = files.map((file) => tooLarge(file, this.facts)).find(Boolean);
    if (large) this.page.fail(large);
    else if (this.most > 1) this.#askViews(files);
    else this.page.ask(files[0], typeOf(files[0]), files[0].name + rest);
  }

  #askViews(files) {
    const form = new FormData();
    for (const file of files) form.append("views", file, file.name);
    this.page.ask(form, "", files.length > 1 ? `${files.length} views together` : files[0].name);
  }

  #preview(file) {
    const image = $("preview-image");
    URL.revokeObjectURL(image.src);
    $("preview").hidden = !file;
    if (!file) {
      image.removeAttribute("src");
      return;
    }
    image.hidden = false;
    image.src = URL.createObjectURL(file);
    image.alt = `Preview of ${file.name}`;
    $("preview-name").textContent = file.name;
  }

  #thumbnails(files) {
    for (const image of $("views").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    $("views").hidden = !files.length;
    $("zone").hidden = files.length > 0;
    $("views").classList.toggle("many", files.length > 4);
    $("choose").disabled = $("take").disabled = files.length >= this.most;
    $("views").replaceChildren(...files.map((file, i) => this.#thumbnail(file, i)));
  }

  #thumbnail(file, i) {
    const item = element("li");
    const image = element("img");
    image.src = URL.createObjectURL(file);
    image.alt = `View ${i + 1}: ${file.name}`;
    const remove = button("×", "remove", () => this.#remove(i));
    remove.setAttribute("aria-label", `Remove view ${i + 1}`);
    item.append(image, remove);
    return item;
  }

  #remove(i) {
    const left = this.shown.filter((_, at) => at !== i);
    if (!left.length) {
      this.clear();
      $("zone").focus();
      return;
    }
    this.#show(left);
    $("views").querySelectorAll("button")[Math.min(i, left.length - 1)].focus();
  }
}

// What is not declared as a picture goes as plain bytes: the server looks inside and says what it found.
function typeOf(file) {
  return file.type.startsWith("image/") ? file.type : "application/octet-stream";
}

function asFile(base64, name) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new File([bytes], name);
}
