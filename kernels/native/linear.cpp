#include "linear.h"

#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../sparse_linear/sparse_linear.h"
#include "parts.h"
#include "pool.h"

namespace wb {

struct Buffer {
  char* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

constexpr size_t kHuge = 2 << 20;

char* scratch(int which, size_t bytes) {
  static thread_local Buffer buffers[4];
  Buffer& b = buffers[which];
  if (b.size < bytes) {
    std::free(b.data);
    const size_t page = bytes >= kHuge / 16 ? kHuge : 4096;
    b.size = (bytes + page - 1) / page * page;
    b.data = static_cast<char*>(std::aligned_alloc(page, b.size));
    if (!b.data) std::abort();
#if defined(MADV_HUGEPAGE)
    if (page == kHuge) madvise(b.data, b.size, MADV_HUGEPAGE);
#endif
  }
  return b.data;
}

namespace {

const Path* path() {
  static const Path* const chosen = [] {
    const char* forced = std::getenv("WORKBENCH_ISA");
    const bool any = !forced || !*forced;
    const Path* found = any || !std::strcmp(forced, "amx") ? amx_path() : nullptr;
    if (!found && (any || !std::strcmp(forced, "amx") || !std::strcmp(forced, "avx512_vnni")))
      found = vnni_path();
    return found ? found : portable_path(forced);
  }();
  return chosen;
}

bool known(const WbWeight& w) {
  if (w.rows < 1 || w.columns < 1) return false;
  if (w.kind == WB_BF16 || w.kind == WB_SPARSE) return w.padded == w.columns;
  if (w.kind < WB_INT8 || w.kind > WB_E5M2) return false;
  if (w.group < 16 || w.group % 16 || w.padded % w.group || w.padded < w.columns) return false;
  if (w.padded % 32 || (w.group % 32 && (w.kind != WB_FIELDS || w.bits != 4))) return false;
  if (w.kind == WB_FIELDS && (w.bits < 1 || w.bits > 8 || (w.levels && w.bits != 4))) return false;
  if (floats(w) && w.activations != WB_A16) return false;
  switch (w.scale) {
    case WB_SCALE_PAIR: return w.kind == WB_INT4 || w.kind == WB_FIELDS;
    case WB_SCALE_ROW: return w.kind != WB_INT4 && w.group == w.padded && w.padded % 64 == 0;
    case WB_SCALE_HALF: return w.kind == WB_INT8 || w.kind == WB_INT4;
    case WB_SCALE_K: return w.kind == WB_INT4 && w.group == 32 && w.padded % 256 == 0;
    case WB_SCALE_E8M0:
    case WB_SCALE_E4M3:
    case WB_SCALE_UE5M3:
    case WB_SCALE_BF16:
    case WB_SCALE_DOUBLE: return w.kind >= WB_FIELDS;
    default: return false;
  }
}

// Whether two weights read x in the same prepared form.
bool alike(const WbWeight& a, const WbWeight& b) {
  return a.kind == b.kind && a.activations == b.activations && a.padded == b.padded &&
         (a.kind == WB_BF16 || a.kind == WB_SPARSE || block_of(a) == block_of(b));
}

// The rows of a few panels as dense numbers in this thread's cache, and the dense product over them.
void filled_in(const Job& job, const WbWeight& stored, const WbProduct& product, int panel, int end) {
  const int row = panel * kPanel, last = end * kPanel < stored.rows ? end * kPanel : stored.rows;
  const size_t before = static_cast<size_t>(row) * stored.columns;
  uint16_t* rows = reinterpret_cast<uint16_t*>(
      scratch(3, (static_cast<size_t>(last - row) * stored.columns + 32) * 2));
  expand_rows(stored, row, last, rows);
  WbWeight dense = *product.weight;
  dense.data = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(rows) - before * 2);
  WbProduct local = product;
  local.weight = &dense;
  path()->run(job, local, panel, end);
}

void chunk(void* context, int index) {
  const Job& job = *static_cast<const Job*>(context);
  int i = 0;
  while (index >= job.start[i + 1]) ++i;
  const WbProduct& p = job.products[i];
  const int panel = (index - job.start[i]) * job.chunk, all = panels_of(*p.weight);
  const int end = panel + job.chunk < all ? panel + job.chunk : all;
  if (!job.sparse) return path()->run(job, p, panel, end);
  const WbWeight& stored = *job.sparse[i].weight;
  if (!path()->sparse || !path()->sparse(job, stored, p, panel, end)) filled_in(job, stored, p, panel, end);
}

void unit(void* context, int index) { path()->prepare(*static_cast<const Job*>(context), index); }

// Whether many rows are multiplied in blocks of columns.
bool blocked(const WbWeight& w, bool prompt) { return w.kind == WB_BF16 || w.kind == WB_SPARSE || prompt; }

// Panels of a chunk. Few rows: about 32 KiB of weights, long enough to read memory in order, short enough to share.
// Many rows: as many as leave every thread a few chunks, because x is read again for each.
int chunk_of(const Job& job, bool sparse) {
  if (sparse) return 2;
  const WbWeight& w = *job.products->weight;
  const size_t one = w.kind == WB_BF16 ? static_cast<size_t>(w.columns) * 2 * kPanel : panel_bytes(w);
  int chunk = 2;
  if (blocked(w, job.prompt) && job.m > 2 * kPanel) {
    int all = 0;
    for (int i = 0; i < job.count; ++i) all += panels_of(*job.products[i].weight);
    while (chunk < 32 && all > 4 * wb_threads() * chunk) chunk += 2;
    return chunk;
  }
  while (chunk < 8 && one * chunk < (48 << 10) && job.m <= kPanel) chunk += 2;
  return chunk;
}

void run(const WbProduct* products, int count, const uint16_t* x, int m, int first) {
  const bool sparse = products->weight->kind == WB_SPARSE;
  WbWeight faces[16];
  WbProduct dense[16];
  const WbProduct* stored = nullptr;
  if (sparse) {
    for (int i = 0; i < count; ++i) {
      faces[i] = *products[i].weight;
      faces[i].kind = WB_BF16;
      dense[i] = products[i];
      dense[i].weight = &faces[i];
    }
    stored = products;
    products = dense;
  }
  const WbWeight& w = *products->weight;
  Job job = {products, stored, x + static_cast<size_t>(first) * w.columns, nullptr, count, m, first,
             w.kind == WB_BF16 ? (w.columns + 31) / 32 * 32 : w.padded, products->prompt && path()->prompts, 2, {0}};
  job.chunk = chunk_of(job, sparse);
  for (int i = 0; i < count; ++i)
    job.start[i + 1] = job.start[i] + (panels_of(*products[i].weight) + job.chunk - 1) / job.chunk;
  job.prepared = scratch(0, path()->bytes(job));
  const int units = path()->units(job);
  if (m <= 64)
    for (int u = 0; u < units; ++u) path()->prepare(job, u);
  else
    wb_parallel(units, unit, &job);
  wb_parallel(job.start[count], chunk, &job);
}

}  // namespace
}  // namespace wb

extern "C" int32_t wb_linear(const WbProduct* products, int32_t count, const uint16_t* x, int32_t m) {
  for (int i = 0; i < count; ++i)
    if (!wb::known(*products[i].weight) ||
        products[i].weight->columns != products[0].weight->columns)
      return 1;
  for (int from = 0; from < count;) {
    int to = from + 1;
    while (to < count && to - from < 16 &&
           wb::alike(*products[from].weight, *products[to].weight))
      ++to;
    const bool prompt = products[from].prompt && wb::path()->prompts;
    const int most = wb::blocked(*products[from].weight, prompt) ? wb::kMostRows : wb::kFewerRows;
    for (int first = 0; first < m; first += most)
      wb::run(products + from, to - from, x, m - first < most ? m - first : most, first);
    from = to;
  }
  return 0;
}

extern "C" const char* wb_isa(void) { return wb::path()->name; }
