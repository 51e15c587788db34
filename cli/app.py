"""``ems-fl``: one command for people, over the commands that every room has of its own.

Each subcommand hands its arguments to the room's own command, so what ``python -m server.launch`` takes is
what ``ems-fl run`` takes. ``make setup`` writes the script ``.venv/bin/ems-fl``.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

app = typer.Typer(
    name="ems-fl",
    help="Fine-tune a Mixture-of-Experts model on device clusters that only a passing satellite can reach.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="ems-fl COMMAND --help shows examples. Every setting: docs/configuration.md.",
)

# The room's own command reads the options, --help among them.
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
Rest = Annotated[list[str] | None, typer.Argument(hidden=True)]
Main = Callable[..., int]


@app.command(context_settings=PASS_ON)
def run(arguments: Rest = None) -> None:
    """Run with settings of your own, in simulation or on nodes."""
    from server.launch.command import main

    _end(main, arguments, "run")


@app.command(context_settings=PASS_ON)
def demo(arguments: Rest = None) -> None:
    """Run the demo: about two minutes on two cores."""
    from server.launch.command import main

    _end(main, arguments, "demo")


@app.command("demo-real", context_settings=PASS_ON)
def demo_real(arguments: Rest = None) -> None:
    """Run the demo with a real language model: about ten minutes."""
    from cli.demo_real import main

    _end(main, arguments, "demo-real")


@app.command(context_settings=PASS_ON)
def resume(arguments: Rest = None) -> None:
    """Go on with a run that was stopped."""
    from server.launch.resume import main

    _end(main, arguments, "resume")


@app.command(context_settings=PASS_ON)
def keys(arguments: Rest = None) -> None:
    """Make certificates and keys for real nodes, renew and register them."""
    from server.keys.command import main

    _end(main, arguments, "keys")


@app.command(context_settings=PASS_ON)
def report(arguments: Rest = None) -> None:
    """Show what runs came to, and write their page (report.html)."""
    from server.report.command import main

    _end(main, arguments, "report")


@app.command(context_settings=PASS_ON)
def inspect(arguments: Rest = None) -> None:
    """Say what a checkpoint's experts are."""
    from moe.inspect.command import main

    _end(main, arguments, "inspect")


@app.command(context_settings=PASS_ON)
def prepare(arguments: Rest = None) -> None:
    """Make what stands for a checkpoint's experts on devices without them."""
    from cli.prepare import main

    _end(main, arguments, "prepare")


@app.command(context_settings=PASS_ON)
def export(arguments: Rest = None) -> None:
    """Merge a run's adapter into its base checkpoint."""
    from moe.export.command import main

    _end(main, arguments, "export")


@app.command(context_settings=PASS_ON)
def contacts(arguments: Rest = None) -> None:
    """Plan contacts: who is seen when, and what the link carries."""
    from sim.contacts.command import main

    _end(main, arguments, "contacts")


@app.command(context_settings=PASS_ON)
def relay(arguments: Rest = None) -> None:
    """Put a contact plan between real nodes and their SuperLink."""
    from sim.relay.command import main

    _end(main, arguments, "relay")


@app.command()
def stop() -> None:
    """End what a plain `flwr run` left behind."""
    from server.machine.environment import stop_local_superlink

    stop_local_superlink()


def _end(main: Main, arguments: Sequence[str] | None, name: str) -> None:
    """Run a room's command under the name it was called by, and exit with its code."""
    raise typer.Exit(main(list(arguments or ()), prog=f"ems-fl {name}"))
