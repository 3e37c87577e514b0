"""Each claim about speed as a command that prints a ratio: ``python -m bench.upload``. Figures: docs/benchmarks.md."""
