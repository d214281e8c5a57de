// A pad on which one draws with mouse, pen, finger or keys: dark strokes on white paper.

const SIDE = 280; // strokes are kept in these units, whatever the screen's size
const STEP = 8; // how far an arrow key moves the pen

export class Pad {
  // `onStroke` is called after each change; `penWidth` is in units of SIDE.
  constructor(canvas, penWidth, onStroke) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.penWidth = penWidth;
    this.onStroke = onStroke;
    this.strokes = []; // lists of [x, y]
    this.pen = { x: SIDE / 2, y: SIDE / 2, down: false, shown: false };
    this.drawing = null; // the id of the pointer that draws
    canvas.addEventListener("pointerdown", (e) => this.#start(e));
    canvas.addEventListener("pointermove", (e) => this.#move(e));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => this.#end(e));
    canvas.addEventListener("keydown", (e) => this.#key(e));
    canvas.addEventListener("blur", () => this.#showPen(false));
    new ResizeObserver(() => this.#fit()).observe(canvas);
    this.#fit();
  }

  get empty() {
    return this.strokes.length === 0;
  }

  undo() {
    this.strokes.pop();
    this.pen.down = false;
    this.#paint();
    this.onStroke();
  }

  clear() {
    this.strokes = [];
    this.pen.down = false;
    this.#paint();
    this.onStroke();
  }

  // A PNG of SIDE x SIDE pixels, the same on every screen.
  toBlob() {
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = SIDE;
    this.#strokesOn(sheet.getContext("2d"), 1);
    return new Promise((resolve) => sheet.toBlob(resolve, "image/png"));
  }

  #start(event) {
    if (this.drawing !== null || event.button !== 0) return;
    this.drawing = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.#showPen(false);
    this.strokes.push([this.#at(event)]);
    this.#paint();
  }

  #move(event) {
    if (event.pointerId !== this.drawing) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const e of all.length ? all : [event]) this.strokes.at(-1).push(this.#at(e));
    this.#paint();
  }

  #end(event) {
    if (event.pointerId !== this.drawing) return;
    this.drawing = null;
    this.onStroke();
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const pen = this.pen;
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      pen.x = Math.min(SIDE, Math.max(0, pen.x + dx * STEP));
      pen.y = Math.min(SIDE, Math.max(0, pen.y + dy * STEP));
      if (pen.down) {
        this.strokes.at(-1).push([pen.x, pen.y]);
        this.onStroke();
      }
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) this.strokes.push([[pen.x, pen.y]]);
      this.onStroke();
    } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      if (!this.empty) this.undo();
    } else if (event.key === "Escape" || event.key === "Delete") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
    this.#showPen(true);
  }

  #showPen(shown) {
    this.pen.shown = shown;
    this.pen.down &&= shown;
    this.#paint();
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  #fit() {
    const side = Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1)) || SIDE;
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    this.#paint();
  }

  #paint() {
    const scale = this.canvas.width / SIDE;
    this.#strokesOn(this.context, scale);
    if (!this.pen.shown) return;
    this.context.strokeStyle = this.pen.down ? "#2f6b5e" : "#8a9490";
    this.context.lineWidth = 2 * scale;
    this.context.beginPath();
    this.context.arc(this.pen.x * scale, this.pen.y * scale, (this.penWidth / 2 + 3) * scale, 0, 7);
    this.context.stroke();
  }

  #strokesOn(context, scale) {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE * scale, SIDE * scale);
    context.strokeStyle = "#111";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = this.penWidth * scale;
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(stroke[0][0] * scale, stroke[0][1] * scale);
      for (const [x, y] of stroke) context.lineTo(x * scale, y * scale);
      context.stroke();
    }
  }
}
