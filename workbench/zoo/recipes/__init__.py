"""How the bundled models were made, end to end.

    python -m workbench.zoo.recipes build wb-14m --data ../shared/data     # corpus, tokenizer, train
    python -m workbench.zoo.recipes build wb-1m --data ../shared/data      # cross-entropy, distil
    python -m workbench.zoo.recipes gates

``corpus`` and ``tasks`` make documents, ``tokenizer`` makes tokens, ``train`` and ``distill`` make
weights, ``publish`` writes the folder that is committed. Runs are counted in steps, and the data of a
step is a pure function of (seed, step), so a run that was interrupted continues with the same data.
Weights are bit-stable only with the same torch, thread count and processor; compare gates, not bytes.
"""
