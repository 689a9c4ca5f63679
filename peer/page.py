"""The page that a node serves to a browser on the same machine: what it does, and where more is."""

from html import escape
from typing import Any

_ROWS = (
    ("State", "state"),
    ("Reason", "reason"),
    ("Swarm", "swarm_name"),
    ("Peer", "peer_id"),
    ("Role", "role"),
    ("Round", "round"),
    ("Loss", "loss"),
    ("Held-out loss", "eval_loss"),
    ("Inner steps", "steps_total"),
    ("Device", "device"),
)
_LINKS = ("/api/v1/status", "/api/v1/rounds", "/metrics", "/healthz", "/readyz")

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5">
<title>talkoot {title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 2em auto; padding: 0 1em;
  color-scheme: light dark; }}
th {{ text-align: left; font-weight: normal; padding-right: 2em; opacity: .7; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }}
</style>
<h1>talkoot</h1>
<table>
{rows}
</table>
<p>{links}</p>
</html>
"""


def render_page(status: dict[str, Any]) -> str:
    """HTML for a node's status; every value is escaped, missing ones are left out."""
    rows = [
        f"<tr><th>{title}</th><td>{escape(_shown(status[name]))}</td></tr>"
        for title, name in _ROWS
        if status.get(name) not in (None, "")
    ]
    links = [f'<a href="{link}">{link}</a>' for link in _LINKS]
    return _PAGE.format(
        title=escape(str(status.get("state", ""))), rows="\n".join(rows), links=" &middot; ".join(links)
    )


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
