"""Masked-diffusion language models: a canvas of masks that fills in, several tokens at a time.

``canvas`` is the loop, ``model`` a checkpoint run without a causal mask; the decoders (which positions to
commit at each step) are the ``diffusion_*`` files among the decoding techniques.
"""
