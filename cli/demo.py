"""`talkoot demo`: several real daemons on loopback train one model together, and are held to account.

Nothing here is a special path of the daemon: peer 0 founds a swarm from a preset, the others join by the
invites that its API gives out.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from talkoot.cli.demo_compare import Compare, Outcome, measure
from talkoot.cli.demo_curve import curves, save_curve
from talkoot.cli.demo_node import TALKOOT
from talkoot.cli.demo_report import Losses, Report, summary_text
from talkoot.cli.demo_screen import Screen
from talkoot.cli.demo_swarm import Demo, DemoOptions
from talkoot.cli.outer import read_parameters
from talkoot.dht.errors import ConfigError
from talkoot.peer import manifest_file, presets
from talkoot.peer.manifest import Manifest
from talkoot.peer.statedir import StateDir

CHAOS_STEP_MS = 100.0
"""Steps of the numpy trainer are this slow under chaos, so that many peers share few cores in peace."""
CHAOS_STEPS = 30
"""Steps between two of its rounds."""


def run_demo(options: DemoOptions, *, program: Sequence[str] = TALKOOT, compare: Compare = measure) -> int:
    """Run the whole demo; returns the exit code. No process of it is left, whatever happens.

    Raises ConfigError (options, folder), CommandError (the swarm did not start), OSError.
    """
    if options.json_file is not None and not options.json_file.absolute().parent.is_dir():
        raise ConfigError(f"{options.json_file}: there is no such folder")  # not only in three minutes
    folder = _make_folder(options.folder)
    manifest = _make_manifest(options)
    manifest_file.save(manifest, folder / manifest_file.FILE_NAME)
    if options.chaos is not None:
        return _run_chaos(options, folder, program)
    demo = Demo(options, folder, program)
    with Screen() as screen:
        try:
            demo.start(screen)
            demo.train(screen)
        except KeyboardInterrupt:
            screen.say("Interrupted; stopping the peers.")
            return 1
        finally:
            demo.stop(screen)
    losses = compare(_outcome(demo, options), screen.say) if demo.watch.rounds_committed else Losses()
    return _conclude(demo.report(losses), options, folder, screen)


def _run_chaos(options: DemoOptions, folder: Path, program: Sequence[str]) -> int:
    from talkoot.cli.demo_chaos import run_chaos
    from talkoot.cli.demo_chaos_report import chaos_text

    with Screen() as screen:
        try:
            report = run_chaos(options, folder, screen, program)
        except KeyboardInterrupt:
            screen.say("Interrupted; nothing is left of it.")
            return 1
    screen.say("\n" + chaos_text(report))
    _save(report.to_json(), folder, options)
    screen.say(f"\nLogs: {folder}")
    return 0 if report.ok else 1


def _outcome(demo: Demo, options: DemoOptions) -> Outcome:
    founder = demo.nodes[0].state_dir
    head, theta = read_parameters(founder)
    final = demo.folder / "final.f32"
    theta.tofile(final)
    return Outcome(
        manifest=StateDir(founder).manifest_file,
        final=final,
        initial=demo.initial,
        steps=demo.watch.steps_after(head.round),
        device=options.device,
        threads=demo.threads,
    )


def _conclude(report: Report, options: DemoOptions, folder: Path, screen: Screen) -> int:
    screen.say("")
    screen.say(curves(report))
    screen.say(summary_text(report))
    path = folder / "loss.svg"
    save_curve(report, path)
    _save(report.to_json(), folder, options)
    founder = folder / "peer-0"
    screen.say(f"\nPicture: {path}   logs and states: {folder}")
    screen.say(f'Try: talkoot generate "import " --state-dir {founder}')
    return 0 if report.ok else 1


def _save(values: dict[str, Any], folder: Path, options: DemoOptions) -> None:
    """The summary as JSON, in the demo's folder and where the user wants it. Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(values), indent=2)
    for file in filter(None, (folder / "summary.json", options.json_file)):
        file.write_bytes(data + b"\n")


def _make_folder(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="talkoot-demo-"))
    try:
        given.mkdir(parents=True, exist_ok=True)
        if any(given.iterdir()):
            raise ConfigError(f"{given} is not empty: choose another --dir")
    except OSError as error:
        raise ConfigError(f"{given}: {error.strerror or error}") from error
    return given.resolve()


def _make_manifest(options: DemoOptions) -> Manifest:
    manifest = presets.make(options.preset, name="demo")
    if options.chaos is not None and manifest.model.kind == "numpy":
        manifest = replace(
            manifest,
            model=replace(manifest.model, config={"step_ms": CHAOS_STEP_MS}),
            outer=replace(manifest.outer, inner_steps=CHAOS_STEPS),
            round=replace(manifest.round, announce_s=1.0),
        )
    return replace(
        manifest,
        swarm=replace(manifest.swarm, start_peers=options.peers),
        inner=replace(manifest.inner, seed=options.seed),
    )
