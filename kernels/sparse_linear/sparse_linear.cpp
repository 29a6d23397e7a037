// A word of 32 places at a time: one instruction spreads the next numbers over the places whose bit is set
// (AVX-512 VBMI2), elsewhere the set bits are walked. Both copy bits, so every processor gives the same matrix.
#include "sparse_linear.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace wb {
namespace {

// One row: `out` has room for whole words.
typedef void (*Row)(const uint32_t* masks, const uint16_t* values, int words, uint16_t* out);

void row_generic(const uint32_t* masks, const uint16_t* values, int words, uint16_t* out) {
  for (int w = 0; w < words; ++w, out += 32) {
    std::memset(out, 0, 64);
    for (uint32_t left = masks[w]; left; left &= left - 1) out[__builtin_ctz(left)] = *values++;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt"))) void row_vbmi2(
    const uint32_t* masks, const uint16_t* values, int words, uint16_t* out) {
  for (int w = 0; w < words; ++w, out += 32) {  // 32 numbers are stored behind the last one
    const uint32_t mask = masks[w];
    _mm512_storeu_si512(out, _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values)));
    values += _mm_popcnt_u32(mask);
  }
}
#endif

Row chosen() {
#if defined(__x86_64__)
  const char* forced = std::getenv("WORKBENCH_ISA");
  if (forced && (!std::strcmp(forced, "generic") || !std::strcmp(forced, "avx2"))) return row_generic;
  if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return row_vbmi2;
#endif
  return row_generic;
}

}  // namespace

void expand_rows(const WbWeight& w, int row, int end, uint16_t* out) {
  static const Row expand = chosen();
  const uint32_t* starts = static_cast<const uint32_t*>(w.scales);
  const int words = (w.columns + 31) / 32;
  const uint32_t* masks = starts + w.rows + 1;
  for (; row < end; ++row, out += w.columns)  // a row's last word may reach into the next row, which follows
    expand(masks + static_cast<size_t>(row) * words,
           static_cast<const uint16_t*>(w.data) + starts[row], words, out);
}

}  // namespace wb

extern "C" void wb_sparse_expand(const WbWeight* w, int32_t row, int32_t end, uint16_t* out) {
  std::vector<uint16_t> line(static_cast<size_t>(w->columns) + 32);
  for (; row < end; ++row, out += w->columns) {
    wb::expand_rows(*w, row, row + 1, line.data());
    std::memcpy(out, line.data(), static_cast<size_t>(w->columns) * 2);
  }
}
