"""Heads: small trained modules that draft for one target from its hidden states.

    spec.py              what a head is made for (no torch): method, target, shape, options, where it is
    blocks.py            norm, residual block, decoder layer with a cache of its own
    medusa.py, clover.py, eagle.py, hidden_transfer.py, prompt_tokens.py     one architecture each
    text.py, train.py    the target's own text and states; one trainer for all
    files.py             build, load, save (atomic)

A head is found by the target's name or fingerprint: the bundled target's heads travel with the zoo, those
that ``workbench heads train`` made lie in ``$WORKBENCH_HOME/heads``.
"""
