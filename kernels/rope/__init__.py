"""Rotary position embedding of queries and keys, halves paired as Llama pairs them."""
