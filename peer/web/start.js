"use strict";
// Before anything is drawn: the colours, so that nothing changes after it was seen, and the first questions, so
// that the answers are here when the rest has been read.
try {
  const chosen = localStorage.getItem("talkoot-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that keeps nothing: as the system
}
/** Of a question: an object, or null where there was no answer. */
function asked(path) {
  const read = (answer) => (answer.ok ? answer.json() : null);
  return fetch(path, { cache: "no-store" }).then(read).catch(() => null);
}
window.talkootAsked = [asked("/api/v1/status"), asked("/api/v1/rounds?last=300")];
