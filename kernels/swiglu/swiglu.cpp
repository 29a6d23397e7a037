#include "swiglu.h"

#include "../decoder/vector.h"

namespace {

using wb::V16;

WB_INLINE void gate_one(const V16& g, const V16& u, V16& y) {
  V16 e;
  wb::exponential(-g, e);
  y = g / (1.0f + e) * u;
}

WB_INLINE void wb_swiglu_body(const float* gate, const float* up, int64_t count, void* out,
                              int32_t out_bf16) {
  float* wide = static_cast<float*>(out);
  uint16_t* narrow = static_cast<uint16_t*>(out);
  V16 g, u, y;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    wb::load(gate + i, g);
    wb::load(up + i, u);
    gate_one(g, u, y);
    if (out_bf16) wb::store_bf16(narrow + i, y);
    else wb::store(wide + i, y);
  }
  for (; i < count; ++i) {
    gate_one(V16{} + gate[i], V16{} + up[i], y);
    if (out_bf16) narrow[i] = wb::to_bits16(y[0]);
    else wide[i] = y[0];
  }
}

}  // namespace

WB_CLONES(wb_swiglu, (const float* gate, const float* up, int64_t count, void* out, int32_t out_bf16),
          (gate, up, count, out, out_bf16))
