"""Keys in 2 or 4 bits per channel, values per token (KIVI): pack, unpack, attend over what is packed."""
