// AVX-512 with VNNI, without a matrix unit: integers of x times bytes of weights in vectors, the same integers
// that amx.cpp sums. bfloat16 weights go the portable way.
#include "parts.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WB_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c,avx2"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(WB_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c,avx2")
#endif

#include "rows.h"
#include "unpack.h"
#include "vnni_dots.h"
#include "float8.h"

namespace wb {
namespace {

bool wide(const Job& j) { return kind_of(j).kind == WB_BF16 || floats(kind_of(j)); }
const Path* other() {
  static const Path* const path = portable_path(nullptr);
  return path;
}

size_t size(const Job& j) { return wide(j) ? other()->bytes(j) : bytes(j); }
int units(const Job& j) { return wide(j) ? other()->units(j) : row_tiles(j); }

void prepare(const Job& j, int unit) {
  if (wide(j)) other()->prepare(j, unit);
  else prepare_tile(j, unit);
}

void run(const Job& j, const WbProduct& p, int panel, int end) {
  if (floats(*p.weight)) float8_products(j, p, panel, end);
  else if (wide(j)) other()->run(j, p, panel, end);
  else if (p.weight->kind == WB_INT4) dot_products<WB_INT4>(j, p, panel, end);
  else if (p.weight->kind == WB_FIELDS) dot_products<WB_FIELDS>(j, p, panel, end);
  else dot_products<WB_INT8>(j, p, panel, end);
}

}  // namespace
}  // namespace wb

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace wb {

const Path* vnni_path() {
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl"))
    return nullptr;
  static const Path path = {"avx512_vnni", size, units, prepare, run, nullptr, false};
  return &path;
}

}  // namespace wb

#else
namespace wb {
const Path* vnni_path() { return nullptr; }
}
#endif
