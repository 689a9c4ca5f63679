// The leaderboard: who contributed what, as the certificates say that this node holds.

import { as, made, short } from "/web/format.js";

const ROWS = 10;
const byId = (id) => document.getElementById(id);
let asking = false;

export function prepare() {
  for (let i = 0; i < ROWS; i++) {
    const row = made("tr");
    row.append(made("td", "", { class: "number" }), made("th", "", { scope: "row" }));
    for (let cell = 0; cell < 3; cell++) row.append(made("td", "", { class: "number" }));
    byId("board").tBodies[0].append(row);
  }
}

/** Ask for the newest; `own` is the PeerID of this node. */
export async function look(own) {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch(`/api/v1/leaderboard?top=${ROWS}`, { cache: "no-store" });
    if (answer.ok) fill(await answer.json(), own);
  } catch {
    // after the next round
  } finally {
    asking = false;
  }
}

function fill(board, own) {
  const rows = byId("board").tBodies[0].rows;
  board.peers.forEach((peer, i) => {
    const [rank, name, credit, rounds, last] = rows[i].cells;
    rows[i].dataset.peer = peer.peer_id;
    rows[i].className = peer.peer_id === own ? "selected" : "";
    rank.textContent = as.count(peer.rank);
    name.textContent = peer.public_name ?? short(peer.peer_id);
    name.className = peer.public_name ? "" : "id";
    name.title = peer.peer_id;
    credit.textContent = as.large(peer.credit);
    rounds.textContent = as.count(peer.rounds);
    last.textContent = as.count(peer.last_round);
  });
  for (const row of [...rows].slice(board.peers.length)) {
    row.className = "";
    delete row.dataset.peer;
    for (const cell of row.cells) cell.textContent = "";
  }
  const span = board.rounds ? `rounds ${as.count(board.first_round)} to ${as.count(board.last_round)}` : "no rounds yet";
  byId("board-span").textContent = `${span}, fingerprint ${board.fingerprint.slice(0, 16)}`;
}
