// Names what the binding asks of the kernel, which is compiled once for each set of instructions.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace dyt {

// The parameters are padded to a multiple of this, so that no vector reads past their end.
constexpr int64_t kPadding = 64;

// x is contiguous, (outer, channels, inner); inner is 1 where the channels come last.
struct Problem {
  const void* x;
  c10::ScalarType x_type;  // float, bfloat16 or half, as y_type, which may be wider
  c10::ScalarType y_type;
  int64_t outer;
  int64_t channels;
  int64_t inner;
  float alpha;
  float shift;  // -0 where there is none: it leaves every number as it is
  const float* weight;
  const float* bias;
  bool erf;       // in place of tanh
  bool accurate;  // the library's function in place of the rational one
};

// Sums over all elements; dweight and dbias have room for the channels.
struct Sums {
  double alpha;
  double shift;
  float* weight;
  float* bias;
};

#define DYT_DECLARE(CAPABILITY)                                                          \
  namespace CAPABILITY {                                                                 \
  void forward(const Problem& problem, void* y);                                         \
  void backward(const Problem& problem, const void* grad, void* dx, Sums& sums);         \
  }

DYT_DECLARE(DEFAULT)
DYT_DECLARE(AVX2)
DYT_DECLARE(AVX512)

}  // namespace dyt
