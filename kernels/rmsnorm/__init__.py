"""Root-mean-square normalization, optionally after adding to the residual stream."""
