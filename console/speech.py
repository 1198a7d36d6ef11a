"""How commands are spoken to: lists, pairs and limits as arguments; one sentence for every failure."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from shared import config, errors, wording
from shared.specs import MetricName

UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
"""What the disk says when a folder of ours cannot be made or written to."""

CONSTRAINT = re.compile(r"(?P<metric>\w+)\s*(?P<op><=|>=|<|>)\s*(?P<value>[-+.\deE]+)")
Spoken = TypeVar("Spoken", bound=msgspec.Struct)


class PlainSpoken(click.Group):
    """A group whose commands never end in a stack trace: one sentence on standard error, and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and translate whatever it raises."""
        try:
            return super().invoke(ctx)
        except config.BadSetting as bad:
            click.echo(f"Error: {bad.message}", err=True)
            ctx.exit(64)
        except errors.AppError as error:
            raise click.ClickException(error.message) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:
            sys.stdout = None  # the reader has gone (`cvp logs gateway | head`); do not flush into nothing at exit
            ctx.exit(0)
        except OSError as error:
            if error.errno not in UNUSABLE:
                raise click.ClickException(_unexpected(error)) from error
            raise click.ClickException(
                f"Cannot use {error.filename or 'the disk'}: {error.strerror}. `cvp doctor` says what to do."
            ) from error
        except Exception as unexpected:
            raise click.ClickException(_unexpected(unexpected)) from unexpected


def _unexpected(failure: Exception) -> str:
    said = f"Something failed that should not: {type(failure).__name__}: {failure}."
    with contextlib.suppress(OSError, config.BadSetting):
        path = config.load().logs / "cvp.log"
        with path.open("a") as log:
            traceback.print_exception(failure, file=log)
        said += f" The trace is at the end of {path}."
    return said


class Lists(PlainSpoken):
    """A group whose command `list` is meant where no other is named: `cvp models --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put it in front."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class Several(click.ParamType[tuple[Any, ...]]):
    """Values between commas, each of another type: `fp32,int8`."""

    name = "several"

    def __init__(self, each: click.ParamType[Any], metavar: str) -> None:
        self._each, self._metavar = each, metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What stands in the help."""
        return self._metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """A tuple of them."""
        if isinstance(value, tuple):
            return value
        return tuple(self._each.convert(part.strip(), param, ctx) for part in value.split(","))


class Pairs(click.ParamType[dict[str, Any]]):
    """Values by name, between commas: `learning_rate=0.001,optimizer=sgd`."""

    name = "pairs"

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Numbers and truth values as such, anything else as text."""
        found = {}
        for pair in str(value).split(","):
            name, equals, text = (part.strip() for part in pair.partition("="))
            if not (name and equals and text):
                self.fail(f"{pair!r} is no NAME=VALUE, such as {self._example}.", param, ctx)
            try:
                found[name] = msgspec.json.decode(text)
            except msgspec.DecodeError:
                found[name] = text
        return found


class Limit(click.ParamType[dict[str, Any]]):
    """A constraint as one writes it: `latency_p95_ms<=5`."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """As the API takes it."""
        match = CONSTRAINT.fullmatch(str(value).strip())
        if match is None:
            self.fail(
                f"{value!r} is no limit; write METRIC<=NUMBER, such as 'latency_p95_ms<=5' (in quotes).", param, ctx
            )
        if match["metric"] not in get_args(MetricName):
            self.fail(wording.unknown(f"metric {match['metric']!r}", get_args(MetricName)), param, ctx)
        return {**match.groupdict(), "value": click.FLOAT(match["value"], param, ctx)}


class Labels(click.ParamType[list[str]]):
    """Names of classes: a file that has them as a JSON list or one a line, or the names between commas."""

    name = "labels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The names."""
        path = Path(value)
        if not path.is_file():
            return [name.strip() for name in value.split(",")]
        try:
            text = path.read_text()
            return msgspec.json.decode(text, type=list[str]) if text.lstrip().startswith("[") else text.splitlines()
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            self.fail(f"{value} is neither a JSON list of names nor one name a line: {error}", param, ctx)


def understood(kind: type[Spoken], said: Mapping[str, Any]) -> Spoken:
    """The order that options make; those that were not given are left to the API.

    Raises:
        click.UsageError: A value is out of range; the message says what belongs there.
    """
    try:
        return msgspec.convert({name: value for name, value in said.items() if value not in (None, ())}, kind)
    except msgspec.ValidationError as error:
        where, what = wording.explained(kind, str(error))
        raise click.UsageError(f"{where.lstrip('.')}: {wording.of_text(what).rstrip('.')}.") from error
