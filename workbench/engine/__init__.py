"""The process that owns a model, and the handle on it.

``client`` is imported by sessions and never imports torch; ``worker`` runs in the other process.
"""
