"""The catalogue: one folder per family, one small file per technique. See :mod:`.base`."""
