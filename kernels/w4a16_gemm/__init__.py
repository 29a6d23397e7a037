"""y = x Wᵀ with 4-bit W in groups along its columns; activations stay 16-bit."""
