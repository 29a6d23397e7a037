// Rotary embedding of m rows in place, halves paired.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
// x float32, row r at x + r * stride holds `heads` vectors of `width`; the pair (i, i + width / 2) is
// turned by the angle whose cosine and sine are cos[positions[r] * width / 2 + i], float32.
extern "C" void wb_rope(float* x, int64_t stride, int32_t m, int32_t heads, int32_t width,
                        const int64_t* positions, const float* cos, const float* sin);
#pragma GCC visibility pop
