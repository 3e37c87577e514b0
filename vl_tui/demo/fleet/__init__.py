"""The embedded fleet: pretend providers whose boxes are real SSH servers on loopback, each with its own disk.

A process of its own (``python -m vl_tui.demo.fleet``), spoken to over a Unix socket; its boxes end with it. Linux only.
"""
