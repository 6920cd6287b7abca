// Registration of the CPU kernels of dyt's operators, whose schemas dyt.backends.ops defines.
//
// The autograd rule of dyt.backends.ops is implemented here a second time: the Python rule, which
// is used without this module, takes longer than the kernel on a small input.
#include "kernel.h"

#include <Python.h>

#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/result_type.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
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

// The widest vectors that both this machine and this build support; torch chooses by the same rule.
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

// Calls f with a typed data pointer, to convert to or from float; a torch operator would be slower.
template <typename F>
void with_data(const Tensor& tensor, const F& f) {
  if (tensor.scalar_type() == at::kFloat) {
    f(tensor.mutable_data_ptr<float>());
  } else if (tensor.scalar_type() == at::kBFloat16) {
    f(tensor.mutable_data_ptr<at::BFloat16>());
  } else {
    f(tensor.mutable_data_ptr<at::Half>());
  }
}

void read(const Tensor& tensor, float* to) {
  const Tensor plain = tensor.contiguous();
  with_data(plain, [&](const auto* from) { std::copy_n(from, plain.numel(), to); });
}

float read_one(const Optional& tensor, const char* name) {
  if (!tensor.has_value()) {
    return -0.0f;
  }
  TORCH_CHECK(tensor->numel() == 1, name, " must have one element");
  float value;
  read(*tensor, &value);
  return std::isnan(value) ? std::numeric_limits<float>::quiet_NaN() : value;  // see round_to_upper
}

std::vector<float> padded(const Optional& parameter, int64_t channels, float missing) {
  const int64_t room = (channels + dyt::kPadding - 1) / dyt::kPadding * dyt::kPadding;
  std::vector<float> values(room, missing);
  if (parameter.has_value()) {
    TORCH_CHECK(
        parameter->numel() == channels, "weight and bias must have ", channels, " elements");
    read(*parameter, values.data());
  }
  return values;
}

// The arguments of the operators other than gradients.
struct Given {
  const Tensor& x;
  const Tensor& alpha;
  const Optional& shift;
  const Optional& weight;
  const Optional& bias;
  c10::string_view squash;
  int64_t channel_axis;
  bool accurate;

  // The result of the formula's type promotion. A tensor without axes does not widen one with axes.
  at::ScalarType promoted() const {
    at::ScalarType type = at::result_type(alpha, x);
    for (const Optional* parameter : {&shift, &weight, &bias}) {
      if (parameter->has_value() && ((*parameter)->dim() > 0 || x.dim() == 0)) {
        type = c10::promoteTypes(type, (*parameter)->scalar_type());
      }
    }
    return type;
  }
};

int64_t product(at::IntArrayRef sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<int64_t>());
}

// Owns what a Problem points to.
struct Prepared {
  Tensor x;
  std::vector<float> weight, bias;
  dyt::Problem problem;

  explicit Prepared(const Given& given) : x(given.x.contiguous()) {
    const auto type = given.promoted();
    for (const Optional& tensor : {Optional(x), Optional(given.alpha), given.shift, given.weight,
                                   given.bias}) {
      TORCH_CHECK(
          !tensor.has_value() || supported(tensor->scalar_type()),
          "dyt's CPU kernel has float32, bfloat16 and float16, not ", tensor->scalar_type());
    }
    const bool erf = given.squash == "erf";
    TORCH_CHECK(erf || given.squash == "tanh", "dyt's CPU kernel has tanh and erf alone");
    TORCH_CHECK(erf || !given.shift.has_value(), "dyt's CPU kernel shifts erf alone");
    const int64_t axis = given.channel_axis;
    const Optional& shaped = given.weight.has_value() ? given.weight : given.bias;
    const int64_t first = axis >= 0 ? axis
                          : shaped.has_value() ? x.dim() - shaped->dim()
                                               : std::max<int64_t>(0, x.dim() - 1);
    TORCH_CHECK(0 <= first && first <= x.dim(), "x has too few dimensions");
    const int64_t last = axis >= 0 ? axis + 1 : x.dim();
    const auto sizes = x.sizes();
    const int64_t channels = product(sizes.slice(first, last - first));
    weight = padded(given.weight, channels, 1.0f);
    bias = padded(given.bias, channels, -0.0f);  // adding -0 leaves every number unchanged, also -0
    problem = {
        x.const_data_ptr(), x.scalar_type(), type, product(sizes.slice(0, first)), channels,
        product(sizes.slice(last)), read_one(given.alpha, "alpha"), read_one(given.shift, "shift"),
        weight.data(), bias.data(), erf, given.accurate};
  }
};

Tensor forward(
    const Tensor& x, const Tensor& alpha, const Optional& shift, const Optional& weight,
    const Optional& bias, c10::string_view squash, int64_t channel_axis, bool accurate) {
  const Prepared prepared({x, alpha, shift, weight, bias, squash, channel_axis, accurate});
  Tensor y = at::empty(x.sizes(), x.options().dtype(prepared.problem.y_type));
  if (y.numel() > 0) {
    kernels().forward(prepared.problem, y.mutable_data_ptr());
  }
  return y;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients backward(
    const Tensor& grad, const Tensor& x, const Tensor& alpha, const Optional& shift,
    const Optional& weight, const Optional& bias, c10::string_view squash, int64_t channel_axis,
    bool accurate) {
  const Prepared prepared({x, alpha, shift, weight, bias, squash, channel_axis, accurate});
  const dyt::Problem& problem = prepared.problem;
  TORCH_CHECK(grad.sizes() == x.sizes(), "grad must have the shape of x");
  const Tensor dy = grad.to(problem.y_type).contiguous();
  Tensor dx = at::empty(x.sizes(), x.options());
  std::vector<float> dweight(problem.channels), dbias(problem.channels);
  dyt::Sums sums{0.0, 0.0, dweight.data(), dbias.data()};
  if (dx.numel() > 0) {
    kernels().backward(problem, dy.const_data_ptr(), dx.mutable_data_ptr(), sums);
  }
  const auto gradient = [&](const Optional& parameter, const float* values) {
    if (!parameter.has_value()) {
      return at::empty({0}, x.options().dtype(at::kFloat));
    }
    Tensor result = at::empty(parameter->sizes(), parameter->options());
    with_data(result, [&](auto* to) { std::copy_n(values, result.numel(), to); });
    return result;
  };
  const float dalpha = sums.alpha, dshift = sums.shift;
  return {
      dx, gradient(alpha, &dalpha), gradient(shift, &dshift), gradient(weight, sums.weight),
      gradient(bias, sums.bias)};
}

// --- autograd

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Optional present(const Tensor& tensor) {
  return tensor.defined() ? Optional(tensor) : std::nullopt;
}

struct Function : torch::autograd::Function<Function> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& alpha, const Optional& shift,
      const Optional& weight, const Optional& bias, std::string squash, int64_t channel_axis,
      bool accurate) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("dyt::dyt", "")
                               .typed<decltype(::forward)>();
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto or_none = [](const Optional& tensor) { return tensor.value_or(Tensor()); };
    context->save_for_backward({x, alpha, or_none(shift), or_none(weight), or_none(bias)});
    context->saved_data["squash"] = squash;
    context->saved_data["channel_axis"] = channel_axis;
    context->saved_data["accurate"] = accurate;
    return op.call(x, alpha, shift, weight, bias, squash, channel_axis, accurate);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("dyt::dyt_backward", "")
                               .typed<decltype(::backward)>();
    const variable_list saved = context->get_saved_variables();
    const std::string squash = context->saved_data["squash"].toStringRef();
    // Skip the Python rule for second derivatives if none are needed.
    std::optional<at::AutoDispatchBelowADInplaceOrView> guard;
    if (!at::GradMode::is_enabled()) {
      guard.emplace();
    }
    auto [dx, dalpha, dshift, dweight, dbias] = op.call(
        grads[0], saved[0], saved[1], present(saved[2]), present(saved[3]), present(saved[4]),
        squash, context->saved_data["channel_axis"].toInt(),
        context->saved_data["accurate"].toBool());
    const auto wanted = [&](size_t i, const Tensor& found) {
      return saved[i].defined() ? found : Tensor();
    };
    return {dx, dalpha, wanted(2, dshift), wanted(3, dweight), wanted(4, dbias),
            Tensor(), Tensor(), Tensor()};
  }
};

Tensor differentiable(
    const Tensor& x, const Tensor& alpha, const Optional& shift, const Optional& weight,
    const Optional& bias, c10::string_view squash, int64_t channel_axis, bool accurate) {
  return Function::apply(
      x, alpha, shift, weight, bias, std::string(squash.data(), squash.size()), channel_axis,
      accurate);
}

}  // namespace

TORCH_LIBRARY_IMPL(dyt, CPU, library) {
  library.impl("dyt", &forward);
  library.impl("dyt_backward", &backward);
}

// The rule only calls operators, and therefore serves GPUs as well.
TORCH_LIBRARY_IMPL(dyt, AutogradCPU, library) {
  library.impl("dyt", &differentiable);
}
TORCH_LIBRARY_IMPL(dyt, AutogradCUDA, library) {
  library.impl("dyt", &differentiable);
}

// An empty module: importing it registers the kernels.
PyMODINIT_FUNC PyInit__dyt_cpu_2() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_dyt_cpu_2", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}
