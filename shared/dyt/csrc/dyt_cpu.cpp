// Registers the CPU kernels of dyt's operators, whose schemas dyt.backends.ops defines.
#include "kernel.h"

#include <Python.h>

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/result_type.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;
using Optional = std::optional<Tensor>;

struct Kernels {
  decltype(&dyt::DEFAULT::forward) forward;
  decltype(&dyt::DEFAULT::backward) backward;
};

// The widest vectors that both this machine and this build have, as torch chooses its own.
const Kernels& kernels() {
  static const Kernels chosen = [] {
    const std::string capability = at::get_cpu_capability();
#ifdef DYT_X86
    if (capability == "AVX512") {
      return Kernels{dyt::AVX512::forward, dyt::AVX512::backward};
    }
    if (capability == "AVX2") {
      return Kernels{dyt::AVX2::forward, dyt::AVX2::backward};
    }
#endif
    return Kernels{dyt::DEFAULT::forward, dyt::DEFAULT::backward};
  }();
  return chosen;
}

bool supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

std::vector<float> padded(const Optional& parameter, int64_t channels, float missing) {
  const int64_t room = (channels + dyt::kPadding - 1) / dyt::kPadding * dyt::kPadding;
  std::vector<float> values(room, missing);
  if (parameter.has_value()) {
    const Tensor plain = parameter->to(at::kFloat).contiguous();
    std::copy_n(plain.const_data_ptr<float>(), channels, values.begin());
  }
  return values;
}

at::ScalarType promoted(
    const Tensor& x, const Tensor& alpha, const Optional& weight, const Optional& bias) {
  at::ScalarType type = at::result_type(alpha, x);
  for (const Optional* parameter : {&weight, &bias}) {
    if (parameter->has_value()) {
      type = c10::promoteTypes(type, (*parameter)->scalar_type());
    }
  }
  return type;
}

// Owns what a Problem points to.
struct Prepared {
  Tensor x;
  std::vector<float> weight, bias;
  dyt::Problem problem;

  Prepared(
      const Tensor& given, const Tensor& alpha, const Optional& gamma, const Optional& beta,
      int64_t axis, bool accurate)
      : x(given.contiguous()) {
    const auto type = promoted(x, alpha, gamma, beta);
    TORCH_CHECK(
        supported(x.scalar_type()) && supported(type),
        "dyt's CPU kernel has float32, bfloat16 and float16, not ", x.scalar_type(), " and ", type);
    TORCH_CHECK(alpha.numel() == 1, "alpha must have one element");
    const auto sizes = x.sizes();
    const Optional& shaped = gamma.has_value() ? gamma : beta;
    const int64_t first = axis >= 0 ? axis
                          : shaped.has_value() ? x.dim() - shaped->dim()
                                               : std::max<int64_t>(0, x.dim() - 1);
    TORCH_CHECK(0 <= first && first <= x.dim(), "x has too few dimensions");
    const int64_t last = axis >= 0 ? axis + 1 : x.dim();
    const auto product = [&](int64_t from, int64_t to) {
      int64_t count = 1;
      for (int64_t i = from; i < to; ++i) {
        count *= sizes[i];
      }
      return count;
    };
    const int64_t channels = product(first, last);
    for (const Optional* parameter : {&gamma, &beta}) {
      TORCH_CHECK(
          !parameter->has_value() || (*parameter)->numel() == channels,
          "weight and bias must have ", channels, " elements");
    }
    weight = padded(gamma, channels, 1.0f);
    bias = padded(beta, channels, -0.0f);  // what leaves every number as it is, -0 as well
    problem = {
        x.const_data_ptr(), x.scalar_type(), type, product(0, first), channels,
        product(last, x.dim()), alpha.to(at::kFloat).const_data_ptr<float>()[0],
        weight.data(), bias.data(), accurate};
  }
};

Tensor forward(
    const Tensor& x, const Tensor& alpha, const Optional& weight, const Optional& bias,
    int64_t channel_axis, bool accurate) {
  const Prepared prepared(x, alpha, weight, bias, channel_axis, accurate);
  Tensor y = at::empty(x.sizes(), x.options().dtype(prepared.problem.y_type));
  if (y.numel() > 0) {
    kernels().forward(prepared.problem, y.mutable_data_ptr());
  }
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad, const Tensor& x, const Tensor& alpha, const Optional& weight,
    const Optional& bias, int64_t channel_axis, bool accurate) {
  const Prepared prepared(x, alpha, weight, bias, channel_axis, accurate);
  const dyt::Problem& problem = prepared.problem;
  TORCH_CHECK(grad.sizes() == x.sizes(), "grad must have the shape of x");
  const Tensor dy = grad.to(problem.y_type).contiguous();
  Tensor dx = at::empty(x.sizes(), x.options());
  std::vector<float> dweight(problem.channels), dbias(problem.channels);
  dyt::Sums sums{0.0, dweight.data(), dbias.data()};
  if (dx.numel() > 0) {
    kernels().backward(problem, dy.const_data_ptr(), dx.mutable_data_ptr(), sums);
  }
  const auto gradient = [&](const Optional& parameter, const float* values) {
    if (!parameter.has_value()) {
      return at::empty({0}, x.options().dtype(at::kFloat));
    }
    Tensor result = at::empty(parameter->sizes(), x.options().dtype(at::kFloat));
    std::copy_n(values, result.numel(), result.mutable_data_ptr<float>());
    return result.to(parameter->scalar_type());
  };
  const float dalpha = sums.alpha;
  return {dx, gradient(alpha, &dalpha), gradient(weight, sums.weight), gradient(bias, sums.bias)};
}

}  // namespace

TORCH_LIBRARY_IMPL(dyt, CPU, library) {
  library.impl("dyt", &forward);
  library.impl("dyt_backward", &backward);
}

// Importing the module is what registers the kernels; it holds nothing.
PyMODINIT_FUNC PyInit__dyt_cpu() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_dyt_cpu", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
