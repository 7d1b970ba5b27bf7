"""Runs that go on from others: resumed, finished, started warm, or stages of a chain."""
