// The matrix unit (AMX): bytes of weights times the integers of up to 16 rows of x at once, or bfloat16 times
// bfloat16. What the unit sums for one row does not depend on the other rows of its tile. One or two rows of x
// go through vectors, which gives the same integers.
#include "parts.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>

#define WB_TARGET \
  "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt,amx-tile,amx-bf16,amx-int8,fma,f16c,avx2"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(WB_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2,popcnt,amx-tile,amx-bf16,amx-int8,fma,f16c,avx2")
#endif

// In this order: each uses the ones before it.
#include "rows.h"
#include "unpack.h"
#include "vnni_dots.h"
#include "float8.h"
#include "amx_tiles.h"
#include "amx_panels.h"
#include "amx_wide.h"
#include "amx_sparse.h"
#include "amx_prompt.h"

namespace wb {
namespace {

constexpr int kFew = 2;  // rows of x that vectors multiply as fast as they read memory

template <int KIND>
void by_block(const Job& j, const WbProduct& p, int panel, int end) {
  if (j.m <= kFew) return dot_products<KIND>(j, p, panel, end);
  const bool one = p.weight->activations == WB_A8;
  if (block_of(*p.weight) == 64) {
    if (one) panels<KIND, 1, 64>(j, p, panel, end);
    else panels<KIND, 2, 64>(j, p, panel, end);
  } else if (KIND == WB_FIELDS && block_of(*p.weight) == 16) {
    if (one) panels<WB_FIELDS, 1, 16>(j, p, panel, end);
    else panels<WB_FIELDS, 2, 16>(j, p, panel, end);
  } else {
    if (one) panels<KIND, 1, 32>(j, p, panel, end);
    else panels<KIND, 2, 32>(j, p, panel, end);
  }
}

// 8-bit floats are multiplied in float32; their x is prepared as the portable path does.
const Path* other() {
  static const Path* const path = portable_path(nullptr);
  return path;
}
bool expanded(const Job& j) { return floats(kind_of(j)) && !j.prompt; }

size_t size(const Job& j) { return expanded(j) ? other()->bytes(j) : bytes(j); }
int units(const Job& j) { return expanded(j) ? other()->units(j) : row_tiles(j); }
void prepare_unit(const Job& j, int unit) {
  if (expanded(j)) other()->prepare(j, unit);
  else prepare(j, unit);
}

void run(const Job& j, const WbProduct& p, int panel, int end) {
  if (widened(j)) return prompt(j, p, panel, end);
  if (p.weight->kind == WB_BF16) wide(j, p, panel, end);
  else if (floats(*p.weight)) float8_products(j, p, panel, end);
  else if (p.weight->kind == WB_FIELDS) by_block<WB_FIELDS>(j, p, panel, end);
  else if (p.weight->kind == WB_INT4) by_block<WB_INT4>(j, p, panel, end);
  else by_block<WB_INT8>(j, p, panel, end);
}

}  // namespace
}  // namespace wb

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace wb {

// The system saves the tiles of a thread only when the process asked for it (arch_prctl, Linux 5.16).
const Path* amx_path() {
  unsigned a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  const bool unit = (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1) && (d >> 23 & 1);
  if (!unit || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vbmi2"))
    return nullptr;
  constexpr long kAsk = 0x1023, kTiles = 18;
  if (syscall(SYS_arch_prctl, kAsk, kTiles) != 0) return nullptr;
  static const Path path = {"amx", size, units, prepare_unit, run, sparse, true};
  return &path;
}

}  // namespace wb

#else
namespace wb {
const Path* amx_path() { return nullptr; }
}
#endif
