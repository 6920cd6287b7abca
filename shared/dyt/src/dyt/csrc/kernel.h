// Interface between the binding and the kernel, which is compiled once per instruction set.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace dyt {

// The parameters are padded to a multiple of this number, to keep vector reads within bounds.
constexpr int64_t kPadding = 64;

// x is contiguous with shape (outer, channels, inner); inner is 1 for channels last.
struct Problem {
  const void* x;
  c10::ScalarType x_type;  // float, bfloat16 or half; y_type is x_type or float
  c10::ScalarType y_type;
  int64_t outer;
  int64_t channels;
  int64_t inner;
  float alpha;
  float shift;  // -0 if absent: adding it leaves every number unchanged
  const float* weight;
  const float* bias;
  bool erf;       // erf instead of tanh
  bool accurate;  // the library's function instead of the rational one
};

// Sums over all elements; weight and bias have one number per channel.
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
