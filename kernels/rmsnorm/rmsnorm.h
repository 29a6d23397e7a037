// Root-mean-square normalization of m rows, fused with adding to the residual stream.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
// stream float32 [m, d] += add (float32 [m, d], or null); then out = weight * stream / rms(stream).
// weight float32 [d]; out bfloat16 when out_bf16, else float32. Rows are independent of each other.
extern "C" void wb_rms_norm(float* stream, const float* add, const float* weight, float eps,
                            int32_t m, int32_t d, void* out, int32_t out_bf16);
#pragma GCC visibility pop
