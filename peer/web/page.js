// The page: shows what the node says of itself. All text goes in as text.

import { as, made, short, show } from "/web/format.js";
import { Live } from "/web/live.js";
import * as board from "/web/board.js";
import * as orders from "/web/orders.js";
import * as tables from "/web/tables.js";

const byId = (id) => document.getElementById(id);
const NEWS = 6;
const SPEED_OVER = 3; // rounds

let before = null; // the status before this one
let curves = null; // the charts, once there are figures: what draws them takes a while to load
const records = new Map();

// -- this node and the swarm -------------------------------------------------------------------------

function status(now) {
  for (const element of document.querySelectorAll("[data-key]")) {
    show(element, now[element.dataset.key], as[element.dataset.as]);
  }
  document.body.classList.toggle("explorer", now.explorer === true);
  byId("state-dot").dataset.state = now.state;
  fillText("why", why(now));
  const title = `${as.word(now.state)} · ${as.name(now.swarm_name)} · talkoot`;
  if (document.title !== title) document.title = title;
  show(byId("peers-connected"), now.peers.filter((peer) => peer.connected).length, as.count);
  show(byId("peers-known"), now.peers.length, as.count);
  const others = now.peers.reduce((sum, peer) => sum + (peer.speed || 0), 0);
  const all = now.steps_per_second + others;
  show(byId("own-share"), all > 0 ? now.steps_per_second / all : null, as.share);
  show(byId("swarm-loss"), now.explorer ? now.loss : null, as.loss);
  show(byId("swarm-steps"), now.explorer ? now.steps_per_second : null, as.rate);
  show(byId("swarm-training"), now.explorer ? now.swarm.training : null, as.count);
  gpus(now.gpus ?? []);
  tables.peers(now);
  news(now);
  if (!now.explorer) orders.follow(now);
  if (before === null) {
    requestAnimationFrame(() => setTimeout(drawCurves)); // when the figures have been painted
    if (!now.explorer) board.look(now.peer_id);
  }
  before = now;
}

function fillText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function why(now) {
  if (now.explorer && now.state === "observing") return `${now.swarm.agreeing} of ${now.swarm.at_frontier} peers at the frontier agree`;
  if (now.proven) return `A proof against this peer: ${now.proven}`;
  if (now.disk) return `The disk: ${now.disk}`;
  if (now.sync) {
    const share = now.sync.total_bytes ? ` (${as.share(now.sync.done_bytes / now.sync.total_bytes)})` : "";
    return `Fetching the state: ${as.bytes(now.sync.done_bytes)} of ${as.bytes(now.sync.total_bytes)}${share}`;
  }
  const also = (now.holds ?? []).slice(1).map((hold) => as.word(hold.reason));
  const what = [now.reason && as.word(now.reason), now.detail, also.length && `also ${also.join(", ")}`].filter(Boolean);
  if (now.reason) return `because: ${what.join(", ")}`;
  if (typeof now.finishing === "number") return `pauses once round ${now.finishing - 1} is over`;
  if (now.detail) return String(now.detail);
  if (now.warning) return String(now.warning);
  const vote = now.voting ? `one of ${now.voters} voters` : "does not vote";
  return now.role ? `${now.role === "observer" ? "observes" : "takes part"}, ${vote}` : "\u00a0";
}

/** All of them together; the hottest, and the mean load. */
function gpus(list) {
  const known = (key) => list.map((gpu) => gpu[key]).filter((value) => typeof value === "number");
  const sum = (key) => (known(key).length ? known(key).reduce((total, value) => total + value, 0) : null);
  const loads = known("utilization");
  const memory = (used) => (used === null ? "–" : `${as.bytes(used)} of ${as.bytes(sum("limit_bytes"))}`);
  show(byId("gpu-memory"), sum("used_bytes"), memory);
  show(byId("gpu-temperature"), list.length && known("celsius").length ? Math.max(...known("celsius")) : null, as.celsius);
  show(byId("gpu-load"), loads.length ? sum("utilization") / loads.length : null, as.share);
  show(byId("gpu-energy"), sum("joules"), as.energy);
}

// -- rounds ------------------------------------------------------------------------------------------

function rounds(list) {
  const newest = Math.max(-1, ...records.keys());
  for (const record of list) records.set(record.round, record);
  const all = [...records.values()].sort((a, b) => a.round - b.round);
  const speeds = all.map((_, i) => speedAt(all, i));
  curves?.draw(all, speeds);
  tables.rounds(all);
  const last = all[all.length - 1];
  show(byId("swarm-speed"), speeds[speeds.length - 1], as.large);
  show(byId("swarm-tokens"), last.tokens, as.large);
  if (before !== null && !before.explorer && last.round > newest) board.look(before.peer_id);
  if (newest >= 0 && last.round > newest) {
    if (last.own === false) tell(`round ${last.round}: this node was not counted`);
    for (const one of last.left_out) tell(`round ${last.round}: ${short(one.peer_id)} left out, ${one.reason}`);
  }
}

/** Tokens a second of the whole swarm over the rounds before `index`; null where they were fetched. */
function speedAt(all, index) {
  const from = all[Math.max(0, index - SPEED_OVER)];
  const to = all[index];
  const seconds = to.ended_at_s - from.ended_at_s;
  const whole = all.slice(Math.max(0, index - SPEED_OVER), index + 1).every((record) => record.seconds !== null);
  return whole && seconds > 0 && to.tokens >= from.tokens ? (to.tokens - from.tokens) / seconds : null;
}

// -- news --------------------------------------------------------------------------------------------

function tell(text) {
  const list = byId("news");
  const item = made("li");
  const now = new Date();
  const time = [now.getHours(), now.getMinutes(), now.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
  item.append(made("time", time), made("span", text));
  list.prepend(item);
  while (list.children.length > NEWS) list.lastChild.remove();
}

function news(now) {
  if (before === null) {
    tell(`this ${now.explorer ? "explorer" : "node"}: ${as.word(now.state)}`);
    return;
  }
  const steady = (state) => (state === "exchanging" ? "training" : state);
  if (steady(before.state) !== steady(now.state)) {
    tell(`this node: ${as.word(now.state)}${now.reason ? ", " + as.word(now.reason) : ""}`);
  }
  const there = (state) => new Map(state.peers.map((peer) => [peer.peer_id, tables.stateOf(peer, state)]));
  const [old, fresh] = [there(before), there(now)];
  for (const [peer, state] of fresh) {
    if (!old.has(peer)) tell(`${short(peer)} is here`);
    else if (state === "not connected" && old.get(peer) !== state) tell(`${short(peer)} lost its connection`);
    else if (old.get(peer) === "not connected" && state !== "not connected") tell(`${short(peer)} is back`);
  }
  for (const peer of old.keys()) {
    if (!fresh.has(peer)) tell(`${short(peer)} is gone`);
  }
}

const MODES = {
  live: "live",
  asking: "polling",
  silent: "no answer",
};

function mode(name) {
  byId("link-dot").dataset.state = name;
  fillText("link", MODES[name]);
  document.body.classList.toggle("silent", name === "silent");
}

// -- model -------------------------------------------------------------------------------------------

async function sample(event) {
  event.preventDefault();
  const prompt = byId("prompt").value;
  const place = byId("text");
  const say = (text) => place.replaceChildren(made("p", text, { class: "note" }));
  byId("ask").disabled = true;
  say("Reading the model and writing; this takes a few seconds …");
  try {
    const answer = await fetch("/api/v1/sample", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ prompt }),
    });
    const body = await answer.json();
    if (!answer.ok) {
      say(body.detail || body.error);
      return;
    }
    const text = made("p", "", { class: "sample" });
    text.append(made("b", body.prompt), made("span", body.text));
    place.replaceChildren(text, made("p", `from round ${body.round}`, { class: "note" }));
  } catch {
    say("The node did not answer.");
  } finally {
    byId("ask").disabled = false;
  }
}

// -- light and dark ----------------------------------------------------------------------------------

const THEMES = { "": "system", light: "light", dark: "dark" };

function theme(next) {
  const root = document.documentElement;
  const names = Object.keys(THEMES);
  const now = root.dataset.theme ?? "";
  const chosen = next ? names[(names.indexOf(now) + 1) % names.length] : now;
  if (chosen) root.dataset.theme = chosen;
  else delete root.dataset.theme;
  fillText("theme-now", THEMES[chosen]);
  if (next) {
    try {
      localStorage.setItem("talkoot-theme", chosen);
    } catch {
      // kept for as long as the page is open
    }
    curves?.redraw();
  }
}

async function drawCurves() {
  const { charts } = await import("/web/charts.js");
  curves = charts();
  if (records.size) rounds([]);
}

tables.prepare();
board.prepare();
orders.prepare();
theme(false);
byId("theme").addEventListener("click", () => theme(true));
byId("sample").addEventListener("submit", sample);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => curves?.redraw());
new Live({ status, rounds, mode }).start();
