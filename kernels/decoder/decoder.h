// A Llama-style decoder as a plan: built once, run with one call per forward.
//
// The residual stream is float32; what the matrices multiply is bfloat16. Every row has the same bits
// however many rows come with it, so verifying drafts gives the text of plain decoding. (A prompt's rows
// may have bits of their own; see WbForward.prompt.)
#pragma once
#include <cstdint>

#include "../decode_attention/decode_attention.h"

struct WbWeight;  // ../native/linear.h

// A matrix and what it costs: bytes as stored, rows and columns for the FLOPs.
struct WbMatrix {
  const WbWeight* weight;
  const float* bias;  // [rows] or null
  int64_t bytes;
  int32_t rows, columns;
};

struct WbLayer {
  const float* norm;      // [hidden]
  const float* mlp_norm;  // [hidden]
  const float* q_norm;    // [width] or null: queries and keys are normalized per head
  const float* k_norm;
  WbMatrix q, k, v, out, gate, up, down;
};

struct WbPlan {
  int32_t layers, hidden, intermediate, vocab, kv_item, positions;
  float eps;
  WbAttention attention;  // capacity is the forward's
  const WbLayer* layer;
  const uint16_t* embedding;  // bfloat16 [vocab, hidden]
  const float* norm;
  WbMatrix head;
  const float* cos;  // [positions, width / 2]
  const float* sin;
};

struct WbForward {
  WbRows rows;
  const int64_t* ids;        // [rows]
  const int64_t* positions;  // [rows]
  const WbKv* kv;            // [layers]
  int32_t capacity;          // columns of the caches
  int32_t keep;              // logits of the last `keep` rows of each sequence, all of those with fewer
  float* logits;             // [rows kept, vocab]
  float* const* states;      // null, or [layers + 1]: where the residual stream of all rows is copied, as
                             // it enters layer i (the last: before the final norm), null where not asked
  const float* input;        // null, or [rows, hidden]: the residual stream that enters layer `enter`
  int32_t enter;             // instead of the embeddings of `ids`, which are not read
  int32_t prompt;            // the rows are a prompt's: WbProduct.prompt of every product but the head's
};

#pragma GCC visibility push(default)
extern "C" {
// Bytes of scratch for forwards of up to batch * n rows over caches of `capacity` columns.
int64_t wb_decoder_scratch(const WbPlan* plan, int32_t batch, int32_t n, int32_t capacity);
// Layers [from, to) of one forward; from 0 embeds, to == layers also norms and multiplies by the head,
// to < layers tells the stream that enters layer `to` where states[to] asks for it.
// Where `input` is given, the forward begins with layer `enter`.
// Between parts of one forward the scratch must not change. Keys and values of the rows are
// written to the caches from column base[b] on. Returns 0, or 1 for a weight that has no product.
int32_t wb_decoder_run(const WbPlan* plan, const WbForward* forward, int32_t from, int32_t to,
                       void* scratch);
}
#pragma GCC visibility pop
