"""The `cvp` command: what a person types on the machine. Everything heavy is imported when a command needs it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from console import workbench
from console.speech import PlainSpoken
from shared import config


@click.group(cls=PlainSpoken, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cv-platform", prog_name="cvp")
def main() -> None:
    """Run the platform on this machine. Settings come from the environment; `cvp config` lists them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without arrows shows a question mark and goes on
            stream.reconfigure(errors="replace")
    os.umask(0o077)  # like supervisord's: database, keys and reports are for this user


@main.command()
def up() -> None:
    """Start everything and wait until it serves."""
    from console import lifecycle
    from console.client import address
    from console.screen import Screen

    settings, screen = config.load(), Screen()
    with screen.waiting("Starting") as say:
        started = lifecycle.up(settings, say)
    screen.line(f"{'Ready' if started.by_us else 'Already running'} at {address(settings)} (data in {settings.root})")
    if started.farm:
        screen.line(started.farm)
    if started.first_sign_in:
        screen.line(started.first_sign_in, style="bold")


@main.command()
def down() -> None:
    """Finish work in progress and stop everything."""
    from console import lifecycle
    from console.screen import Screen

    settings, screen = config.load(), Screen()
    with screen.waiting("Stopping") as say:
        stopped = lifecycle.down(settings, say)
    screen.line("Stopped." if stopped else f"Nothing runs (data in {settings.root}).")


@main.command()
def status() -> None:
    """Show every process, and whether it all serves.

    Exit code 0: ready; 1: running, not ready; 3: not running.
    """
    from console import overview
    from console.screen import Screen

    sys.exit(overview.show_status(config.load(), Screen()))


@main.command()
@click.argument("name")
def restart(name: str) -> None:
    """Drain a process and start it again.

    NAME is one of `cvp status` (inferencer-0), or a kind (inferencer): then one after the other.
    """
    from console import lifecycle
    from console.screen import Screen
    from console.supervision import Supervisor

    supervisor = Supervisor(config.load())
    chosen = lifecycle.named(supervisor, name)
    screen = Screen()
    with screen.waiting("Restarting") as say:
        lifecycle.restart(supervisor, chosen, say)
    screen.line(f"Restarted {', '.join(program.name for program in chosen)}.")


@main.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as it grows, until Ctrl-C.")
@click.option("-n", "--lines", default=40, show_default=True, type=click.IntRange(0), help="How many to begin with.")
def logs(name: str, follow: bool, lines: int) -> None:
    """Show the log of a process.

    On a terminal the lines are made readable; elsewhere they stay JSON.
    """
    from console import logs as tail

    tail.show(config.load().logs, name, lines=lines, follow=follow, pretty=sys.stdout.isatty())


@main.command()
def migrate() -> None:
    """Bring the database up to date (`cvp up` does, too)."""
    from console import groundwork
    from console.supervision import Supervisor

    settings = config.load()
    settings.make_folders()
    if Supervisor(settings).lives():
        raise click.ClickException("The platform is running; stop it first with `cvp down`.")
    applied = groundwork.migrate(settings)
    click.echo(f"Applied {', '.join(applied)}." if applied else "The database is up to date.")


@main.command()
@click.argument("dest", type=click.Path(path_type=Path))
def backup(dest: Path) -> None:
    """Save models, reports, users and jobs in one file.

    DEST is a new file, or a folder for one with the time in its name. The platform may run and goes on meanwhile. The
    file has password hashes in it: it is readable for this user only; keep it like that. Exit code 1 when something
    that belongs in it was lost already; the rest is in it.
    """
    from console import backup as saving
    from console.screen import Screen

    screen = Screen()
    with screen.waiting("Saving") as say:
        path, manifest = saving.write(config.load(), dest, _megabytes(say))
    what = f"{_count(len(manifest.files), 'file')}, {manifest.size_bytes / 1e6:,.1f} MB"
    screen.line(f"Saved {what}, in {path} (read again: whole)")
    for name in manifest.lost:
        screen.line(f"Lost before, gone or damaged on the disk: {name}", style="red")
    sys.exit(1 if manifest.lost else 0)


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move the data that is there aside, and keep it.")
def restore(source: Path, replace: bool) -> None:
    """Bring a backup back while the platform is down.

    SOURCE is a file of `cvp backup`. It is checked completely before anything is touched. What ran when it was made is
    queued again; everybody signs in again.
    """
    from console import restore as bringing_back
    from console.screen import Screen

    screen = Screen()
    with screen.waiting("Restoring") as say:
        done = bringing_back.read(config.load(), source, replace=replace, advance=_megabytes(say))
    manifest = done.manifest
    screen.line(f"Restored the backup of {manifest.created_at}: {_count(len(manifest.files), 'file')}.")
    if done.jobs:
        screen.line(f"{_count(done.jobs, 'job')} that ran then will run again.")
    for name in manifest.lost:
        screen.line(f"Not in the backup, it was lost before: {name}", style="red")
    for folder in done.aside:
        screen.line(f"The former data is in {folder}; remove it when you are content.")
    screen.line("`cvp up` starts the platform.")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _megabytes(say: Callable[[str], None]) -> Callable[[int], None]:
    """Tells how far a long copy is."""
    total = 0

    def advance(size_bytes: int) -> None:
        nonlocal total
        total += size_bytes
        say(f"{total / 1e6:,.0f} MB")

    return advance


@main.command("config")
def config_() -> None:
    """List all settings: value, origin, meaning."""
    from console import overview
    from console.screen import Screen

    overview.show_config(Screen())


@main.command()
def doctor() -> None:
    """Check this machine, and say what to do.

    Exit code 1 when something is wrong.
    """
    from console import doctor as examination
    from console.screen import Screen

    sys.exit(examination.show(Screen()))


@main.command()
@click.argument("user", default="admin")
def passwd(user: str) -> None:
    """Set the password of USER (default: admin).

    Asks for it twice; reads one line when the input is no terminal.
    """
    from console import groundwork

    settings = config.load()
    settings.make_folders()
    groundwork.migrate(settings)
    if sys.stdin.isatty():
        password = click.prompt("New password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    click.echo(groundwork.gateway_admin(settings, "passwd", user, stdin=f"{password}\n").strip())


@main.command()
@click.option("--train", is_flag=True, help="The whole mission: train the model here first (`make setup-train`).")
@click.option("--fresh", is_flag=True, help="Train and measure again, even where the same was done before.")
@click.option("--start", is_flag=True, help="Start the platform first if it is down, and stop it again at the end.")
@click.option("--keep", is_flag=True, help="With --start: keep it running until Ctrl-C.")
def demo(train: bool, fresh: bool, start: bool, keep: bool) -> None:
    """Run the main job on real input.

    Uploads the digits example, chooses its engine by measuring, writes the report, predicts over HTTP. With --train
    it begins with images: a dataset, a training, and INT8 that must keep the accuracy.
    """
    from console import demo as job
    from console.screen import Screen

    job.run(config.load(), Screen(), train=train, fresh=fresh, start=start, keep=keep)


for command in workbench.COMMANDS:
    main.add_command(command)


if __name__ == "__main__":
    main()
