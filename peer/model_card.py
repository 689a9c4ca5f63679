"""README.md of an export: what the model is, where it comes from, how to load it."""

import re
from collections.abc import Mapping

from talkoot.peer.manifest import Manifest

_KNOWN_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


def model_card(manifest: Manifest, info: Mapping[str, str | int | float]) -> str:
    """The whole file. `info` becomes rows of its table."""
    swarm, data = manifest.swarm, manifest.data
    source = data.dataset or ", ".join(data.paths) or "source code of the Python standard library"
    rows = "\n".join(f"| {plain(name)} | {plain(str(value))} |" for name, value in info.items())
    return f"""---
{_front_matter(manifest)}
---

# {plain(swarm.name)}

{plain(swarm.description) or "A language model."}

Trained by a talkoot swarm: peers that each train locally and average compressed updates, without a server.

| | |
|---|---|
| swarm | {plain(swarm.name)}, {manifest.swarm_id.hex()} |
| license | {plain(swarm.license) or "not stated"} |
| parameters | {manifest.model.numel} |
| data | {data.source}: {plain(source)} |
| data license | {plain(data.license) or "not stated"} |
| tokenizer | {plain(data.tokenizer)} |
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
```
"""


def _front_matter(manifest: Manifest) -> str:
    """YAML; what the founder wrote is quoted or checked."""
    license_id = manifest.swarm.license.lower()
    if _KNOWN_LICENSE.fullmatch(license_id):
        lines = [f"license: {license_id}"]
    else:
        lines = ["license: other", f"license_name: {_quoted(manifest.swarm.license or 'not stated')}"]
    if manifest.data.source == "huggingface":
        lines += ["datasets:", f"- {_quoted(manifest.data.dataset)}"]
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- talkoot"]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return '"' + plain(text).replace("\\", "/").replace('"', "'") + '"'


def plain(text: str) -> str:
    """One line of the founder's words, without anything that Markdown would act on."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).replace("|", "/").split())
