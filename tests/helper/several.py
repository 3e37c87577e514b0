"""Runs ``script.py`` several times, each in a child of its own: torch is imported once for all of them.

Arguments: a JSON list of its arguments. Prints a JSON list of {status, out, err}.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import script


def run(words, folder):
    child = os.fork()
    if child == 0:
        for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        try:
            script.main(words)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if sys.exc_info()[0] is None else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "out": (folder / "out").read_text(), "err": (folder / "err").read_text()}


with tempfile.TemporaryDirectory() as folder:
    print(json.dumps([run(words, Path(folder)) for words in json.loads(sys.argv[1])]))
