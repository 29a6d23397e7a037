#include "rmsnorm.h"

#include <cmath>

#include "../decoder/vector.h"

namespace {

using wb::V16;

WB_INLINE float gather(float* stream, const float* add, int d) {
  V16 squares = {0}, v, a;
  int i = 0;
  for (; i + 16 <= d; i += 16) {
    wb::load(stream + i, v);
    if (add) {
      wb::load(add + i, a);
      v += a;
      wb::store(stream + i, v);
    }
    squares += v * v;
  }
  float rest = 0.0f;
  for (; i < d; ++i) {
    if (add) stream[i] += add[i];
    rest += stream[i] * stream[i];
  }
  return wb::sum(squares) + rest;
}

WB_INLINE void wb_rms_norm_body(float* stream, const float* add, const float* weight, float eps,
                                int32_t m, int32_t d, void* out, int32_t out_bf16) {
  for (int64_t row = 0; row < m; ++row) {
    float* s = stream + row * d;
    const float scale = 1.0f / std::sqrt(gather(s, add ? add + row * d : nullptr, d) / d + eps);
    float* wide = static_cast<float*>(out) + row * d;
    uint16_t* narrow = static_cast<uint16_t*>(out) + row * d;
    V16 v, w;
    int i = 0;
    for (; i + 16 <= d; i += 16) {
      wb::load(s + i, v);
      wb::load(weight + i, w);
      v = v * scale * w;
      if (out_bf16) wb::store_bf16(narrow + i, v);
      else wb::store(wide + i, v);
    }
    for (; i < d; ++i) {
      const float y = s[i] * scale * weight[i];
      if (out_bf16) narrow[i] = wb::to_bits16(y);
      else wide[i] = y;
    }
  }
}

}  // namespace

WB_CLONES(wb_rms_norm,
          (float* stream, const float* add, const float* weight, float eps, int32_t m, int32_t d,
           void* out, int32_t out_bf16),
          (stream, add, weight, eps, m, d, out, out_bf16))
