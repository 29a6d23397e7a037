// silu(gate) * up.
#pragma once
#include <cstdint>

#pragma GCC visibility push(default)
// gate, up float32 [count] -> out [count], bfloat16 when out_bf16, else float32.
extern "C" void wb_swiglu(const float* gate, const float* up, int64_t count, void* out,
                          int32_t out_bf16);
#pragma GCC visibility pop
