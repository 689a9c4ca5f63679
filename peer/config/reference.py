"""docs/configuration.md: `python -m talkoot.peer.config.reference > docs/configuration.md`."""

import sys
from collections.abc import Iterator

from talkoot.peer.config.table import BY_KEY, PROFILE_VALUES, PROFILE_WORDS, SECTIONS, TABLE, Setting

_INTRODUCTION = """\
# Settings of a node

<!-- Generated: python -m talkoot.peer.config.reference > docs/configuration.md -->

A node needs no settings: those of its profile hold. What you change stands in one file, `config.toml` in its
state directory, which `talkoot config init` writes with every setting explained. Later layers win:

built in < profile < `config.toml` < environment (`TALKOOT_SECTION_NAME`) < flag of `talkoot run`

```sh
talkoot config init                          # the file, with all settings as comments
talkoot config set limits.upload 2MB/s       # checked as a whole, then written; comments stay
talkoot config set schedule.windows "mon-fri 22:00-07:00; sat,sun 00:00-24:00"
talkoot config get limits.upload             # one value; --json also says where it comes from
talkoot config unset limits.upload           # back to the profile's
talkoot config list                          # all of them, and where each comes from
talkoot config check                         # after editing by hand: file and line of what is wrong
talkoot config apply                         # have the running node take the file
talkoot status                               # what holds in the running node, and what is in use
talkoot run --set limits.quota=300GB         # for one start; common ones have flags of their own
```

`set` and `unset` tell the running node at once. What is marked *restart* waits for its next start, and
`status` says so. A value that is wrong changes nothing, neither file nor node: one line, exit code 2.

* Sizes: `6GB`, `512 MiB`, or bytes. Rates: `2MB/s`, `16 Mbit/s`. Times: `30 s`, `5 min`, `2h`. Shares:
  `light`, `medium`, `full` or `50%`. `none` is no limit.
* Lists are TOML lists in the file; in a variable or on the command line one text with commas (windows of
  the schedule: with semicolons).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_profiles(), *_sections()]) + "\n"


def _profiles() -> Iterator[str]:
    yield "## Profiles\n\n| profile | for | differs from the defaults in |\n|---|---|---|"
    for name, words in PROFILE_WORDS.items():
        values = PROFILE_VALUES[name].items()
        differs = ", ".join(f"`{key}` {BY_KEY[key].kind.words(value)}" for key, value in values)
        yield f"| `{name}` | {words} | {differs or 'nothing'} |"


def _sections() -> Iterator[str]:
    for section, about in SECTIONS.items():
        yield f"\n## `[{section}]`\n\n{about}\n"
        yield "| setting | default | must be | what it does |\n|---|---|---|---|"
        yield from (_row(setting) for setting in TABLE if setting.section == section)


def _row(setting: Setting) -> str:
    default = setting.kind.words(setting.default) or "none"
    about = setting.about + ("" if setting.live else " *Restart.*")
    return f"| `{setting.name}` | {default} | {setting.kind.wanted} | {about} |"


if __name__ == "__main__":
    sys.stdout.write(page())
