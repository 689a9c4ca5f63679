// Pause, resume, finish, leave. The right to it is in the part of the address after #, where `talkoot page` puts it:
// it is never sent by itself, and stays in this tab.

const KEY = "talkoot-token";
const byId = (id) => document.getElementById(id);
const SURE_MS = 10000;
let token = "";
let sure = -SURE_MS; // when the end was asked for

function remember(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // until the page is loaded again
  }
}

export function prepare() {
  take();
  addEventListener("hashchange", take);
  for (const button of byId("orders").querySelectorAll("button")) {
    button.addEventListener("click", () => order(button.dataset.order));
  }
}

/** The token out of the address, where nobody can read it over a shoulder or bookmark it any more. */
function take() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    remember(given);
    history.replaceState(null, "", location.pathname + location.search);
  } else if (!token) {
    try {
      token = sessionStorage.getItem(KEY) ?? "";
    } catch {
      token = "";
    }
  }
  byId("orders").hidden = !token;
  byId("orders-hint").hidden = Boolean(token);
}

/** Only what makes sense now. */
export function follow(now) {
  const paused = (now.holds ?? []).some((hold) => hold.reason === "user");
  const finishing = typeof now.finishing === "number";
  const ends = now.state === "draining" || now.state === "failed";
  const allowed = {
    pause: !paused && !ends,
    resume: (paused || finishing) && !ends,
    finish: !paused && !finishing && now.round !== null && !ends,
    leave: !ends,
  };
  for (const button of byId("orders").querySelectorAll("button")) {
    button.disabled = !allowed[button.dataset.order];
  }
}

async function order(name) {
  const place = byId("orders-answer");
  if (name === "leave" && Date.now() > sure + SURE_MS) {
    sure = Date.now();
    place.textContent = "This ends the node. Press Leave once more if that is what you want.";
    return;
  }
  place.textContent = "";
  try {
    const answer = await fetch(`/api/v1/${name}`, { method: "POST", headers: { "X-Talkoot-Token": token } });
    if (answer.status === 401) {
      remember("");
      take();
    } else if (!answer.ok) {
      place.textContent = (await answer.json()).detail;
    } else {
      follow({ round: 0, ...(await answer.json()) });
    }
  } catch {
    place.textContent = "The node did not answer.";
  }
}
