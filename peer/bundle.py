"""The page as one answer: its styles, scripts and mark put into the HTML once, when the node starts.

Each request costs a browser more than these bytes do: nine files of 48 kB together took longer to arrive than
all else that loading does. The files stay as they are, readable and served one by one; what is put in is
allowed by its hash, so that the policy still runs nothing else. Only what our own files do is understood:
`<script src>`, `<link rel="stylesheet">` and `<img alt="">` of an SVG, and modules with `import("...")`,
`import { a, b } from "..."`, `import * as a from "..."`, and `export` before `function`, `async function`,
`class` and `const`.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple

_LINKED = re.compile(
    r'<link rel="stylesheet" href="(?P<style>[^"]+)">'
    r'|<script src="(?P<script>[^"]+)"(?P<module> type="module")?></script>'
    r'|<img src="(?P<mark>[^"]+\.svg)" alt=""(?P<size>[^>]*)>'
)
_IMPORT = re.compile(
    r'^import (?:\* as (?P<all>\w+)|(?P<some>\{[^}]+\})) from "(?P<path>[^"]+)";$', re.MULTILINE
)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)
_ODD = re.compile(r"^\s*(?:import[ {*]|export\b)", re.MULTILINE)


class Bundle(NamedTuple):
    """One HTML file that needs no other to be shown, and what a policy has to allow for it."""

    html: bytes
    scripts: tuple[str, ...]
    """Sources for `script-src`."""
    styles: tuple[str, ...]
    """Sources for `style-src`."""


def bundled(html: str, files: Mapping[str, str]) -> Bundle:
    """Put into `html` what it links to, by the paths under which `files` are served."""
    scripts, styles = list[str](), list[str]()

    def put(link: re.Match[str]) -> str:
        if path := link["style"]:
            styles.append(_source(files[path]))
            return f"<style>{files[path]}</style>"
        if path := link["mark"]:
            return files[path].strip().replace("<svg ", f'<svg aria-hidden="true"{link["size"]} ', 1)
        text = module(link["script"], files) if link["module"] else files[link["script"]]
        scripts.append(_source(text))
        return f"<script{link['module'] or ''}>{text}</script>"

    return Bundle(_LINKED.sub(put, html).encode(), tuple(scripts), tuple(styles))


def module(path: str, files: Mapping[str, str]) -> str:
    """A module and all that it imports at its start, as one without imports."""
    names: dict[str, str] = {}
    parts: list[str] = []
    _add(path, files, names, parts)
    return "\n".join(parts)


def _add(path: str, files: Mapping[str, str], names: dict[str, str], parts: list[str]) -> None:
    """Append the module at `path`, after what it imports: a function that returns what it exports."""
    text = files[path]
    for found in _IMPORT.finditer(text):
        if found["path"] not in names:
            _add(found["path"], files, names, parts)
    exported = _EXPORT.findall(text)
    text = _IMPORT.sub(lambda found: f"const {found['all'] or found['some']} = {names[found['path']]};", text)
    text = _EXPORT.sub("", text)
    assert not _ODD.search(text), f"{path} imports or exports in a way that is not understood here"
    names[path] = f"module{len(names)}"
    parts.append(f"const {names[path]} = (() => {{\n{text}\nreturn {{ {', '.join(exported)} }};\n}})();")


def _source(text: str) -> str:
    """What a policy names it by, once it stands in an element."""
    assert "</" not in text, "it would end the element that it stands in"
    assert "<!--" not in text, "it would hide the end of the element that it stands in"
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
