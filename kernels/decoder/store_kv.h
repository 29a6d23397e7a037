// New keys and values into the cache, in its own form.
#pragma once
#include "../decode_attention/decode_attention.h"

#pragma GCC visibility push(default)
// keys, values float32 [batch * n, kv_heads, width] of sequence rows -> columns base[b] + i.
// int8 as kernels/kv_int8/reference.py defines it: scale max|x| / 127 in bfloat16, nearest even.
extern "C" void wb_store_kv(const WbAttention* a, const WbKv* kv, const WbRows* rows, int32_t row,
                            const float* keys, const float* values);
// The first largest of each row's `count` numbers; x float32 [m, count] -> best [m].
extern "C" void wb_argmax(const float* x, int32_t m, int64_t count, int64_t* best);
// float32 -> bfloat16, nearest even.
extern "C" void wb_to_bf16(const float* from, int64_t count, uint16_t* to);
#pragma GCC visibility pop
