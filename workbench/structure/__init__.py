"""Smaller and sparser models: what is removed, how the rest makes up for it, and what comes out.

Every transformation reads an ordinary model and writes (or holds) a new one; the model it read stays as it
was. Torch is imported by the modules in here, not by this package."""
