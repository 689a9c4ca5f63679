// Peers, rounds and contributions: rows that are changed in place, so that focus and scrolling stay.

import { as, made, short, show } from "/web/format.js";

const PHASES = ["form", "exchange", "certify"];
const ROWS = 10;
const JOINED = new Set(["training", "exchanging", "paused"]);

function byId(id) {
  return document.getElementById(id);
}

/** What a peer is, as this node can tell: what it last said, unless a node that takes part has lost it. */
export function stateOf(peer, status) {
  if (!peer.connected && JOINED.has(status.state)) return "not connected";
  return peer.state || "unknown";
}

function cells(row, names) {
  for (const name of names) row.append(made(name === "peer" ? "th" : "td", "", name === "peer" ? { scope: "row" } : {}));
  return row;
}

/** Set text, and a class, only where they differ. */
function fill(cell, text, className = "") {
  if (cell.textContent !== text) cell.textContent = text;
  if (cell.className !== className) cell.className = className;
}

function label(cell, state) {
  if (!cell.firstChild) cell.append(made("span", "", { class: "dot" }), made("span"));
  cell.firstChild.dataset.state = state;
  fill(cell.lastChild, as.word(state));
}

const rows = new Map();

export function peers(status) {
  const body = byId("peers").tBodies[0];
  const present = new Set();
  const counts = new Map();
  for (const peer of status.peers) {
    const state = stateOf(peer, status);
    counts.set(state, (counts.get(state) ?? 0) + 1);
    present.add(peer.peer_id);
    let row = rows.get(peer.peer_id);
    if (!row) {
      row = cells(made("tr"), ["peer", "state", "round", "speed", "loss", "role", "path", "version", "heard"]);
      row.dataset.peer = peer.peer_id;
      rows.set(peer.peer_id, row);
      body.append(row);
    }
    const [name, word, round, speed, loss, role, path, version, heard] = row.cells;
    fill(name, peer.public_name || short(peer.peer_id), peer.public_name ? "" : "id");
    name.title = peer.peer_id;
    label(word, state);
    fill(round, as.count(peer.round), "number");
    fill(speed, as.rate(peer.speed), "number");
    fill(loss, as.loss(peer.loss), "number");
    fill(role, as.text(peer.role), "roomy");
    fill(path, as.text(peer.path), "roomy");
    fill(version, as.text(peer.version), "roomy");
    fill(heard, as.duration(peer.age_s), "number roomy");
  }
  for (const [id, row] of rows) {
    if (!present.has(id)) {
      row.remove();
      rows.delete(id);
    }
  }
  byId("peers").classList.toggle("nobody", status.peers.length === 0);
  chips(counts);
}

function chips(counts) {
  const list = byId("by-state");
  const wanted = [...counts].sort().map(([state, count]) => [state, `${count} ${as.word(state)}`]);
  if (!wanted.length) wanted.push(["none", "no other peer is known yet"]);
  while (list.children.length > wanted.length) list.lastChild.remove();
  while (list.children.length < wanted.length) list.append(made("li", "", {}));
  wanted.forEach(([state, text], i) => {
    const item = list.children[i];
    if (!item.firstChild) item.append(made("span", "", { class: "dot" }), made("span"));
    item.firstChild.dataset.state = state;
    fill(item.lastChild, text);
  });
}

// -- rounds ------------------------------------------------------------------------------------------

let chosen = null; // a round number; null: the newest
let known = [];

function own(record) {
  return record.own === null || record.own === undefined ? "sent nothing" : record.own ? "counted" : "not counted";
}

function emptyRow() {
  const row = made("tr");
  const head = made("th", "", { scope: "row", class: "number" });
  head.append(made("button", "–", { type: "button", disabled: "" }));
  row.append(head);
  for (let i = 0; i < 6; i++) row.append(made("td"));
  row.cells[1].append(made("span", "", { class: "bar" }));
  head.firstChild.addEventListener("click", () => {
    chosen = Number(row.dataset.round);
    rounds(known);
  });
  return row;
}

export function prepare() {
  for (let i = 0; i < ROWS; i++) byId("rounds").tBodies[0].append(emptyRow());
  for (let i = 0; i < ROWS; i++) byId("contributions").append(made("li", "", { "data-own": "none" }));
}

/** `records` ascend. */
export function rounds(records) {
  known = records;
  const newest = records.slice(-ROWS).reverse();
  const longest = Math.max(0, ...newest.map((record) => record.seconds ?? 0)) || 1;
  if (!records.some((record) => record.round === chosen)) chosen = null;
  const selected = records.find((record) => record.round === chosen) ?? newest[0];
  newest.forEach((record, i) => oneRound(byId("rounds").tBodies[0].rows[i], record, longest, record === selected));
  if (selected) detail(selected);
  boxes(records.slice(-ROWS));
}

function oneRound(row, record, longest, selected) {
  const [head, phases, seconds, counted, left, loss, mine] = row.cells;
  row.dataset.round = record.round;
  row.className = selected ? "selected" : "";
  const button = head.firstChild;
  fill(button, String(record.round));
  button.disabled = false;
  button.setAttribute("aria-pressed", String(selected));
  button.setAttribute("aria-controls", "round-detail");
  bar(phases.firstChild, record, longest);
  fill(seconds, record.seconds === null ? "fetched" : as.rate(record.seconds), "number roomy");
  fill(counted, String(record.counted.length), "number");
  fill(left, String(record.left_out.length), record.left_out.length ? "number notable" : "number");
  fill(loss, as.loss(record.eval_loss), "number roomy");
  fill(mine, own(record), record.own === false ? "notable" : "");
}

function parts(record) {
  const seconds = PHASES.map((phase) => record.phases?.[phase] ?? 0);
  const rest = Math.max(0, (record.seconds ?? 0) - seconds.reduce((sum, one) => sum + one, 0));
  return [...seconds, rest];
}

/** One element whose colours end where its phases do. */
function bar(element, record, longest) {
  let end = 0;
  parts(record).forEach((seconds, i) => {
    end += (100 * seconds) / longest;
    element.style.setProperty(`--end-${[...PHASES, "rest"][i]}`, `${end.toFixed(2)}%`);
  });
}

function detail(record) {
  const [form, exchange, certify, rest] = parts(record);
  const took = record.seconds === null
    ? "fetched from others, not taken part in"
    : `form ${as.seconds(form)}, exchange ${as.seconds(exchange)}, certify ${as.seconds(certify)}, other ${as.seconds(rest)}`;
  const lines = [
    ["Round", `${record.round}, ${record.kind}, led by ${short(record.leader)}` + (record.attempt ? `, attempt ${record.attempt + 1}` : "")],
    ["Seconds", took],
    ["Counted", record.counted.map(short).join(", ") || "nobody"],
    ["Left out", record.left_out.map((one) => `${short(one.peer_id)}: ${one.reason}`).join("; ") || "nobody"],
  ];
  if (record.failures.length) lines.push(["Tried before", record.failures.join("; ")]);
  const place = byId("round-detail");
  const text = JSON.stringify(lines);
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  const list = made("dl");
  for (const [name, value] of lines) list.append(made("dt", name), made("dd", value));
  place.replaceChildren(list);
}

function boxes(records) {
  const list = byId("contributions");
  records.forEach((record, i) => {
    const item = list.children[ROWS - records.length + i];
    const word = own(record);
    item.dataset.own = word === "counted" ? "yes" : word === "not counted" ? "no" : "none";
    const text = `round ${record.round}: ${word}`;
    if (item.title !== text) {
      item.title = text;
      item.replaceChildren(made("span", text, { class: "hidden" }));
    }
  });
  const sent = records.filter((record) => record.own !== null && record.own !== undefined);
  show(byId("own-sent"), sent.length, as.count);
  show(byId("own-counted"), sent.filter((record) => record.own).length, as.count);
}
