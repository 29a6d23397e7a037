"""y = x Wᵀ with W in the block formats of GGUF files: Q8_0, Q4_0, Q4_K, multiplied as they are stored."""
