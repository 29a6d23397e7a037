"""y = x Wᵀ with int8 W and one scale per output row; activations stay 16-bit."""
