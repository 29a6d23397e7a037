"""Which configuration produced these logits? Numerics as a fingerprint.

After HSPI (arXiv:2411.05197): the same weights give other roundings in another number format, kernel
or thread count, and the roundings show in the bits of the logits. Four questions are answered here:

- ``study``: which of the configurations that run on this machine can be told apart from logits alone,
  how often rightly on prompts that the classifier never saw, against chance; and which cannot be, because
  their logits are the same to the last bit;
- ``border``: prompts whose next *token* differs between two configurations, so that text is enough;
- ``golden.save`` and ``golden.check``: did a configuration's numerics change since they were saved?

Importing this costs nothing; torch is imported when logits are collected.
"""

from __future__ import annotations
