from __future__ import annotations

import pytest

COUNTED = "torn and corrupt checkpoints"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many torn and corrupt checkpoints were laid out, by layout and in all."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "nodeid")]
    counts: dict[str, int] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name.startswith(COUNTED) and getattr(report, "when", "") == "call":
                counts[name.partition(": ")[2]] = counts.get(name.partition(": ")[2], 0) + int(str(value))
    if counts:
        words = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        terminalreporter.write_line(f"{COUNTED}: {sum(counts.values())} cases ({words})")
