"""``vl-tui``: the options of every command, and what a person reads when one fails.

Commands live in ``vl_tui.commands`` and are imported when called: ``vl-tui --help`` loads neither a screen nor a cloud.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vl_agent.store import leave

from vl_tui import failure

EPILOG = """exit codes: 0 finished, 1 the run failed, 2 a mistake to correct, 3 unreachable, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Never raises but ``SystemExit`` from argparse (2, with the usage on stderr)."""
    if sys.version_info < (3, 11):
        print("vl-tui: needs Python 3.11 or newer (vl-agent alone needs 3.10).", file=sys.stderr)
        return failure.MISTAKE
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        command = importlib.import_module(f"vl_tui.commands.{args.command}")
        code: int = command.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        code = failure.INTERRUPTED
    except BrokenPipeError:  # `vl-tui logs RUN | head`: nobody reads on
        code = 0
    except Exception as error:  # noqa: BLE001 - the last place that can turn any failure into words
        code, words = failure.explain(error)
        print(f"vl-tui: {words}", file=sys.stderr)
    _let_go_of_stdout()
    return code


def _let_go_of_stdout() -> None:
    """What stdout would not take is dropped: Python would try again at exit, and complain in its own words."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """``argv`` as options. What stands after ``--`` is a command of the person's own and is never looked into."""
    options, training = list(argv), []
    if "--" in options:
        cut = options.index("--")
        options, training = options[:cut], options[cut + 1 :]
    parser = build_parser()
    args = parser.parse_args(options)
    if training and args.command != "demo":
        parser.error(f"nothing may follow -- here: {training[0]!r}")
    args.training = training
    return args


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vl-tui",
        epilog=EPILOG,
        description="Training runs on GPUs that can be taken away, finished.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="fleet.yaml (default: ~/.config/vl-tui/fleet.yaml)")
    parser.set_defaults(command="app")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", description="without one: the app")

    submit = _command(commands, "submit", "submit a run")
    submit.add_argument("file", type=Path, metavar="RUN.YAML")
    submit.add_argument("--wait", action="store_true", help="stay until the run ends; exit 1 if it failed")

    listing = _command(commands, "ls", "list the runs")
    listing.add_argument("--json", action="store_true", help="one JSON document")

    logs = _command(commands, "logs", "print a run's log")
    logs.add_argument("name", metavar="RUN")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until the run ends")

    stop = _command(commands, "stop", "stop a run; its newest durable checkpoint stays")
    stop.add_argument("name", metavar="RUN")

    listing = _command(commands, "checkpoints", "list the durable checkpoints that a run keeps")
    listing.add_argument("name", metavar="RUN")
    listing.add_argument("--json", action="store_true", help="one JSON document")

    pin = _command(commands, "pin", "keep a durable checkpoint until you say otherwise")
    pin.add_argument("name", metavar="RUN")
    pin.add_argument("step", type=int, metavar="STEP")
    pin.add_argument("--off", action="store_true", help="no longer")

    back = _command(commands, "rollback", "go back to a kept checkpoint; also brings back a run that has ended")
    back.add_argument("name", metavar="RUN")
    back.add_argument("step", type=int, metavar="STEP")

    _command(commands, "controller", "keep this fleet's runs moving, in the foreground")
    _demo(_command(commands, "demo", "a real run on an embedded fleet, with faults, on this machine"))
    return parser


def _command(commands: argparse._SubParsersAction[_Parser], name: str, words: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".", allow_abbrev=False)
    # After the command too; SUPPRESS, or its absence here would undo what stood before the command.
    parser.add_argument("--fleet", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(command=name)
    return parser


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.usage = (
        "vl-tui demo [--seed N] [--headless] [--json] [--state DIR [--resume-state]] [--checkpoints DIR -- CMD...]"
    )
    demo.add_argument(
        "--seed", type=int, default=1, metavar="N", help="fixes order and places of the faults (default 1)"
    )
    demo.add_argument("--headless", action="store_true", help="no screen; talk on stderr")
    demo.add_argument("--json", action="store_true", help="one JSON report on stdout")
    demo.add_argument("--state", type=Path, metavar="DIR", help="keep everything in DIR")
    demo.add_argument("--resume-state", action="store_true", help="go on from what --state DIR holds")
    demo.add_argument("--checkpoints", metavar="DIR", help="where your own script, given after --, saves")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is one --help away."""

    def error(self, message: str) -> NoReturn:
        self.exit(failure.MISTAKE, f"{failure.one_paragraph(f'{self.prog}: {message}')}. See {self.prog} --help.\n")


class _Version(argparse.Action):
    """Looked up only when asked for: reading the installed metadata costs more than the rest of the start."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"vl-tui {version('vl-tui')}")
        parser.exit(0)


def script() -> NoReturn:
    """``vl-tui`` as a process of its own."""
    leave(main())


if __name__ == "__main__":
    script()
