"use strict";
// Before anything is drawn, so that nothing changes colour after it was seen.
try {
  const chosen = localStorage.getItem("talkoot-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // a browser that keeps nothing: as the system
}
