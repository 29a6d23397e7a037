"""y = x Wᵀ with W of any width from 1 to 8 bits, stored plane by plane; activations stay 16-bit."""
