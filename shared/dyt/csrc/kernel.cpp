// Computes DyT and its gradients in one pass over memory each, in vectors of float32.
//
// Compiled once for each CPU_CAPABILITY, with that capability's flags: see setup.py.
#include "kernel.h"

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

namespace dyt {
namespace CPU_CAPABILITY {
namespace {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t kStep = 2 * Vec::size();  // a whole vector of bfloat16
constexpr int64_t kGrain = 32768;           // elements below which a thread is not worth waking
constexpr int64_t kMaxBlocks = 64;          // of rows, each with sums of its own
constexpr int64_t kMinRows = 32;
static_assert(kPadding % kStep == 0);

struct Pair {
  Vec a, b;
};

template <typename T>
inline Pair read(const T* from) {
  if constexpr (std::is_same_v<T, float>) {
    return {Vec::loadu(from), Vec::loadu(from + Vec::size())};
  } else {
    static_assert(at::vec::Vectorized<T>::size() == kStep);
    auto [a, b] = at::vec::convert_to_float<T>(at::vec::Vectorized<T>::loadu(from));
    return {a, b};
  }
}

template <typename T>
inline void write(T* to, const Pair& values) {
  if constexpr (std::is_same_v<T, float>) {
    values.a.store(to);
    values.b.store(to + Vec::size());
  } else {
    at::vec::convert_from_float<T>(values.a, values.b).store(to);
  }
}

// The last elements of a run, fewer than a step; the rest of the step is zero.
template <typename T>
inline Pair read(const T* from, int64_t count) {
  alignas(64) T buffer[kStep] = {};
  std::memcpy(static_cast<void*>(buffer), from, count * sizeof(T));
  return read(buffer);
}

template <typename T>
inline void write(T* to, const Pair& values, int64_t count) {
  alignas(64) T buffer[kStep];
  write(buffer, values);
  std::memcpy(static_cast<void*>(to), buffer, count * sizeof(T));
}

inline float sum(const Vec& values) {
  return at::vec::vec_reduce_all<float>([](const Vec& a, const Vec& b) { return a + b; }, values);
}

// v·P(v²)/Q(v²), held to ±1. Odd, keeps the sign of 0, passes NaN on. `end` is where the fraction
// has risen past 1, so that all from there on is ±1.
template <size_t n>
inline Vec fraction(const Vec& x, float end, const float (&p)[n], const float (&q)[n]) {
  using at::vec::clamp;
  using at::vec::fmadd;
  const Vec v = clamp(x, Vec(-end), Vec(end));
  const Vec u = v * v;
  Vec top(p[n - 1]), bottom(q[n - 1]);
  for (size_t i = n - 1; i-- > 0;) {
    top = fmadd(top, u, Vec(p[i]));
    bottom = fmadd(bottom, u, Vec(q[i]));
  }
  return clamp(v * top / bottom, Vec(-1.0f), Vec(1.0f));
}

// Degrees 9 and 8, minimax in relative error (2.1e-8) on [0, 9.02], from where on tanh rounds to 1.
// The error is 5.6 ulp at most over all of float32, and 6.4 where there is no fused multiply-add.
constexpr float kTop[] = {
    1.0f, 1.3379723334552876e-1f, 3.4940407878825052e-3f, 2.0583576838096430e-5f,
    1.3319191554277749e-8f};
constexpr float kBottom[] = {
    1.0f, 4.6713038585743591e-1f, 2.5871097350323884e-2f, 3.2831027247690996e-4f,
    7.7620711028347068e-7f};

// For results in 16 bits, whose tanh is 1 from 4.51 on: degrees 7 and 6, 6.2e-8 on [0, 5].
constexpr float kShortTop[] = {
    1.0f, 1.2548258159994890e-1f, 2.5090445862289390e-3f, 5.1832476425819410e-6f};
constexpr float kShortBottom[] = {
    1.0f, 4.5881531058057770e-1f, 2.2115142844635240e-2f, 1.6904359562954950e-4f};

// tanh for a result of type Y.
template <typename Y, bool accurate>
inline Vec squash(const Vec& x) {
  if constexpr (accurate) {
    return x.tanh();
  } else if constexpr (std::is_same_v<Y, float>) {
    return fraction(x, 9.6f, kTop, kBottom);
  } else {
    return fraction(x, 6.4f, kShortTop, kShortBottom);
  }
}

template <typename Y, bool accurate>
inline Pair apply(const Pair& x, const Vec& alpha, const Pair& weight, const Pair& bias) {
  return {
      at::vec::fmadd(weight.a, squash<Y, accurate>(alpha * x.a), bias.a),
      at::vec::fmadd(weight.b, squash<Y, accurate>(alpha * x.b), bias.b)};
}

// What one vector adds to the sums, and dx.
template <typename Y, bool accurate>
inline Vec differentiate(
    const Vec& x, const Vec& grad, const Vec& alpha, const Vec& weight,
    Vec& dalpha, Vec& dweight, Vec& dbias) {
  const Vec t = squash<Y, accurate>(alpha * x);
  const Vec slope = grad * weight * (Vec(1.0f) - t * t);
  dalpha = at::vec::fmadd(slope, x, dalpha);
  dweight = at::vec::fmadd(grad, t, dweight);
  dbias = dbias + grad;
  return slope * alpha;
}

// One run of `count` elements. The parameters follow the elements, or are one number for all.
template <typename X, typename Y, bool accurate, bool one>
void forward_run(const Problem& problem, int64_t count, int64_t channel, const X* x, Y* y) {
  const Vec alpha(problem.alpha);
  const float* weight = problem.weight + channel;
  const float* bias = problem.bias + channel;
  const Pair weight1{Vec(*weight), Vec(*weight)}, bias1{Vec(*bias), Vec(*bias)};
  const int64_t whole = count - count % kStep;
  for (int64_t i = 0; i < whole; i += kStep) {
    const Pair w = one ? weight1 : read(weight + i);
    const Pair b = one ? bias1 : read(bias + i);
    write(y + i, apply<Y, accurate>(read(x + i), alpha, w, b));
  }
  if (whole < count) {
    const Pair w = one ? weight1 : read(weight + whole);
    const Pair b = one ? bias1 : read(bias + whole);
    const Pair last = read(x + whole, count - whole);
    write(y + whole, apply<Y, accurate>(last, alpha, w, b), count - whole);
  }
}

template <typename X, typename Y, bool accurate>
void forward_all(const Problem& problem, void* out) {
  const X* x = static_cast<const X*>(problem.x);
  Y* y = static_cast<Y*>(out);
  const bool rows = problem.inner == 1;
  const int64_t runs = rows ? problem.outer : problem.outer * problem.channels;
  const int64_t length = rows ? problem.channels : problem.inner;
  at::parallel_for(0, runs, std::max<int64_t>(1, kGrain / length), [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      const X* from = x + run * length;
      Y* to = y + run * length;
      if (rows) {
        forward_run<X, Y, accurate, false>(problem, length, 0, from, to);
      } else {
        forward_run<X, Y, accurate, true>(problem, length, run % problem.channels, from, to);
      }
    }
  });
}

// One row of channels; its sums for γ and β are added to those of its block. Returns that for α.
template <typename X, typename Y, bool accurate>
float backward_row(
    const Problem& problem, const X* x, const Y* grad, X* dx, float* dweight, float* dbias) {
  const Vec alpha(problem.alpha);
  Pair dalpha{Vec(0.0f), Vec(0.0f)};
  const auto step = [&](int64_t i, const Pair& x, const Pair& grad) {
    const Pair weight = read(problem.weight + i);
    Pair dw = read(dweight + i), db = read(dbias + i), out;
    out.a = differentiate<Y, accurate>(x.a, grad.a, alpha, weight.a, dalpha.a, dw.a, db.a);
    out.b = differentiate<Y, accurate>(x.b, grad.b, alpha, weight.b, dalpha.b, dw.b, db.b);
    write(dweight + i, dw);
    write(dbias + i, db);
    return out;
  };
  const int64_t count = problem.channels, whole = count - count % kStep;
  for (int64_t i = 0; i < whole; i += kStep) {
    write(dx + i, step(i, read(x + i), read(grad + i)));
  }
  if (const int64_t left = count - whole) {
    write(dx + whole, step(whole, read(x + whole, left), read(grad + whole, left)), left);
  }
  return sum(dalpha.a + dalpha.b);
}

// Channels last. Blocks depend on the shape alone, and are added up in order: the result is the
// same to the last bit whatever the number of threads.
template <typename X, typename Y, bool accurate>
void backward_rows(const Problem& problem, const Y* grad, X* dx, Sums& sums) {
  const X* x = static_cast<const X*>(problem.x);
  const int64_t rows = problem.outer, channels = problem.channels;
  const int64_t height = std::max(kMinRows, at::divup(rows, kMaxBlocks));
  const int64_t blocks = at::divup(rows, height);
  const int64_t width = at::divup(channels, kStep) * kStep;
  std::vector<float> parts(blocks * 2 * width);
  std::vector<double> alphas(blocks);
  const int64_t grain = std::max<int64_t>(1, kGrain / (height * channels));
  at::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      float* dweight = parts.data() + block * 2 * width;
      double total = 0;
      for (int64_t row = block * height; row < std::min(rows, (block + 1) * height); ++row) {
        const int64_t at = row * channels;
        total += backward_row<X, Y, accurate>(
            problem, x + at, grad + at, dx + at, dweight, dweight + width);
      }
      alphas[block] = total;
    }
  });
  std::vector<double> totals(2 * width);
  for (int64_t block = 0; block < blocks; ++block) {
    sums.alpha += alphas[block];
    for (int64_t i = 0; i < 2 * width; ++i) {
      totals[i] += parts[block * 2 * width + i];
    }
  }
  std::copy_n(totals.begin(), channels, sums.weight);
  std::copy_n(totals.begin() + width, channels, sums.bias);
}

struct Plane {
  double alpha = 0, weight = 0, bias = 0;
};

// One channel of one example: a run of elements that share γ and β.
template <typename X, typename Y, bool accurate>
Plane backward_plane(
    const Problem& problem, int64_t channel, const X* x, const Y* grad, X* dx) {
  const Vec alpha(problem.alpha), weight(problem.weight[channel]);
  Plane plane;
  constexpr int64_t kChunk = 128 * kStep;  // float32 sums no further than this
  for (int64_t start = 0; start < problem.inner; start += kChunk) {
    Vec da(0.0f), dw(0.0f), db(0.0f);
    const auto step = [&](const Pair& x, const Pair& grad) {
      Pair out;
      out.a = differentiate<Y, accurate>(x.a, grad.a, alpha, weight, da, dw, db);
      out.b = differentiate<Y, accurate>(x.b, grad.b, alpha, weight, da, dw, db);
      return out;
    };
    const int64_t stop = std::min(problem.inner, start + kChunk);
    int64_t i = start;
    for (; i + kStep <= stop; i += kStep) {
      write(dx + i, step(read(x + i), read(grad + i)));
    }
    if (i < stop) {
      write(dx + i, step(read(x + i, stop - i), read(grad + i, stop - i)), stop - i);
    }
    plane.alpha += sum(da);
    plane.weight += sum(dw);
    plane.bias += sum(db);
  }
  return plane;
}

template <typename X, typename Y, bool accurate>
void backward_planes(const Problem& problem, const Y* grad, X* dx, Sums& sums) {
  const X* x = static_cast<const X*>(problem.x);
  std::vector<Plane> planes(problem.outer * problem.channels);
  const int64_t grain = std::max<int64_t>(1, kGrain / problem.inner);
  at::parallel_for(0, planes.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * problem.inner;
      planes[i] = backward_plane<X, Y, accurate>(
          problem, i % problem.channels, x + at, grad + at, dx + at);
    }
  });
  for (int64_t channel = 0; channel < problem.channels; ++channel) {
    Plane total;
    for (int64_t i = channel; i < int64_t(planes.size()); i += problem.channels) {
      total.alpha += planes[i].alpha;
      total.weight += planes[i].weight;
      total.bias += planes[i].bias;
    }
    sums.alpha += total.alpha;
    sums.weight[channel] = total.weight;
    sums.bias[channel] = total.bias;
  }
}

template <typename X, typename Y, bool accurate>
void backward_all(const Problem& problem, const void* grad, void* dx, Sums& sums) {
  const Y* dy = static_cast<const Y*>(grad);
  if (problem.inner == 1) {
    backward_rows<X, Y, accurate>(problem, dy, static_cast<X*>(dx), sums);
  } else {
    backward_planes<X, Y, accurate>(problem, dy, static_cast<X*>(dx), sums);
  }
}

template <typename T>
struct Tag {
  using type = T;
};

template <typename F>
void with_accuracy(bool accurate, const F& f) {
  accurate ? f(std::true_type{}) : f(std::false_type{});
}

// Calls f with the types of x and y, and whether tanh is to be accurate. y is x's type or float.
template <typename F>
void with_types(const Problem& problem, const F& f) {
  const bool widened = problem.y_type != problem.x_type;
  with_accuracy(problem.accurate, [&](auto accurate) {
    const auto narrow = [&](auto x) {
      widened ? f(x, Tag<float>{}, accurate) : f(x, x, accurate);
    };
    if (problem.x_type == c10::kFloat) {
      f(Tag<float>{}, Tag<float>{}, accurate);
    } else if (problem.x_type == c10::kBFloat16) {
      narrow(Tag<c10::BFloat16>{});
    } else {
      narrow(Tag<c10::Half>{});
    }
  });
}

}  // namespace

void forward(const Problem& problem, void* y) {
  with_types(problem, [&](auto x_type, auto y_type, auto accurate) {
    using X = typename decltype(x_type)::type;
    using Y = typename decltype(y_type)::type;
    forward_all<X, Y, decltype(accurate)::value>(problem, y);
  });
}

void backward(const Problem& problem, const void* grad, void* dx, Sums& sums) {
  with_types(problem, [&](auto x_type, auto y_type, auto accurate) {
    using X = typename decltype(x_type)::type;
    using Y = typename decltype(y_type)::type;
    backward_all<X, Y, decltype(accurate)::value>(problem, grad, dx, sums);
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dyt
