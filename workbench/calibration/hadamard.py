"""Orthogonal matrices with entries of one size: Hadamard by Sylvester and Paley, else random.

Sylvester: H_2n = [[H, H], [H, -H]]. Paley (1933): order q + 1 for a prime q = 3 mod 4 and 2 (q + 1) for a
prime q = 1 mod 4, from the quadratic residues of q.
"""

from __future__ import annotations

import math

import torch


def orthogonal(size: int, seed: int) -> tuple[torch.Tensor, str]:
    """Q [size, size] float64 with Q Q^T = 1, and what it is: a Hadamard matrix with random signs where
    one can be built, else a random orthogonal matrix (both seeded)."""
    generator = torch.Generator().manual_seed(seed)
    base = hadamard(size)
    if base is None:
        q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        return q * r.diagonal().sign(), "random orthogonal"
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    return signs[:, None] * base / math.sqrt(size), "randomized Hadamard"


def hadamard(size: int) -> torch.Tensor | None:
    """+-1 [size, size] float64 with H H^T = size, or None where neither construction reaches ``size``."""
    double, core = 0, size
    while True:
        found = torch.ones(1, 1, dtype=torch.float64) if core == 1 else _paley(core)
        if found is not None:
            break
        if core % 2:
            return None
        core, double = core // 2, double + 1
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for _ in range(double):
        found = torch.kron(two, found)
    return found


def _paley(order: int) -> torch.Tensor | None:
    if order == 2:
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    if order % 4 == 0 and _prime(order - 1) and (order - 1) % 4 == 3:
        return _bordered(order - 1, -1) + torch.eye(order, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and _prime(q) and q % 4 == 1:
        s = _bordered(q, 1)
        one = torch.eye(q + 1, dtype=torch.float64)
        a = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        b = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(s, a) + torch.kron(one, b)
    return None


def _bordered(q: int, sign: int) -> torch.Tensor:
    """The conference matrix [q + 1, q + 1]: residues of i - j inside, a border of ones; ``sign`` -1 makes
    it antisymmetric, +1 symmetric."""
    residues = {i * i % q for i in range(1, q)}
    chi = torch.tensor([0.0 if i == 0 else 1.0 if i in residues else -1.0 for i in range(q)],
                       dtype=torch.float64)
    at = (torch.arange(q)[:, None] - torch.arange(q)[None]) % q
    whole = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    whole[1:, 1:] = chi[at]
    whole[0, 1:] = 1
    whole[1:, 0] = sign
    return whole


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
