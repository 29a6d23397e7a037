"""Number formats: grids of a few bits, block scales, and the codecs that store them.

One encoder, many grids: ``elements`` (which numbers a code stands for), ``scales`` (how a block's scale is
chosen and stored), ``blocks`` (both together), ``catalog`` (the formats by name), ``packing`` (codes to
bytes). Everything here is exact arithmetic on tensors of any device; products live in ``kernels/``.
"""
