#include "rope.h"

#include "../decoder/vector.h"

namespace {

using wb::V16;

WB_INLINE void turn(float* x, int half, const float* cos, const float* sin) {
  V16 low, high, c, s;
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    wb::load(x + i, low);
    wb::load(x + half + i, high);
    wb::load(cos + i, c);
    wb::load(sin + i, s);
    wb::store(x + i, low * c - high * s);
    wb::store(x + half + i, high * c + low * s);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

WB_INLINE void wb_rope_body(float* x, int64_t stride, int32_t m, int32_t heads, int32_t width,
                            const int64_t* positions, const float* cos, const float* sin) {
  const int half = width / 2;
  for (int64_t row = 0; row < m; ++row) {
    const float *c = cos + positions[row] * half, *s = sin + positions[row] * half;
    for (int head = 0; head < heads; ++head) turn(x + row * stride + head * width, half, c, s);
  }
}

}  // namespace

WB_CLONES(wb_rope,
          (float* x, int64_t stride, int32_t m, int32_t heads, int32_t width,
           const int64_t* positions, const float* cos, const float* sin),
          (x, stride, m, heads, width, positions, cos, sin))
