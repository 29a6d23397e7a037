"""Keys and values as 8-bit integers, one scale per token and head: quantize, dequantize, attend."""
