"""The front door's decisions: plain synchronous Python, no I/O, handed the time."""
