// Squashing functions on vectors of float32, and loads and stores of vectors of all types.
//
// Included only by kernel.cpp, once for each CPU_CAPABILITY.
#pragma once

#include "kernel.h"

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cmath>
#include <cstring>
#include <type_traits>

namespace dyt {
namespace CPU_CAPABILITY {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t kStep = 2 * Vec::size();  // a whole vector of bfloat16
constexpr int64_t kLine = 64;               // bytes
constexpr int64_t kAhead = 2048;
static_assert(kPadding % kStep == 0);
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

// A step of elements. With `Split` (x and y are bfloat16), a has the elements at even and b those at
// odd positions, which takes far fewer instructions than keeping them in order. Otherwise a has the
// first half and b the second.
struct Pair {
  Vec a, b;
};

template <typename X, typename Y>
constexpr bool Split = std::is_same_v<X, at::BFloat16> && std::is_same_v<Y, at::BFloat16>;

inline int64_t split_place(int64_t i) {
  const int64_t place = i % kStep;
  return i - place + place / 2 + (place % 2) * Vec::size();
}

using Int = at::vec::Vectorized<int32_t>;

inline Int round_to_upper(const Vec& x) {
  // Round to nearest, ties to even. A NaN that originates from a bfloat16 number, or from α or s,
  // has no lower bit set, hence rounding cannot overflow it to 0. See like() and read_one().
  const Int bits = at::vec::cast<int32_t>(x);
  return bits + ((bits >> Int(16)) & Int(1)) + Int(0x7fff);
}

template <bool split, typename T>
inline Pair read(const T* from) {
  if constexpr (split) {
    const Int both = Int::loadu(from);
    return {
        at::vec::cast<float>(both << Int(16)), at::vec::cast<float>(both & Int(int32_t(0xffff0000)))};
  } else if constexpr (std::is_same_v<T, float>) {
    return {Vec::loadu(from), Vec::loadu(from + Vec::size())};
  } else {
    static_assert(at::vec::Vectorized<T>::size() == kStep);
    auto [a, b] = at::vec::convert_to_float<T>(at::vec::Vectorized<T>::loadu(from));
    return {a, b};
  }
}

// Same as read, for sequential access, with an explicit prefetch: out-of-order execution looks ahead
// only as far as the processor can buffer instructions, and these functions have many.
template <bool split, typename T>
inline Pair read_ahead(const T* from, int64_t distance = kAhead) {
  const char* ahead = reinterpret_cast<const char*>(from) + distance;
  for (size_t line = 0; line < kStep * sizeof(T); line += kLine) {
    __builtin_prefetch(ahead + line);
  }
  return read<split>(from);
}

// With `streamed`, values bypass the caches; the address must be a multiple of kLine.
template <bool streamed>
inline void store(void* to, const Vec& values) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (streamed) {
    return _mm512_stream_ps(static_cast<float*>(to), values);
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (streamed) {
    return _mm256_stream_ps(static_cast<float*>(to), values);
  }
#endif
  values.store(to);
}

// Makes streamed values visible to other threads.
inline void finish_streaming() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();
#endif
}

template <bool split, bool streamed = false, typename T>
inline void write(T* to, const Pair& values) {
  if constexpr (split) {
    const Int even = round_to_upper(values.a) >> Int(16), odd = round_to_upper(values.b);
    const Int both = (even & Int(0xffff)) | (odd & Int(int32_t(0xffff0000)));
    store<streamed>(to, at::vec::cast<float>(both));
  } else if constexpr (std::is_same_v<T, float>) {
    store<streamed>(to, values.a);
    store<streamed>(to + Vec::size(), values.b);
  } else {
    at::vec::convert_from_float<T>(values.a, values.b).store(to);
  }
}

// Reads the last elements of a run, fewer than a step; the rest of the step is zero.
template <bool split, typename T>
inline Pair read(const T* from, int64_t count) {
  alignas(64) T buffer[kStep] = {};
  std::memcpy(static_cast<void*>(buffer), from, count * sizeof(T));
  return read<split>(buffer);
}

template <bool split, typename T>
inline void write(T* to, const Pair& values, int64_t count) {
  alignas(64) T buffer[kStep];
  write<split>(buffer, values);
  std::memcpy(static_cast<void*>(to), buffer, count * sizeof(T));
}

inline float sum(const Vec& values) {
  return at::vec::vec_reduce_all<float>([](const Vec& a, const Vec& b) { return a + b; }, values);
}

// Applies a function to both halves of a step. Used one operation at a time, this makes adjacent
// instructions independent, which the processor needs for parallel execution.
template <typename F, typename... Pairs>
inline Pair both(const F& f, const Pairs&... x) {
  return {f(x.a...), f(x.b...)};
}

// A polynomial in u with leading coefficient 1, as a product of factors (u + b)·u + c and, for odd
// degrees, a last factor u + b: a third fewer multiplications than Horner's rule. No b or c is
// negative where this could cause cancellation.
template <size_t degree>
inline Pair polynomial(const Pair& u, const float (&factors)[degree]) {
  const auto factor = [&](size_t i) {
    const Vec b(factors[i]);
    if (i + 1 == degree) {
      return both([&](const Vec& u) { return u + b; }, u);
    }
    const Vec c(factors[i + 1]);
    return both([&](const Vec& u) { return at::vec::fmadd(u + b, u, c); }, u);
  };
  Pair y = factor(0);
  for (size_t i = 2; i < degree; i += 2) {
    y = both([](const Vec& y, const Vec& f) { return y * f; }, y, factor(i));
  }
  return y;
}

inline Pair times_fraction(const Pair& x, const Pair& top, const Pair& bottom) {
  const Pair ratio = both([](const Vec& p, const Vec& q) { return p / q; }, top, bottom);
  return both([](const Vec& x, const Vec& r) { return x * r; }, x, ratio);
}

// Returns x if x is NaN, otherwise y: library functions return other NaNs, with all bits set.
inline Vec like(const Vec& x, const Vec& y) {
  return Vec::blendv(y, x, x.isnan());
}

template <typename R>
constexpr float kEnd = R::end * (R::scale < 0 ? -R::scale : R::scale);

// R's odd function v·P(v²)/Q(v²) of v = R::scale·x, clamped to ±1, which it exceeds before R::end.
// The scale makes the leading coefficients of P and Q 1. Keeps the sign of 0 and propagates NaN.
template <typename R>
inline Pair held(const Pair& v) {
  const Vec end(kEnd<R> * kEnd<R>);
  const Pair u = both([&](const Vec& v) { return at::vec::clamp_max(v * v, end); }, v);
  const Pair y = times_fraction(v, polynomial(u, R::top), polynomial(u, R::bottom));
  return both([](const Vec& y) { return at::vec::clamp(y, Vec(-1.0f), Vec(1.0f)); }, y);
}

// The same for results in 16 bits, where the value at R::end rounds to 1: v is clamped, and the
// result needs no clamping.
template <typename R>
inline Pair rounded(const Pair& scaled) {
  const Vec low(-kEnd<R>), high(kEnd<R>);
  const Pair v = both([&](const Vec& v) { return at::vec::clamp(v, low, high); }, scaled);
  const Pair u = both([](const Vec& v) { return v * v; }, v);
  return times_fraction(v, polynomial(u, R::top), polynomial(u, R::bottom));
}

// The coefficients are minimax in relative error. Degrees 9 and 8: 3.9e-8 on [0, 9.02], where tanh
// starts to round to 1. With all roundings at most 6.8 ulp for |αx| ≥ 2⁻¹¹⁸, and 7.7 ulp without
// fused multiply-add, measured on a tenth of all numbers.
struct FullTanh {
  static constexpr double scale = 1.71593051699992748e-2, end = 9.6;
  static constexpr float top[] = {
      1.494067907e-2f, 3.497917714e-5f, 4.400928617e-1f, 1.613288000e-2f};
  static constexpr float bottom[] = {
      7.293110713e-3f, 4.770696250e-6f, 1.172463819e-1f, 2.029735362e-3f};
};

// For float16. Degrees 7 and 6: 6.7e-8 on [0, 5].
struct HalfTanh {
  static constexpr double scale = 3.06620426612332665e-2, end = 6.4;
  static constexpr float top[] = {5.211267620e-2f, 3.978440072e-4f, 4.029931128e-1f};
  static constexpr float bottom[] = {2.365058847e-2f, 4.948318747e-5f, 9.934680164e-2f};
};

// For bfloat16. Degrees 5 and 4: 3.3e-5 on [0, 4.6].
struct BFloat16Tanh {
  static constexpr double scale = 5.37684290835885037e-2, end = 4.9;
  static constexpr float top[] = {4.221950471e-1f, 1.177850086e-2f};
  static constexpr float bottom[] = {9.567683935e-2f, 6.333318306e-4f};
};

// Degrees 11 and 10: 2.6e-8 on [0, 3.95]. With all roundings at most 7.2 ulp, and 7.6 ulp without
// fused multiply-add, measured on the same numbers.
struct FullErf {
  static constexpr double scale = 5.35504325248595051e-2, end = 4.0;
  static constexpr float top[] = {
      3.003766015e-2f, 1.147673582e-3f, 7.806221023e-3f, 2.577514097e-4f, 3.651276827e-1f};
  static constexpr float bottom[] = {
      1.864232123e-2f, 4.581834655e-4f, 3.162447736e-2f, 2.907803573e-4f, 3.847402707e-2f};
};

// For results in 16 bits, in which erf is 1 from 2.48 on. Degrees 7 and 6: 1.6e-6 on [0, 2.95].
struct ShortErf {
  static constexpr double scale = 8.06821106595951992e-2, end = 3.0;
  static constexpr float top[] = {2.126817591e-2f, 1.172910677e-3f, 3.535303473e-1f};
  static constexpr float bottom[] = {3.861083090e-2f, 1.070603845e-3f, 2.769391611e-2f};
};

// The squashing functions: value() for a result of type Y, value_and_slope() for gradients. Both
// take the argument multiplied by `scale`.
template <typename Y, bool accurate>
struct Tanh {
  static constexpr bool shifted = false;
  static constexpr bool wide = std::is_same_v<Y, float>;
  using Rational = std::conditional_t<
      wide, FullTanh,
      std::conditional_t<std::is_same_v<Y, at::Half>, HalfTanh, BFloat16Tanh>>;
  static constexpr double scale = accurate ? 1 : Rational::scale;

  static Pair exact(const Pair& x) {
    return both([](const Vec& x) { return like(x, x.tanh()); }, x);
  }

  static Pair value(const Pair& x) {
    if constexpr (accurate) {
      return exact(x);
    } else if constexpr (wide) {
      return held<Rational>(x);
    } else {
      return rounded<Rational>(x);
    }
  }

  static Pair value_and_slope(const Pair& x, Pair& slope) {
    Pair y;
    if constexpr (accurate) {
      y = exact(x);
    } else {
      y = held<Rational>(x);
    }
    slope = both([](const Vec& y) { return Vec(1.0f) - y * y; }, y);
    return y;
  }
};

template <typename Y, bool accurate>
struct Erf {
  static constexpr bool shifted = true;
  static constexpr bool wide = std::is_same_v<Y, float>;
  static constexpr double scale = accurate ? 1 : wide ? FullErf::scale : ShortErf::scale;

  static Pair value(const Pair& x) {
    if constexpr (accurate) {
      // Vectorized::erf has an absolute error of 1.5e-7, which is too large for small results.
      return both([](const Vec& x) { return like(x, x.map(std::erf)); }, x);
    } else if constexpr (wide) {
      return held<FullErf>(x);
    } else {
      return rounded<ShortErf>(x);
    }
  }

  static Pair value_and_slope(const Pair& x, Pair& slope) {
    const Vec back(-1 / (scale * scale)), factor(1.1283791670955126f);  // 2/√π·exp(-x²)
    const auto one = [&](const Vec& x) {
      const Vec power = back * x * x;
      return like(x, factor * (accurate ? power.exp() : power.exp_u20()));  // 20 ulp
    };
    slope = both(one, x);
    return value(x);
  }
};

}  // namespace CPU_CAPABILITY
}  // namespace dyt
