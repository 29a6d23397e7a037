#include "decoder.h"

#include "../native/pool.h"
#include "../rmsnorm/rmsnorm.h"
#include "../rope/rope.h"
#include "../swiglu/swiglu.h"
#include "products.h"
#include "store_kv.h"
#include "traced.h"
#include "vector.h"

namespace {

using wb::Traced;

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The scratch buffers of one forward; also says how many bytes they take.
struct Scratch {
  float *stream, *added, *q, *k, *v, *mixed, *gate, *up;
  uint16_t *x, *wide;
  char* attention;
  int64_t bytes;

  Scratch(const WbPlan& p, int64_t rows, int64_t attention_bytes, void* memory) {
    char* at = reinterpret_cast<char*>(aligned(reinterpret_cast<int64_t>(memory)));
    char* const start = at;
    const WbAttention& a = p.attention;
    const int64_t query = static_cast<int64_t>(a.heads) * a.width;
    const int64_t key = static_cast<int64_t>(a.kv_heads) * a.width;
    auto take = [&at](int64_t bytes) {
      char* here = at;
      at += aligned(bytes) + 64;
      return here;
    };
    auto floats = [&](int64_t n) { return reinterpret_cast<float*>(take(4 * rows * n)); };
    stream = floats(p.hidden);
    added = floats(p.hidden);
    q = floats(query);
    k = floats(key);
    v = floats(key);
    mixed = floats(query);
    gate = floats(p.intermediate);
    up = floats(p.intermediate);
    x = reinterpret_cast<uint16_t*>(take(2 * rows * p.hidden));
    const int64_t widest = p.intermediate > query ? p.intermediate : query;
    wide = reinterpret_cast<uint16_t*>(take(2 * rows * widest));
    attention = take(attention_bytes);
    bytes = at - start + 64;
  }
};

// One forward: what is asked, where its numbers are.
struct Pass {
  const WbPlan& p;
  const WbForward& f;
  WbAttention a;
  Scratch s;
  int m;
  int failed = 0;

  Pass(const WbPlan& plan, const WbForward& forward, void* memory)
      : p(plan), f(forward), a(shape(plan, forward.capacity)),
        s(plan, static_cast<int64_t>(forward.rows.batch) * forward.rows.n, 0, memory),
        m(wb_row_total(forward.rows)) {}

  static WbAttention shape(const WbPlan& plan, int capacity) {
    WbAttention a = plan.attention;
    a.capacity = capacity;
    a.item = plan.kv_item;
    return a;
  }

  void embed() {
    Traced t(WB_OP_EMBED, -1, 6ll * m * p.hidden, 0);
    for (int64_t row = 0; row < m; ++row) {
      const uint16_t* from = p.embedding + f.ids[row] * p.hidden;
      for (int i = 0; i < p.hidden; ++i) s.stream[row * p.hidden + i] = wb::from_bits16(from[i]);
    }
  }

  void enter() {
    const int64_t size = 4ll * m * p.hidden;
    Traced t(WB_OP_EMBED, -1, 2 * size, 0);
    std::memcpy(s.stream, f.input, size);
    std::memset(s.added, 0, size);
  }

  // What whoever asked gets of the stream that enters a layer.
  void tell(int layer) {
    if (f.states && f.states[layer]) std::memcpy(f.states[layer], s.stream, 4ll * m * p.hidden);
  }

  // Many rows are worth the pool; one is not.
  template <typename Each>
  void rows(int count, int few, Each each) {
    if (count <= few) {
      for (int r = 0; r < count; ++r) each(r);
      return;
    }
    wb_parallel(count, [](void* context, int r) { (*static_cast<Each*>(context))(r); }, &each);
  }

  void norm(const float* weight, bool add, int layer, uint16_t* out) {
    const int64_t size = static_cast<int64_t>(m) * p.hidden;
    Traced t(WB_OP_NORM, layer, (add ? 14 : 6) * size + 4ll * p.hidden, (add ? 5 : 4) * size);
    rows(m, 2, [&](int r) {
      const int64_t at = static_cast<int64_t>(r) * p.hidden;
      wb_rms_norm(s.stream + at, add ? s.added + at : nullptr, weight, p.eps, 1, p.hidden, out + at, 1);
    });
  }

  void products(int op, int layer, const WbMatrix* const* w, float* const* y, int count,
                const uint16_t* x, int rows) {
    int64_t bytes = 0, flops = 0;
    for (int i = 0; i < count; ++i) {
      bytes += w[i]->bytes + 4ll * rows * w[i]->rows + (i ? 0 : 2ll * rows * w[i]->columns);
      flops += 2ll * rows * w[i]->rows * w[i]->columns;
    }
    Traced t(op, layer, bytes, flops);
    failed |= wb::multiply(w, y, count, x, rows, op == WB_OP_HEAD ? 0 : f.prompt);
  }

  void rope(const WbLayer& l, int layer) {
    const int64_t query = static_cast<int64_t>(a.heads) * a.width;
    const int64_t key = static_cast<int64_t>(a.kv_heads) * a.width;
    Traced t(WB_OP_ROPE, layer, m * (8 * (query + key) + 4 * key + 4ll * a.width), m * 3 * (query + key));
    rows(m, 2, [&](int r) {
      float *q = s.q + r * query, *k = s.k + r * key;
      if (l.q_norm) wb_rms_norm(q, nullptr, l.q_norm, p.eps, a.heads, a.width, q, 0);
      if (l.k_norm) wb_rms_norm(k, nullptr, l.k_norm, p.eps, a.kv_heads, a.width, k, 0);
      wb_rope(q, query, 1, a.heads, a.width, f.positions + r, p.cos, p.sin);
      wb_rope(k, key, 1, a.kv_heads, a.width, f.positions + r, p.cos, p.sin);
      wb_store_kv(&a, f.kv + layer, &f.rows, r, s.k, s.v);
    });
  }

  void attend(int layer) {
    int64_t bytes = 0, flops = 0;
    for (int b = 0; b < f.rows.batch; ++b) {
      const int64_t n = wb_row_count(f.rows, b), length = f.rows.base[b] + n - f.rows.first[b];
      const int64_t token = a.item == WB_ITEM_INT8 ? 2ll * a.kv_heads * (a.width + 2)
                                                   : 4ll * a.kv_heads * a.width;
      bytes += length * token + 8 * n * a.heads * a.width;
      flops += 4 * length * n * a.heads * a.width;
    }
    Traced t(WB_OP_ATTENTION, layer, bytes, flops);
    wb_decode_attention(&a, f.kv + layer, &f.rows, s.q, s.mixed, s.attention);
    narrow(s.mixed, static_cast<int64_t>(m) * a.heads * a.width, s.wide);
  }

  static void narrow(const float* from, int64_t count, uint16_t* to) { wb_to_bf16(from, count, to); }

  void activate(int layer) {
    const int64_t size = static_cast<int64_t>(m) * p.intermediate;
    Traced t(WB_OP_SWIGLU, layer, 10 * size, 5 * size);
    constexpr int64_t kPart = 2048;
    const int parts = static_cast<int>((size + kPart - 1) / kPart);
    rows(parts, 2, [&](int i) {
      const int64_t from = i * kPart, count = size - from < kPart ? size - from : kPart;
      wb_swiglu(s.gate + from, s.up + from, count, s.wide + from, 1);
    });
  }

  void layer(int index) {
    const WbLayer& l = p.layer[index];
    norm(l.norm, index > 0, index, s.x);  // adds what the layer before left
    tell(index);
    const WbMatrix* qkv[] = {&l.q, &l.k, &l.v};
    float* const to[] = {s.q, s.k, s.v};
    products(WB_OP_QKV, index, qkv, to, 3, s.x, m);
    rope(l, index);
    attend(index);
    const WbMatrix* out[] = {&l.out};
    products(WB_OP_OUT, index, out, &s.added, 1, s.wide, m);
    norm(l.mlp_norm, true, index, s.x);
    const WbMatrix* both[] = {&l.gate, &l.up};
    float* const gated[] = {s.gate, s.up};
    products(WB_OP_GATE_UP, index, both, gated, 2, s.x, m);
    activate(index);
    const WbMatrix* down[] = {&l.down};
    products(WB_OP_DOWN, index, down, &s.added, 1, s.wide, m);
  }

  // The stream that enters layer `to`, where a forward ends there and somebody asked. What the last layer left
  // is added as that layer's norm would have done, so a forward that goes on adds nothing twice.
  void leave(int to) {
    if (!f.states || !f.states[to]) return;
    norm(p.layer[to].norm, true, to, s.x);
    tell(to);
    std::memset(s.added, 0, 4ll * m * p.hidden);
  }

  void finish() {
    norm(p.norm, true, -1, s.x);
    tell(p.layers);
    int rows = 0;
    for (int b = 0; b < f.rows.batch; ++b) {  // the last rows of each sequence, moved together
      const int n = wb_row_count(f.rows, b), kept = f.keep < n ? f.keep : n;
      const int64_t from = wb_first_row(f.rows, b) + n - kept;
      if (from != rows)
        std::memmove(s.x + static_cast<int64_t>(rows) * p.hidden, s.x + from * p.hidden,
                     2ll * kept * p.hidden);
      rows += kept;
    }
    const WbMatrix* head[] = {&p.head};
    products(WB_OP_HEAD, -1, head, &f.logits, 1, s.x, rows);
  }
};

}  // namespace

extern "C" int64_t wb_decoder_scratch(const WbPlan* plan, int32_t batch, int32_t n, int32_t capacity) {
  WbAttention a = plan->attention;
  a.capacity = capacity;
  const int64_t attention = wb_decode_attention_scratch(&a, batch, n);
  return Scratch(*plan, static_cast<int64_t>(batch) * n, attention, nullptr).bytes;
}

extern "C" int32_t wb_decoder_run(const WbPlan* plan, const WbForward* forward, int32_t from,
                                  int32_t to, void* scratch) {
  Pass pass(*plan, *forward, scratch);
  if (forward->input && from == forward->enter) pass.enter();
  else if (from == 0) pass.embed();
  for (int i = from; i < to; ++i) pass.layer(i);
  if (to == plan->layers) pass.finish();
  else pass.leave(to);
  return pass.failed;
}
