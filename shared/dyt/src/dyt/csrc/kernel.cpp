// The layers and their gradients, each in one pass over memory with vectors of float32.
//
// Compiled once for each CPU_CAPABILITY with the flags of that capability, see dyt/kernel_build.py.
#include "vectors.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace dyt {
namespace CPU_CAPABILITY {
namespace {

constexpr int64_t kGrain = 32768;   // elements per thread; waking a thread for fewer costs more
constexpr int64_t kMaxBlocks = 64;  // blocks of rows, each with separate sums
constexpr int64_t kMinRows = 32;
constexpr int64_t kStreamed = 1 << 25;  // bytes: more than the cache per process on most machines
// Rows that are processed together, with their sums in registers. For rows narrower than kWideRow,
// following several places in memory costs the processor more time than this saves.
constexpr int kTile = 4;
constexpr int64_t kWideRow = 512;
constexpr int64_t kTileAhead = 16384;  // largest tile, in elements, whose successor is prefetched

// The argument of the squashing function, multiplied by the function's scale.
struct Argument {
  Vec alpha, shift;

  Argument(const Problem& problem, double scale)
      : alpha(problem.alpha * scale),
        shift(problem.shift == 0 ? -0.0f : float(problem.shift * scale)) {}  // -0 + -0 is -0

  Pair operator()(const Pair& x) const {
    return both([&](const Vec& x) { return at::vec::fmadd(alpha, x, shift); }, x);
  }
};

// Sums over some elements, one per vector lane.
struct Lanes {
  Pair alpha{Vec(0.0f), Vec(0.0f)}, shift = alpha, weight = alpha, bias = alpha;
};

// Adds the contribution of one step to the sums and returns dx.
template <typename F>
inline Pair differentiate(
    const Pair& x, const Pair& grad, const Argument& argument, const Vec& alpha,
    const Pair& weight, Lanes& sums) {
  constexpr auto times = [](const Vec& a, const Vec& b) { return a * b; };
  constexpr auto add = [](const Vec& a, const Vec& b) { return a + b; };
  constexpr auto fmadd = [](const Vec& a, const Vec& b, const Vec& c) {
    return at::vec::fmadd(a, b, c);
  };
  Pair slope;
  const Pair y = F::value_and_slope(argument(x), slope);
  slope = both(times, both(times, grad, weight), slope);
  sums.alpha = both(fmadd, slope, x, sums.alpha);
  if constexpr (F::shifted) {
    sums.shift = both(add, sums.shift, slope);
  }
  sums.weight = both(fmadd, grad, y, sums.weight);
  sums.bias = both(add, sums.bias, grad);
  return both([&](const Vec& slope) { return slope * alpha; }, slope);
}

// Runs of `count` elements. With `one`, a run has a single γ and β, otherwise one per element.
template <typename F, typename X, typename Y, bool one, bool streamed>
void forward_runs(
    const Problem& problem, int64_t begin, int64_t end, int64_t count, const X* x, Y* y) {
  constexpr bool split = Split<X, Y>;
  const Argument argument(problem, F::scale);
  const int64_t whole = count - count % kStep;
  for (int64_t run = begin; run < end; ++run) {
    const int64_t channel = one ? run % problem.channels : 0;
    const float* weight = problem.weight + channel;
    const float* bias = problem.bias + channel;
    const Pair weight1{Vec(*weight), Vec(*weight)}, bias1{Vec(*bias), Vec(*bias)};
    const auto step = [&](int64_t i, const Pair& x) {
      const Pair w = one ? weight1 : read<false>(weight + i);
      const Pair b = one ? bias1 : read<false>(bias + i);
      return both(
          [](const Vec& w, const Vec& y, const Vec& b) { return at::vec::fmadd(w, y, b); },
          w, F::value(argument(x)), b);
    };
    const X* from = x + run * count;
    Y* to = y + run * count;
    for (int64_t i = 0; i < whole; i += kStep) {
      write<split, streamed>(to + i, step(i, read_ahead<split>(from + i)));
    }
    if (const int64_t left = count - whole) {
      write<split>(to + whole, step(whole, read<split>(from + whole, left)), left);
    }
  }
}

// γ and β in the element order of Pair.
template <bool split>
struct Parameters {
  std::vector<float> weight, bias;

  Parameters(Problem& problem, bool rows) {
    if (split && rows) {
      const int64_t width = at::divup(problem.channels, kStep) * kStep;
      weight.resize(width);
      bias.resize(width);
      for (int64_t i = 0; i < width; ++i) {
        weight[split_place(i)] = problem.weight[i];
        bias[split_place(i)] = problem.bias[i];
      }
      problem.weight = weight.data();
      problem.bias = bias.data();
    }
  }
};

template <typename F, typename X, typename Y>
void forward_all(Problem problem, void* out) {
  const X* x = static_cast<const X*>(problem.x);
  Y* y = static_cast<Y*>(out);
  const bool rows = problem.inner == 1;
  const Parameters<Split<X, Y>> parameters(problem, rows);
  const int64_t runs = rows ? problem.outer : problem.outer * problem.channels;
  const int64_t length = rows ? problem.channels : problem.inner;
  // If no cache can hold the result until it is read, reading its memory before writing is wasted.
  const bool streamed = runs * length * sizeof(Y) >= kStreamed &&
      reinterpret_cast<uintptr_t>(y) % kLine == 0 && length * sizeof(Y) % kLine == 0;
  at::parallel_for(0, runs, std::max<int64_t>(1, kGrain / length), [&](int64_t begin, int64_t end) {
    if (!rows) {
      forward_runs<F, X, Y, true, false>(problem, begin, end, length, x, y);
    } else if (streamed) {
      forward_runs<F, X, Y, false, true>(problem, begin, end, length, x, y);
    } else {
      forward_runs<F, X, Y, false, false>(problem, begin, end, length, x, y);
    }
    if (streamed) {
      finish_streaming();
    }
  });
}

// Sums over a block of rows; weight and bias have one per channel, padded to whole steps.
struct Block {
  double alpha = 0, shift = 0;
  float* weight;
  float* bias;
};

// `height` rows of channels, column by column.
template <typename F, typename X, typename Y, int height>
void backward_tile(const Problem& problem, const X* x, const Y* grad, X* dx, Block& block) {
  constexpr bool split = Split<X, Y>;
  const Argument argument(problem, F::scale);
  const Vec alpha(problem.alpha);
  const int64_t count = problem.channels, whole = count - count % kStep;
  // Prefetch the next tile or, if rows are too long for a cache to hold it, a fixed distance ahead.
  const int64_t ahead = height * count <= kTileAhead ? height * count : kAhead / sizeof(X);
  Vec dalpha(0.0f), dshift(0.0f);
  const auto column = [&](int64_t i, const auto& get, const auto& put) {
    const Pair weight = read<false>(problem.weight + i);
    Lanes lanes;
    for (int row = 0; row < height; ++row) {
      const int64_t at = row * count + i;
      put(dx + at, differentiate<F>(get(x + at), get(grad + at), argument, alpha, weight, lanes));
    }
    dalpha = dalpha + (lanes.alpha.a + lanes.alpha.b);
    dshift = dshift + (lanes.shift.a + lanes.shift.b);
    const Pair dw = read<false>(block.weight + i), db = read<false>(block.bias + i);
    write<false>(block.weight + i, {dw.a + lanes.weight.a, dw.b + lanes.weight.b});
    write<false>(block.bias + i, {db.a + lanes.bias.a, db.b + lanes.bias.b});
  };
  for (int64_t i = 0; i < whole; i += kStep) {
    column(
        i,
        [ahead](const auto* from) { return read_ahead<split>(from, ahead * sizeof(*from)); },
        [](auto* to, const Pair& values) { write<split>(to, values); });
  }
  if (const int64_t left = count - whole) {
    column(
        whole, [left](const auto* from) { return read<split>(from, left); },
        [left](auto* to, const Pair& values) { write<split>(to, values, left); });
  }
  block.alpha += sum(dalpha);
  block.shift += sum(dshift);
}

// Channels last. Blocks depend only on the shape and are added up in order, which makes the result
// bit-identical for any number of threads.
template <typename F, typename X, typename Y>
void backward_rows(Problem problem, const Y* grad, X* dx, Sums& sums) {
  const Parameters<Split<X, Y>> parameters(problem, true);
  const X* x = static_cast<const X*>(problem.x);
  const int64_t rows = problem.outer, channels = problem.channels;
  const int64_t height = std::max(kMinRows, at::divup(rows, kMaxBlocks));
  const int64_t count = at::divup(rows, height);
  const int64_t width = at::divup(channels, kStep) * kStep;
  std::vector<float> parts(count * 2 * width);
  std::vector<Block> blocks(count);
  const int64_t grain = std::max<int64_t>(1, kGrain / (height * channels));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Block& block = blocks[i];
      block.weight = parts.data() + i * 2 * width;
      block.bias = block.weight + width;
      const int64_t stop = std::min(rows, (i + 1) * height);
      int64_t row = i * height;
      for (; channels >= kWideRow && row + kTile <= stop; row += kTile) {
        const int64_t at = row * channels;
        backward_tile<F, X, Y, kTile>(problem, x + at, grad + at, dx + at, block);
      }
      for (; row < stop; ++row) {
        const int64_t at = row * channels;
        backward_tile<F, X, Y, 1>(problem, x + at, grad + at, dx + at, block);
      }
    }
  });
  std::vector<double> totals(2 * width);
  for (const Block& block : blocks) {
    sums.alpha += block.alpha;
    sums.shift += block.shift;
    for (int64_t i = 0; i < 2 * width; ++i) {
      totals[i] += block.weight[i];
    }
  }
  for (int64_t i = 0; i < channels; ++i) {
    const int64_t place = Split<X, Y> ? split_place(i) : i;
    sums.weight[i] = totals[place];
    sums.bias[i] = totals[width + place];
  }
}

struct Plane {
  double alpha = 0, shift = 0, weight = 0, bias = 0;

  void operator+=(const Plane& other) {
    alpha += other.alpha;
    shift += other.shift;
    weight += other.weight;
    bias += other.bias;
  }
};

// One channel of one example: a run of elements with the same γ and β.
template <typename F, typename X, typename Y>
Plane backward_plane(const Problem& problem, int64_t channel, const X* x, const Y* grad, X* dx) {
  const Argument argument(problem, F::scale);
  const Vec alpha(problem.alpha);
  const Vec one(problem.weight[channel]);
  const Pair weight{one, one};
  constexpr bool split = Split<X, Y>;
  Plane plane;
  constexpr int64_t kChunk = 128 * kStep;  // elements summed in float32, then in float64
  for (int64_t start = 0; start < problem.inner; start += kChunk) {
    Lanes lanes;
    const auto step = [&](const Pair& x, const Pair& grad) {
      return differentiate<F>(x, grad, argument, alpha, weight, lanes);
    };
    const int64_t stop = std::min(problem.inner, start + kChunk);
    int64_t i = start;
    for (; i + kStep <= stop; i += kStep) {
      write<split>(dx + i, step(read_ahead<split>(x + i), read_ahead<split>(grad + i)));
    }
    if (i < stop) {
      const int64_t left = stop - i;
      const Pair out = step(read<split>(x + i, left), read<split>(grad + i, left));
      write<split>(dx + i, out, left);
    }
    plane += {
        sum(lanes.alpha.a + lanes.alpha.b), sum(lanes.shift.a + lanes.shift.b),
        sum(lanes.weight.a + lanes.weight.b), sum(lanes.bias.a + lanes.bias.b)};
  }
  return plane;
}

template <typename F, typename X, typename Y>
void backward_planes(const Problem& problem, const Y* grad, X* dx, Sums& sums) {
  const X* x = static_cast<const X*>(problem.x);
  std::vector<Plane> planes(problem.outer * problem.channels);
  const int64_t grain = std::max<int64_t>(1, kGrain / problem.inner);
  at::parallel_for(0, planes.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * problem.inner;
      planes[i] = backward_plane<F, X, Y>(
          problem, i % problem.channels, x + at, grad + at, dx + at);
    }
  });
  for (int64_t channel = 0; channel < problem.channels; ++channel) {
    Plane total;
    for (int64_t i = channel; i < int64_t(planes.size()); i += problem.channels) {
      total += planes[i];
    }
    sums.alpha += total.alpha;
    sums.shift += total.shift;
    sums.weight[channel] = total.weight;
    sums.bias[channel] = total.bias;
  }
}

template <typename F, typename X, typename Y>
void backward_all(const Problem& problem, const void* grad, void* dx, Sums& sums) {
  const Y* dy = static_cast<const Y*>(grad);
  if (problem.inner == 1) {
    backward_rows<F, X, Y>(problem, dy, static_cast<X*>(dx), sums);
  } else {
    backward_planes<F, X, Y>(problem, dy, static_cast<X*>(dx), sums);
  }
}

template <typename T>
struct Tag {
  using type = T;
};

// Calls f with the squashing function and the types of x and y; y's type is that of x or float.
template <typename Call>
void with_types(const Problem& problem, const Call& f) {
  const auto with_function = [&](auto x, auto y) {
    using Y = typename decltype(y)::type;
    if (problem.erf) {
      problem.accurate ? f(Erf<Y, true>{}, x, y) : f(Erf<Y, false>{}, x, y);
    } else {
      problem.accurate ? f(Tanh<Y, true>{}, x, y) : f(Tanh<Y, false>{}, x, y);
    }
  };
  const auto with_result = [&](auto x) {
    problem.y_type != problem.x_type ? with_function(x, Tag<float>{}) : with_function(x, x);
  };
  if (problem.x_type == c10::kFloat) {
    with_function(Tag<float>{}, Tag<float>{});
  } else if (problem.x_type == c10::kBFloat16) {
    with_result(Tag<c10::BFloat16>{});
  } else {
    with_result(Tag<c10::Half>{});
  }
}

}  // namespace

void forward(const Problem& problem, void* y) {
  with_types(problem, [&](auto function, auto x_type, auto y_type) {
    using X = typename decltype(x_type)::type;
    using Y = typename decltype(y_type)::type;
    forward_all<decltype(function), X, Y>(problem, y);
  });
}

void backward(const Problem& problem, const void* grad, void* dx, Sums& sums) {
  with_types(problem, [&](auto function, auto x_type, auto y_type) {
    using X = typename decltype(x_type)::type;
    using Y = typename decltype(y_type)::type;
    backward_all<decltype(function), X, Y>(problem, grad, dx, sums);
  });
}

}  // namespace CPU_CAPABILITY
}  // namespace dyt
