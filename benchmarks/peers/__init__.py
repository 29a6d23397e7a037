"""Engines against each other on one machine; see ``__main__``."""
