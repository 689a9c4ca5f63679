// Values as people read them. What is not known is a dash; nothing here ever makes markup.

const DASH = "–";
const SPACE = "\u202f"; // narrow, no break

// By hand: a browser takes long to begin with Intl.
function grouped(value) {
  return value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",");
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function scaled(value, units, base = 1000) {
  let power = 0;
  while (Math.abs(value) >= base && power < units.length - 1) {
    value /= base;
    power += 1;
  }
  const digits = power === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toFixed(digits) + (units[power] ? SPACE + units[power] : "");
}

function numeric(write) {
  return (value) => (isNumber(value) ? write(value) : DASH);
}

export const as = {
  text: (value) => (value === null || value === undefined || value === "" ? DASH : String(value)),
  name: (value) => (value ? String(value) : "this swarm"),
  word: (value) => (value ? String(value).replaceAll("_", " ") : DASH),
  count: numeric(grouped),
  large: numeric((value) => scaled(value, ["", "k", "M", "G", "T", "P"])),
  loss: numeric((value) => value.toFixed(3)),
  rate: numeric((value) => (value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2))),
  share: numeric((value) => (100 * value).toFixed(1) + SPACE + "%"),
  bytes: numeric((value) => scaled(value, ["B", "kB", "MB", "GB", "TB", "PB"])),
  norm: numeric((value) => (value === 0 ? "0" : value.toPrecision(3))),
  seconds: numeric((value) => (value >= 100 ? value.toFixed(0) : value.toFixed(value >= 10 ? 1 : 2)) + SPACE + "s"),
  duration: numeric(duration),
  celsius: numeric((value) => value.toFixed(0) + SPACE + "°C"),
  energy: numeric((value) => scaled(value / 3600, ["Wh", "kWh", "MWh"])),
};

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return whole + SPACE + "s";
  if (whole < 3600) return Math.floor(whole / 60) + SPACE + "min";
  if (whole < 86400) return Math.floor(whole / 3600) + SPACE + "h " + Math.floor((whole % 3600) / 60) + SPACE + "min";
  return Math.floor(whole / 86400) + SPACE + "d " + Math.floor((whole % 86400) / 3600) + SPACE + "h";
}

/** The end of a PeerID: all of them begin alike. */
export function short(peer) {
  const id = String(peer ?? "");
  return id.length > 12 ? id.slice(-8) : id;
}

/** Put a value into an element: what it is for programs, and how it is said. */
export function show(element, value, write) {
  const text = write(value);
  if (element.textContent !== text) element.textContent = text;
  if (element.tagName === "DATA") {
    const raw = value === null || value === undefined ? "" : String(value);
    if (element.value !== raw) element.value = raw;
  }
}

/** An element with text in it, and with attributes. */
export function made(name, text = "", attributes = {}) {
  const element = document.createElement(name);
  if (text !== "") element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
