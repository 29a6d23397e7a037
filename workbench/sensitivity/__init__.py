"""Where quantization hurts: the error of every matrix under every scheme, and the best mixture of them.

``errors`` is the error map, a plain value that is kept in the cache; ``measure`` makes one (torch);
``solve`` chooses one scheme per matrix under a budget, exactly; ``plan`` is the choice as a file.
"""
