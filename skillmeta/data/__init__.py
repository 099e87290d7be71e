"""Logs: loaded once, checked once, windows drawn by index."""
