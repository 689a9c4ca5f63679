"""The command `talkoot`. Importing it is cheap: a command imports what needs torch or the network itself."""

import sys
from typing import Annotated

import typer

from talkoot.cli import (
    bench,
    conduct,
    config,
    demo_command,
    diag,
    doctor,
    explore,
    exporting,
    founding,
    health,
    inviting,
    me,
    model,
    ordering,
    page,
    ping,
    reading,
    receipts,
    relay,
    running,
    service,
    simulate,
    top,
    verifying,
)
from talkoot.cli.errors import (
    FAILED,
    NO_DAEMON,
    WRONG_USE,
    CommandError,
    NoDaemonError,
    keep_standard_streams,
    no_traceback_on_broken_pipe,
    one_line,
)
from talkoot.dht.errors import ConfigError, RemoteError

app = typer.Typer(
    name="talkoot",
    help="Train one model together with others, without a server.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from talkoot.peer.build import build_words

        typer.echo(build_words())
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show release, protocol and build.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


app.command("init")(founding.init)
app.command("run", short_help="Train in a swarm: found it, join it, or go on.")(running.run)
app.command("relay", short_help="Relay for peers that nobody can dial.")(relay.relay)
app.command("doctor", short_help="Say whether this machine will be counted, and what to change.")(
    doctor.doctor
)
app.command("invite", short_help="Make an invite for one more peer; list and revoke them.")(inviting.invite)
app.command("status")(reading.status)
app.command("page", short_help="Show the node in the browser, with the right to pause it.")(page.page)
app.command("pause", short_help="Rest: free memory and device, lose nothing.")(ordering.pause)
app.command("resume", short_help="Go on after a pause.")(ordering.resume)
app.command("finish", short_help="Hand in the running round, then pause.")(ordering.finish)
app.command("leave", short_help="Hand in what is under way, say goodbye, end the daemon.")(ordering.leave)
app.command("me", short_help="Show what this node did so far, and what it cost.")(me.me)
app.command("top", short_help="Show the node and the swarm, live.")(top.top)
app.command("id")(reading.show_id)
app.command(
    "explore", cls=explore.ServeCommand, short_help="Follow a swarm from outside; serve a status page."
)(explore.explore)
app.command("peers", short_help="Show the other peers, their scores and bans.")(conduct.peers)
app.command("ping", short_help="Time round trips to a peer, and show the path.")(ping.ping)
app.command("healthcheck", short_help="Exit code 0 while the node is well.")(health.healthcheck)
app.command("ban", short_help="Refuse a peer from now on.")(conduct.ban)
app.command("unban", short_help="Let a banned peer connect again.")(conduct.unban)
app.command("export", short_help="Write the model for transformers; upload it.")(exporting.export)
app.command("verify", short_help="Check a checkpoint or a state directory offline.")(verifying.verify)
app.command("generate")(model.generate)
app.command("demo", short_help="Train with several real peers on this machine.")(demo_command.demo)
app.command("simulate", short_help="Simulate swarms of the daemon's own code under faults.")(
    simulate.simulate
)
app.command("diag", short_help="Write a bundle for whoever helps, without secrets.")(diag.diag)
app.command("rounds", short_help="Show the last rounds: who was counted and who was not.")(reading.rounds)
app.command("receipts", short_help="Show what certificates prove of this peer's work.")(receipts.receipts)
app.command("leaderboard", short_help="Sum up who contributed what, from certificates.")(receipts.leaderboard)
app.add_typer(config.app, name="config")
app.add_typer(service.app, name="service")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    keep_standard_streams()
    try:
        with no_traceback_on_broken_pipe():
            app()
    except BrokenPipeError:
        sys.exit(FAILED)
    except NoDaemonError as error:
        _fail(error, NO_DAEMON)
    except ConfigError as error:
        _fail(error, WRONG_USE)
    except (CommandError, RemoteError, OSError) as error:
        _fail(error, FAILED)


def _fail(error: Exception, code: int) -> None:
    typer.echo(f"talkoot: {one_line(error)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
