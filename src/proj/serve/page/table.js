// A window of a series from what people have: CSV, .npy, or a sample's JSON. `{ names, rows }`: numbers, a row a step.

const NPY = "\x93NUMPY";
const READERS = {
  f4: "getFloat32", f8: "getFloat64", i1: "getInt8", i2: "getInt16", i4: "getInt32", u1: "getUint8", u2: "getUint16",
  u4: "getUint32",
};

// `names` is null where there is no header. Returns null for what is no table of numbers: the server says why.
export function fromCsv(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) return null;
  const count = (mark) => lines[0].split(mark).length;
  const mark = [",", ";", "\t"].reduce((a, b) => (count(b) > count(a) ? b : a));
  const cells = lines.map((line) => line.split(mark).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  const names = cells[0].some((cell) => cell === "" || Number.isNaN(Number(cell))) ? cells.shift() : null;
  const rows = cells.map((row) => row.map(Number));
  return regular(rows) ? { names, rows } : null;
}

export function fromNpy(buffer) {
  const view = new DataView(buffer);
  const text = (start, end) => String.fromCharCode(...new Uint8Array(buffer.slice(start, end)));
  if (text(0, 6) !== NPY) return null;
  const wide = view.getUint8(6) > 1;
  const start = wide ? 12 : 10;
  const end = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = text(start, end).match(/'descr': '([<>|])(\w\d)'.*'fortran_order': (True|False).*'shape': \((\d+), (\d+)\)/);
  if (!header || !(header[2] in READERS)) return null;
  const [, order, kind, fortran, steps, channels] = header;
  const [n, c, bytes] = [Number(steps), Number(channels), Number(kind[1])];
  if (end + n * c * bytes > buffer.byteLength) return null;
  const at = (i, j) => view[READERS[kind]](end + bytes * (fortran === "True" ? j * n + i : i * c + j), order !== ">");
  const rows = Array.from({ length: n }, (_, i) => Array.from({ length: c }, (_, j) => at(i, j)));
  return regular(rows) ? { names: null, rows } : null;
}

// From `{"series": [[...]]}` or `{"series": {"Fx": [...]}}`.
export function fromSample(series) {
  if (Array.isArray(series)) return { names: null, rows: series };
  const names = Object.keys(series);
  return { names, rows: series[names[0]].map((_, i) => names.map((name) => series[name][i])) };
}

export function toCsv({ names, rows }, channels) {
  return [names ?? channels, ...rows].map((row) => row.map(short).join(",")).join("\n");
}

// A model reads single precision: 0.84 and 0.8399999737739563 are the same to it.
function short(cell) {
  const rounded = Number(Number(cell).toPrecision(7));
  return typeof cell === "number" && Math.fround(rounded) === Math.fround(cell) ? rounded : cell;
}

// The channels' steps, in the model's order: a list for each name. Of a table without names the columns stand in order.
export function columns({ names, rows }, channels) {
  const at = (name, i) => (names ? names.indexOf(name) : i);
  return channels
    .map((name, i) => ({ name, steps: rows.map((row) => row[at(name, i)]) }))
    .filter(({ steps }) => steps.every(Number.isFinite));
}

function regular(rows) {
  return rows.length > 0 && rows.every((row) => row.length === rows[0].length && row.every(Number.isFinite));
}
