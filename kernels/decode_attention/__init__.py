"""Attention of a few query rows over a long cache: plain decoding, batches, trees of drafts."""
