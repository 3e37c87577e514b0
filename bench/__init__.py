"""Each claim about speed as a command that prints a ratio: ``python -m bench.upload``. Needs the ``bench`` extra."""
