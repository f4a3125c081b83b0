// Single instructions against what C++ does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>

#include "tulle/gpu/softcuda/test_device.h"

namespace tulle::gpu::softcuda {
namespace {

template <typename T>
const char* NameOf() {
  if constexpr (std::is_same_v<T, float>)
    return "f32";
  else if constexpr (std::is_same_v<T, double>)
    return "f64";
  else if constexpr (sizeof(T) == 2)
    return std::is_signed_v<T> ? "s16" : "u16";
  else if constexpr (sizeof(T) == 4)
    return std::is_signed_v<T> ? "s32" : "u32";
  else
    return std::is_signed_v<T> ? "s64" : "u64";
}

class InstructionTest : public SoftCudaTest {
 protected:
  template <typename T>
  std::vector<T> Values(std::size_t count) {
    std::vector<T> values(count);
    for (T& value : values) {
      const std::uint64_t bits = random_.Next();
      if constexpr (std::is_floating_point_v<T>) {
        switch (random_.Below(8)) {
          case 0: value = std::numeric_limits<T>::infinity(); break;
          case 1: value = std::numeric_limits<T>::quiet_NaN(); break;
          case 2: value = T(0); break;
          default:
            value = static_cast<T>(static_cast<double>(static_cast<std::int64_t>(bits) >> random_.Below(63)) /
                                   1000);
            break;
        }
        if (random_.Below(2) != 0) value = -value;
      } else {
        value = static_cast<T>(random_.Below(4) == 0 ? bits % 3 - 1 : bits >> random_.Below(64));
      }
    }
    return values;
  }
  template <typename T>
  static bool Same(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a || b != b) return a != a && b != b;
    }
    return a == b;
  }

  // The instruction with two sources of type S, and a result of type D.
  template <typename D, typename S, typename F>
  void Binary(const std::string& instruction, F expected) {
    constexpr std::size_t kCount = 256;
    const std::string source = NameOf<S>(), result = NameOf<D>();
    const auto bytes = [](std::size_t size) { return std::to_string(size); };
    Load(Kernel(".reg ." + source + " %a, %b; .reg ." + result + " %d; .reg .b32 %r<5>; .reg .b64 %rd<9>;\n",
                "ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];\n"
                "mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, " +
                    bytes(sizeof(S)) + "; mul.wide.u32 %rd4, %r1, " + bytes(sizeof(D)) +
                    ";\n"
                    "add.u64 %rd5, %rd1, %rd3; add.u64 %rd6, %rd2, %rd4;\n"
                    "ld.global." +
                    source + " %a, [%rd5]; ld.global." + source + " %b, [%rd5+" + bytes(kCount * sizeof(S)) +
                    "];\n" + instruction + "\nst.global." + result + " [%rd6], %d;\n"));
    const std::vector<S> in = Values<S>(2 * kCount);
    D* const out = Device(std::vector<D>(kCount));
    Launch("k", {1}, {kCount}, Device(in), out);
    for (std::size_t i = 0; i < kCount; ++i) {
      const D should = static_cast<D>(expected(in[i], in[kCount + i]));
      ASSERT_TRUE(Same(out[i], should)) << instruction << " of " << +in[i] << " and " << +in[kCount + i]
                                        << " is " << +out[i] << ", not " << +should;
    }
  }
  template <typename T>
  void Integers() {
    using U = std::make_unsigned_t<T>;
    const std::string type = NameOf<T>(), bits = std::to_string(8 * sizeof(T));
    Binary<T, T>("add." + type + " %d, %a, %b;",
                 [](T a, T b) { return static_cast<U>(a) + static_cast<U>(b); });
    Binary<T, T>("sub." + type + " %d, %a, %b;",
                 [](T a, T b) { return static_cast<U>(a) - static_cast<U>(b); });
    Binary<T, T>("mul.lo." + type + " %d, %a, %b;",
                 [](T a, T b) { return std::uint64_t{static_cast<U>(a)} * static_cast<U>(b); });
    Binary<T, T>("mul.hi." + type + " %d, %a, %b;", [](T a, T b) {
      return static_cast<T>(static_cast<__int128>(a) * static_cast<__int128>(b) >> (8 * sizeof(T)));
    });
    Binary<T, T>("mad.lo." + type + " %d, %a, %b, %a;", [](T a, T b) {
      return std::uint64_t{static_cast<U>(a)} * static_cast<U>(b) + static_cast<U>(a);
    });
    Binary<T, T>("min." + type + " %d, %a, %b;", [](T a, T b) { return std::min(a, b); });
    Binary<T, T>("max." + type + " %d, %a, %b;", [](T a, T b) { return std::max(a, b); });
    Binary<T, T>("div." + type + " %d, %a, %b;",
                 [](T a, T b) { return b == 0 ? static_cast<__int128>(-1) : static_cast<__int128>(a) / b; });
    Binary<T, T>("rem." + type + " %d, %a, %b;",
                 [](T a, T b) { return b == 0 ? static_cast<__int128>(a) : static_cast<__int128>(a) % b; });
    Binary<T, T>("and.b" + bits + " %d, %a, %b;", [](T a, T b) { return a & b; });
    Binary<T, T>("or.b" + bits + " %d, %a, %b;", [](T a, T b) { return a | b; });
    Binary<T, T>("xor.b" + bits + " %d, %a, %b;", [](T a, T b) { return a ^ b; });
    Binary<T, T>("not.b" + bits + " %d, %a;", [](T a, T) { return ~a; });
    Binary<T, T>("cvt.u32." + type + " %r2, %b; and.b32 %r2, %r2, 127; shl.b" + bits + " %d, %a, %r2;",
                 [](T a, T b) {
                   const auto by = static_cast<std::uint32_t>(b) & 127;
                   return by >= 8 * sizeof(T) ? U(0) : static_cast<U>(std::uint64_t{static_cast<U>(a)} << by);
                 });
    Binary<T, T>("cvt.u32." + type + " %r2, %b; and.b32 %r2, %r2, 127; shr." + type + " %d, %a, %r2;",
                 [](T a, T b) {
                   const auto by = static_cast<std::uint32_t>(b) & 127;
                   return static_cast<__int128>(a) >> std::min<std::uint32_t>(by, 8 * sizeof(T));
                 });
    Binary<std::uint32_t, T>(".reg .pred %p; setp.lt." + type + " %p, %a, %b; selp.u32 %d, 5, 7, %p;",
                             [](T a, T b) { return a < b ? 5u : 7u; });
    Binary<double, T>("cvt.rn.f64." + type + " %d, %a;", [](T a, T) { return static_cast<double>(a); });
  }
  template <typename T>
  void Floats() {
    const std::string type = NameOf<T>();
    Binary<T, T>("add." + type + " %d, %a, %b;", [](T a, T b) { return a + b; });
    Binary<T, T>("sub." + type + " %d, %a, %b;", [](T a, T b) { return a - b; });
    Binary<T, T>("mul.rn." + type + " %d, %a, %b;", [](T a, T b) { return a * b; });
    Binary<T, T>("div.rn." + type + " %d, %a, %b;", [](T a, T b) { return a / b; });
    Binary<T, T>("fma.rn." + type + " %d, %a, %b, %a;", [](T a, T b) { return std::fma(a, b, a); });
    Binary<T, T>("min." + type + " %d, %a, %b;", [](T a, T b) { return std::fmin(a, b); });
    Binary<T, T>("max." + type + " %d, %a, %b;", [](T a, T b) { return std::fmax(a, b); });
    Binary<T, T>("neg." + type + " %d, %a;", [](T a, T) { return -a; });
    Binary<T, T>("abs." + type + " %d, %a;", [](T a, T) { return std::fabs(a); });
    Binary<T, T>("sqrt.rn." + type + " %d, %a;", [](T a, T) { return std::sqrt(a); });
    Binary<T, T>("copysign." + type + " %d, %a, %b;", [](T a, T b) { return std::copysign(b, a); });
    Binary<T, T>("cvt.rni." + type + "." + type + " %d, %a;", [](T a, T) { return std::nearbyint(a); });
    Binary<T, T>("cvt.rmi." + type + "." + type + " %d, %a;", [](T a, T) { return std::floor(a); });
    for (const auto& [name, ordered, unordered] :
         std::initializer_list<std::tuple<const char*, bool (*)(T, T), bool>>{
             {"eq", [](T a, T b) { return a == b; }, false},
             {"ne", [](T a, T b) { return a != b; }, false},
             {"lt", [](T a, T b) { return a < b; }, false},
             {"leu", [](T a, T b) { return a <= b; }, true},
             {"neu", [](T a, T b) { return a != b; }, true},
             {"num", [](T, T) { return true; }, false},
             {"nan", [](T, T) { return false; }, true}}) {
      Binary<std::uint32_t, T>(
          ".reg .pred %p; setp." + std::string(name) + "." + type + " %p, %a, %b; selp.u32 %d, 1, 0, %p;",
          [ordered = ordered, unordered = unordered](T a, T b) {
            return a != a || b != b ? unordered : ordered(a, b);
          });
    }
    Binary<std::int32_t, T>("cvt.rzi.s32." + type + " %d, %a;", [](T a, T) {
      const double whole = std::trunc(static_cast<double>(a));
      return whole != whole          ? 0
             : whole >= 2147483647.  ? 2147483647
             : whole <= -2147483648. ? std::numeric_limits<int>::min()
                                     : static_cast<int>(whole);
    });
  }
};

TEST_F(InstructionTest, OfWholeNumbers) {
  Integers<std::uint16_t>();
  Integers<std::int16_t>();
  Integers<std::uint32_t>();
  Integers<std::int32_t>();
  Integers<std::uint64_t>();
  Integers<std::int64_t>();
}

TEST_F(InstructionTest, OfFloats) {
  Floats<float>();
  Floats<double>();
}

// What the processor computes with this rounding.
template <typename T, typename F>
T RoundedBy(int rounding, F f, T a, T b) {
  volatile T x = a, y = b;
  std::fesetround(rounding);
  const T ax = x, ay = y;
  volatile T result = f(ax, ay);
  std::fesetround(FE_TONEAREST);
  return result;
}

TEST_F(InstructionTest, OfFloatsRoundedOtherwise) {
  for (const auto& [name, rounding] : std::initializer_list<std::pair<std::string, int>>{
           {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}}) {
    const auto all = [&, rounding = rounding, name = name]<typename T>(T) {
      const std::string type = NameOf<T>();
      Binary<T, T>("add." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x + y; }, a, b);
      });
      Binary<T, T>("mul." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x * y; }, a, b);
      });
      Binary<T, T>("div." + name + "." + type + " %d, %a, %b;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T y) { return x / y; }, a, b);
      });
      Binary<T, T>("sqrt." + name + "." + type + " %d, %a;", [rounding](T a, T b) {
        return RoundedBy(
            rounding, [](T x, T) { return std::sqrt(x); }, a, b);
      });
    };
    all(0.f);
    all(0.);
    Binary<float, double>("cvt." + name + ".f32.f64 %d, %a;", [rounding = rounding](double a, double) {
      volatile double x = a;
      std::fesetround(rounding);
      volatile float result = static_cast<float>(x);
      std::fesetround(FE_TONEAREST);
      return result;
    });
    Binary<float, std::int64_t>("cvt." + name + ".f32.s64 %d, %a;",
                                [rounding = rounding](std::int64_t a, std::int64_t) {
                                  volatile std::int64_t x = a;
                                  std::fesetround(rounding);
                                  volatile float result = static_cast<float>(x);
                                  std::fesetround(FE_TONEAREST);
                                  return result;
                                });
  }
  // Nothing of it stays.
  Binary<float, float>("add.f32 %d, %a, %b;", [](float a, float b) { return a + b; });
}

TEST_F(InstructionTest, SmallNumbersAreZerosWhereThatIsAskedFor) {
  const auto flushed = [](float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.f : value; };
  const std::string small = "mul.f32 %a, %a, 0f00800000; mul.f32 %b, %b, 0f00400000;\n";  // 2^-126, 2^-127
  const auto smaller = [](float a, float by) { return a * by; };
  Binary<float, float>(small + "add.ftz.f32 %d, %a, %b;", [&](float a, float b) {
    return flushed(flushed(smaller(a, 0x1p-126f)) + flushed(smaller(b, 0x1p-127f)));
  });
  Binary<float, float>(small + "add.f32 %d, %a, %b;",
                       [&](float a, float b) { return smaller(a, 0x1p-126f) + smaller(b, 0x1p-127f); });
  Binary<std::uint32_t, float>(
      small + ".reg .pred %p; setp.gt.ftz.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;", [&](float a, float b) {
        return flushed(smaller(a, 0x1p-126f)) > flushed(smaller(b, 0x1p-127f)) ? 1u : 0u;
      });
}

// Halves by another way: as doubles, whose digits are counted.
double WideHalf(std::uint16_t half, int digits) {
  const int exponent_bits = 15 - digits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = half >> digits & ((1 << exponent_bits) - 1), fraction = half & ((1 << digits) - 1);
  double value = 0;
  if (exponent == (1 << exponent_bits) - 1) {
    value = fraction != 0 ? std::nan("") : std::numeric_limits<double>::infinity();
  } else {
    value = std::ldexp(fraction + (exponent != 0 ? 1 << digits : 0), std::max(exponent, 1) - bias - digits);
  }
  return (half & 0x8000) != 0 ? -value : value;
}
std::uint16_t NarrowHalf(long double value, int digits) {
  const int exponent_bits = 15 - digits, bias = (1 << (exponent_bits - 1)) - 1;
  if (value != value) return 0x7fff;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const long double size = std::fabs(value);
  const int infinite = ((1 << exponent_bits) - 1) << digits;
  if (std::isinf(size)) return static_cast<std::uint16_t>(sign | infinite);
  const int exponent = std::max(size == 0 ? -10'000 : std::ilogb(size), 1 - bias);
  const auto count = static_cast<int>(std::nearbyint(std::scalbn(size, digits - exponent)));
  // A count that has grown by a digit carries into the exponent.
  const int bits = ((exponent + bias - 1) << digits) + count;
  return static_cast<std::uint16_t>(sign | std::min(bits, infinite));
}

// a * b + a, its last digit odd where there is more, so that it is on the right side of the middle between
// two halves.
long double SumWithProduct(long double a, long double b) {
  using Longer = __float128;
  const Longer product = static_cast<Longer>(a) * static_cast<Longer>(b);
  Longer sum = product + static_cast<Longer>(a);
  if (sum == product && a != 0 && !std::isinf(a * b)) {
    const Longer little = product * 0x1p-80;
    sum += (a > 0) == (product > 0) ? little : -little;
  }
  long double value = static_cast<long double>(sum);
  const Longer back = value;
  if (back == sum || value != value || std::isinf(value)) return value;
  if ((back > 0) == (back > sum)) value = std::nextafter(value, 0.L);
  std::uint64_t digits = 0;
  std::memcpy(&digits, &value, sizeof digits);
  digits |= 1;
  std::memcpy(&value, &digits, sizeof digits);
  return value;
}

TEST_F(InstructionTest, OfHalves) {
  using U16 = std::uint16_t;
  for (const auto& [type, digits] :
       std::initializer_list<std::pair<std::string, int>>{{"f16", 10}, {"bf16", 7}}) {
    const auto of = [&, digits = digits](auto f) {
      return [f, digits](U16 a, U16 b) {
        return NarrowHalf(
            f(static_cast<long double>(WideHalf(a, digits)), static_cast<long double>(WideHalf(b, digits))),
            digits);
      };
    };
    using L = long double;
    const auto same = [digits = digits](U16 a, U16 b) {
      const double x = WideHalf(a, digits), y = WideHalf(b, digits);
      return (x != x && y != y) || a == b;
    };
    // All that there are of one, against a few of the other.
    const auto check = [&](const std::string& instruction, auto expected) {
      Load(Kernel(".reg .b16 %a, %b, %d; .reg .b32 %r<5>; .reg .b64 %rd<9>;\n",
                  "ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];\n"
                  "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 256, %r1;\n"
                  "mul.wide.u32 %rd3, %r3, 2; add.u64 %rd4, %rd1, %rd3; add.u64 %rd5, %rd2, %rd3;\n"
                  "cvt.u16.u32 %a, %r3; ld.global.b16 %b, [%rd4];\n" +
                      instruction + "\nst.global.b16 [%rd5], %d;\n"));
      const std::vector<U16> in = Values<U16>(1 << 16);
      U16* const out = Device(std::vector<U16>(1 << 16));
      Launch("k", {256}, {256}, Device(in), out);
      for (std::uint32_t i = 0; i < 1 << 16; ++i) {
        const U16 a = static_cast<U16>(i), should = expected(a, in[i]);
        ASSERT_TRUE(same(out[i], should)) << instruction << " of " << std::hex << a << " and " << in[i]
                                          << " is " << out[i] << ", not " << should;
      }
    };
    check("add.rn." + type + " %d, %a, %b;", of([](L a, L b) { return a + b; }));
    check("sub." + type + " %d, %a, %b;", of([](L a, L b) { return a - b; }));
    check("mul." + type + " %d, %a, %b;", of([](L a, L b) { return a * b; }));
    check("fma.rn." + type + " %d, %a, %b, %a;", of(SumWithProduct));
    check("max." + type + " %d, %a, %b;", of([](L a, L b) { return std::fmax(a, b); }));
    check("neg." + type + " %d, %a;", [](U16 a, U16) { return static_cast<U16>(a ^ 0x8000); });
    check("abs." + type + " %d, %a;", [](U16 a, U16) { return static_cast<U16>(a & 0x7fff); });
    check(".reg .pred %p; setp.lt." + type + " %p, %a, %b; selp.b16 %d, 1, 0, %p;",
          [digits = digits](U16 a, U16 b) {
            return static_cast<U16>(WideHalf(a, digits) < WideHalf(b, digits) ? 1 : 0);
          });
    check(".reg .f32 %f; cvt.f32." + type + " %f, %a; cvt.rn." + type + ".f32 %d, %f;",
          [](U16 a, U16) { return a; });
  }
  Binary<U16, float>("cvt.rn.f16.f32 %d, %a;", [](float a, float) { return NarrowHalf(a, 10); });
  Binary<U16, float>("cvt.rn.bf16.f32 %d, %a;", [](float a, float) { return NarrowHalf(a, 7); });
  Binary<U16, double>("cvt.rn.f16.f64 %d, %a;", [](double a, double) { return NarrowHalf(a, 10); });
  Binary<U16, std::int32_t>("cvt.rn.f16.s32 %d, %a;",
                            [](std::int32_t a, std::int32_t) { return NarrowHalf(a, 10); });
  Binary<std::uint32_t, float>("cvt.rn.f16x2.f32 %d, %a, %b;", [](float a, float b) {
    return static_cast<std::uint32_t>(NarrowHalf(a, 10)) << 16 | NarrowHalf(b, 10);
  });
  Binary<std::uint32_t, std::uint32_t>("mul.f16x2 %d, %a, %b;", [](std::uint32_t a, std::uint32_t b) {
    std::uint32_t out = 0;
    for (const int at : {0, 16}) {
      const double product =
          WideHalf(static_cast<U16>(a >> at), 10) * WideHalf(static_cast<U16>(b >> at), 10);
      out |= static_cast<std::uint32_t>(NarrowHalf(product, 10)) << at;
    }
    return out;
  });
}

TEST_F(InstructionTest, OfSeveralWords) {
  using U64 = std::uint64_t;
  using Wide = unsigned __int128;
  Binary<U64, U64>(
      ".reg .b32 %x<9>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "add.cc.u32 %x5, %x1, %x3; addc.u32 %x6, %x2, %x4; mov.b64 %d, {%x5, %x6};",
      [](U64 a, U64 b) { return a + b; });
  Binary<U64, U64>(
      ".reg .b32 %x<9>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "sub.cc.u32 %x5, %x1, %x3; subc.u32 %x6, %x2, %x4; mov.b64 %d, {%x5, %x6};",
      [](U64 a, U64 b) { return a - b; });
  Binary<U64, U64>("add.cc.u64 %d, %a, %b; addc.cc.u64 %d, %a, 0; addc.u64 %d, %b, 0;", [](U64 a, U64 b) {
    const Wide sum = static_cast<Wide>(a) + b;
    return b + static_cast<U64>((static_cast<Wide>(a) + static_cast<U64>(sum >> 64)) >> 64);
  });
  // The upper word of a product of two, of four products.
  Binary<U64, U64>(
      ".reg .b32 %x<12>; mov.b64 {%x1, %x2}, %a; mov.b64 {%x3, %x4}, %b;\n"
      "mul.lo.u32 %x5, %x1, %x3; mul.hi.u32 %x6, %x1, %x3;\n"
      "mad.lo.cc.u32 %x6, %x1, %x4, %x6; madc.hi.u32 %x7, %x1, %x4, 0;\n"
      "mad.lo.cc.u32 %x6, %x2, %x3, %x6; madc.hi.cc.u32 %x7, %x2, %x3, %x7; addc.u32 %x8, 0, 0;\n"
      "mad.lo.cc.u32 %x7, %x2, %x4, %x7; madc.hi.u32 %x8, %x2, %x4, %x8; mov.b64 %d, {%x7, %x8};",
      [](U64 a, U64 b) { return static_cast<U64>(static_cast<Wide>(a) * b >> 64); });
}

TEST_F(InstructionTest, OfBits) {
  using U32 = std::uint32_t;
  using U64 = std::uint64_t;
  Binary<U32, U32>("popc.b32 %d, %a;", [](U32 a, U32) { return std::popcount(a); });
  Binary<U32, U64>("clz.b64 %d, %a;", [](U64 a, U64) { return std::countl_zero(a); });
  Binary<U32, U32>("bfind.u32 %d, %a;",
                   [](U32 a, U32) { return a == 0 ? ~0u : 31 - static_cast<U32>(std::countl_zero(a)); });
  Binary<U32, U32>("shf.l.wrap.b32 %d, %a, %b, 7;", [](U32 a, U32 b) { return b << 7 | a >> 25; });
  Binary<U32, U32>("prmt.b32 %d, %a, %b, 0x4321;", [](U32 a, U32 b) { return a >> 8 | b << 24; });
  Binary<U32, U32>("bfe.u32 %d, %a, 5, 9;", [](U32 a, U32) { return a >> 5 & 0x1ff; });
  Binary<std::int32_t, std::int32_t>("bfe.s32 %d, %a, 5, 9;", [](std::int32_t a, std::int32_t) {
    return static_cast<std::int32_t>(static_cast<U32>(a) << 18) >> 23;
  });
  Binary<U32, U32>("bfi.b32 %d, %a, %b, 5, 9;",
                   [](U32 a, U32 b) { return (b & ~(0x1ffu << 5)) | (a & 0x1ff) << 5; });
  Binary<U32, U32>("lop3.b32 %d, %a, %b, %a, 0x66;", [](U32 a, U32 b) { return b ^ a; });
  Binary<U64, U32>("mov.b64 %d, {%a, %b};", [](U32 a, U32 b) { return U64{b} << 32 | a; });
  Binary<U32, U64>("mov.b64 {%r2, %d}, %a;", [](U64 a, U64) { return a >> 32; });
  Binary<U64, U32>("mul.wide.u32 %d, %a, %b;", [](U32 a, U32 b) { return U64{a} * b; });
  Binary<std::int64_t, std::int32_t>("mad.wide.s32 %d, %a, %b, 5;",
                                     [](std::int64_t a, std::int64_t b) { return a * b + 5; });
  Binary<std::int16_t, std::int64_t>("cvt.sat.s16.s64 %d, %a;", [](std::int64_t a, std::int64_t) {
    return std::clamp<std::int64_t>(a, -32768, 32767);
  });
  Binary<std::int64_t, std::int16_t>("cvt.s64.s16 %d, %a;", [](std::int16_t a, std::int16_t) { return a; });
  Binary<float, float>("add.sat.f32 %d, %a, %b;",
                       [](float a, float b) { return a + b > 0 ? std::min(a + b, 1.f) : 0.f; });
}

TEST_F(InstructionTest, BetweenLanes) {
  using U32 = std::uint32_t;
  const auto lane_of = [](auto&& shuffled) {
    return [shuffled, i = std::make_shared<U32>(0)](U32, U32) mutable { return shuffled((*i)++ % 32); };
  };
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.bfly.b32 %d, %a, 5, 0x1f, -1;",
                   lane_of([](U32 lane) { return lane ^ 5; }));
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.up.b32 %d, %a, 3, 0, -1;",
                   lane_of([](U32 lane) { return lane < 3 ? lane : lane - 3; }));
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.down.b32 %d, %a, 3, 0x181f, -1;",
                   lane_of([](U32 lane) { return lane % 8 + 3 < 8 ? lane + 3 : lane; }));
  // By constants, which have handlers of their own, into another register and their own; by less than a warp.
  for (U32 by = 0; by < 32; ++by) {
    const std::string text = std::to_string(by);
    const auto predicate = [](const std::string& shuffle) {
      return ".reg .pred %p; mov.u32 %a, %laneid; " + shuffle +
             " selp.u32 %r2, 100, 0, %p; add.u32 %d, %d, %r2;";
    };
    const auto moved = [](bool good, U32 source, U32 lane) { return good ? source + 100 : lane; };
    for (const std::string to : {"%d", "%a"}) {
      const std::string rest = "|%p, %a, " + text + ", ", move = to == "%a" ? " mov.u32 %d, %a;" : "";
      Binary<U32, U32>(predicate("shfl.sync.down.b32 " + to + rest + "31, -1;" + move),
                       lane_of([&](U32 lane) { return moved(lane + by < 32, lane + by, lane); }));
      Binary<U32, U32>(predicate("shfl.sync.up.b32 " + to + rest + "0, -1;" + move),
                       lane_of([&](U32 lane) { return moved(lane >= by, lane - by, lane); }));
      Binary<U32, U32>(predicate("shfl.sync.bfly.b32 " + to + rest + "31, -1;" + move),
                       lane_of([&](U32 lane) { return moved(true, lane ^ by, lane); }));
    }
    Binary<U32, U32>(
        "mov.u32 %a, %laneid; mov.u32 %d, 7; .reg .pred %q; setp.lt.u32 %q, %a, 16;\n@%q "
        "shfl.sync.down.b32 %d, %a, " +
            text + ", 31, 0xffff;",
        lane_of([&](U32 lane) { return lane >= 16       ? 7
                                       : lane + by < 32 ? lane + by
                                                        : lane; }));
  }
  Binary<U32, U32>("mov.u32 %a, %laneid; shfl.sync.idx.b32 %d, %a, 9, 0x1f, -1;",
                   lane_of([](U32) { return 9; }));
  Binary<U32, U32>(
      ".reg .pred %p; mov.u32 %a, %laneid; setp.gt.u32 %p, %a, 20; vote.sync.ballot.b32 %d, %p, -1;",
      lane_of([](U32) { return ~((1u << 21) - 1); }));
  Binary<U32, U32>(
      ".reg .pred %p<3>; mov.u32 %a, %laneid; setp.gt.u32 %p1, %a, 20; vote.sync.any.pred %p2, %p1, -1; "
      "selp.u32 %d, 1, 0, %p2;",
      lane_of([](U32) { return 1; }));
  Binary<U32, U32>("mov.u32 %d, %lanemask_lt;", lane_of([](U32 lane) { return (1u << lane) - 1; }));
}

TEST_F(InstructionTest, LanesFindTheirLike) {
  constexpr std::uint32_t kCount = 96;
  const auto run = [this](const std::string& instructions) {
    Load(Kernel(".reg .pred %p, %q; .reg .b32 %r<5>; .reg .b64 %rd<5>;\n",
                "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;\n"
                "add.u64 %rd3, %rd1, %rd2;\n" +
                    instructions + "\nst.global.u32 [%rd3], %r3;\n"));
    std::uint32_t* const out = Device(std::vector<std::uint32_t>(kCount));
    Launch("k", {1}, {kCount}, std::uint64_t{0}, out);
    return std::vector<std::uint32_t>(out, out + kCount);
  };
  const auto value = [](std::uint32_t thread) { return thread * thread % 5; };
  std::vector<std::uint32_t> should(kCount);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    for (std::uint32_t lane = 0; lane < 32; ++lane)
      should[i] |= static_cast<std::uint32_t>(value(i / 32 * 32 + lane) == value(i)) << lane;
  }
  EXPECT_EQ(run("mul.lo.u32 %r2, %r1, %r1; rem.u32 %r2, %r2, 5; match.any.sync.b32 %r3, %r2, -1;"), should);
  EXPECT_EQ(run("mul.lo.u32 %r2, %r1, %r1; rem.u32 %r2, %r2, 5; cvt.u64.u32 %rd4, %r2;\n"
                "match.any.sync.b64 %r3, %rd4, -1;"),
            should);
  // The second warp's lanes differ.
  for (std::uint32_t i = 0; i < kCount; ++i) should[i] = i / 32 == 1 ? 3 : ~0u;
  EXPECT_EQ(run("shr.u32 %r2, %r1, 5; setp.eq.u32 %p, %r2, 1; selp.u32 %r2, %r1, 7, %p;\n"
                "match.all.sync.b32 %r3|%q, %r2, -1; @!%q mov.u32 %r3, 3;"),
            should);
}

TEST_F(InstructionTest, AddressesOfSharedAndLocalMemoryBeginAtZero) {
  Load(
      ".version 7.1\n.target sm_80\n.address_size 64\n.shared .b32 first[4];\n.extern .shared .b32 more[];\n"
      ".visible .entry k(.param .u64 out) {\n.local .align 8 .b64 own[2];\n"
      ".reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .pred %p<9>;\n"
      "ld.param.u64 %rd1, [out];\n"
      // By number, without a name; by a name's address; by one of 32 bits; generic ones.
      "mov.u64 %rd2, 4; st.shared.u32 [%rd2], 11; st.shared.u32 [8], 12;\n"
      "mov.u64 %rd3, first; st.shared.u32 [%rd3], 10; mov.u32 %r1, more; st.shared.u32 [%r1+4], 14;\n"
      "cvta.shared.u64 %rd4, %rd3; st.u32 [%rd4+12], 13; cvta.to.shared.u64 %rd5, %rd4;\n"
      "mov.u64 %rd6, own; st.local.u64 [%rd6+8], 15; cvta.local.u64 %rd7, %rd6; ld.u64 %rd8, [%rd7+8];\n"
      "isspacep.shared %p1, %rd4; isspacep.local %p2, %rd7; isspacep.shared %p3, %rd3;\n"
      "ld.shared.u32 %r2, [first]; st.global.u32 [%rd1], %r2; ld.shared.u32 %r2, [%rd5+4]; st.global.u32 "
      "[%rd1+4], %r2;\n"
      "ld.shared.u32 %r2, [first+8]; st.global.u32 [%rd1+8], %r2; ld.shared.u32 %r2, [%rd5+12]; "
      "st.global.u32 [%rd1+12], %r2;\n"
      "atom.shared.add.u32 %r2, [more+4], 1; st.global.u32 [%rd1+16], %r2; st.global.u32 [%rd1+20], %rd8;\n"
      "selp.u32 %r2, 1, 0, %p1; selp.u32 %r3, 2, %r2, %p2; selp.u32 %r4, 4, %r3, %p3; add.u32 %r4, %r4, "
      "%r2;\n"
      "st.global.u32 [%rd1+24], %r4; st.global.u32 [%rd1+28], %rd3; st.global.u32 [%rd1+32], "
      "%r1;\nret;\n}\n");
  dynamic_ = 8;
  auto* const out = Device(std::vector<std::uint32_t>(9));
  Launch("k", {1}, {1}, out);
  EXPECT_THAT(std::vector(out, out + 9), ::testing::ElementsAre(10, 11, 12, 13, 14, 15, 1 + 2, 0, 16));
}

TEST_F(InstructionTest, RegistersHoldWhatWasWrittenLast) {
  // What is constant is there from the beginning, unless anything else writes the register.
  Load(
      ".version 7.1\n.target sm_80\n.address_size 64\n"
      ".visible .entry k(.param .u64 out, .param .u32 seven) {\n"
      ".reg .b64 %rd<4>; .reg .b32 %r<12>; .reg .pred %p<4>;\n"
      "ld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd2, %rd1; mov.u64 %rd3, %rd2; ld.param.u32 %r1, "
      "[seven];\n"
      "mov.u32 %r2, %r1; st.global.u32 [%rd3], %r2; mov.u32 %r3, 5; mov.u32 %r4, %r3; mov.u32 %r3, 6;\n"
      "st.global.u32 [%rd3+4], %r4; st.global.u32 [%rd3+8], %r3;\n"
      "mov.u32 %r5, 1; setp.eq.u32 %p1, %r1, 7; setp.ne.u32 %p2, %r1, 7; @%p2 mov.u32 %r6, 2; @!%p2 mov.u32 "
      "%r6, 3;\n"
      "st.global.u32 [%rd3+12], %r6; mov.u32 %r7, 0; mov.u32 %r8, 10;\n"
      // A copy of what the loop changes, and branches that are turned round.
      "AGAIN: mov.u32 %r9, %r8; add.u32 %r7, %r7, %r9; sub.u32 %r8, %r8, %r5; setp.eq.u32 %p3, %r8, 0;\n"
      "@%p3 bra DONE; bra.uni AGAIN;\nDONE: st.global.u32 [%rd3+16], %r7;\n"
      "@!%p1 bra NEVER; bra THERE;\nNEVER: trap;\nTHERE: st.global.u32 [%rd3+20], %r1;\nret;\n}\n");
  auto* const out = Device(std::vector<std::uint32_t>(6));
  Launch("k", {1}, {32}, out, std::uint32_t{7});
  EXPECT_THAT(std::vector(out, out + 6), ::testing::ElementsAre(7, 5, 6, 3, 55, 7));
}

TEST_F(InstructionTest, AddressesAreLookedAtAnewWhenTheyMayHaveChanged) {
  // Of 32 lanes in order, then backwards, then all the same; by elements of other sizes; with some of the
  // lanes.
  Load(Kernel(
      ".reg .b32 %r<16>; .reg .b64 %rd<9>; .reg .pred %p;\n",
      "ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4;\n"
      "mul.wide.u32 %rd4, %r1, 32; add.u64 %rd5, %rd2, %rd4; add.u64 %rd6, %rd1, %rd3;\n"
      "ld.global.u32 %r2, [%rd6]; ld.global.u32 %r3, [%rd6+4]; ld.global.u8 %r4, [%rd6+4];\n"
      "sub.u32 %r5, 31, %r1; mul.wide.u32 %rd7, %r5, 4; add.u64 %rd6, %rd1, %rd7; ld.global.u32 %r6, "
      "[%rd6];\n"
      "mov.u64 %rd6, %rd1; ld.global.u32 %r7, [%rd6+8];\n"
      "add.u64 %rd6, %rd1, %rd3; setp.lt.u32 %p, %r1, 64; @%p ld.global.u32 %r8, [%rd6];\n"
      "ld.global.u32 %r9, [%rd6+8]; st.global.u32 [%rd5], %r2; st.global.u32 [%rd5+4], %r3; st.global.u32 "
      "[%rd5+8], %r4;\n"
      "st.global.u32 [%rd5+12], %r6; st.global.u32 [%rd5+16], %r7; st.global.u32 [%rd5+20], %r8; "
      "st.global.u32 [%rd5+24], %r9;\n"
      // Stored in order, by a register whose addresses loads have looked at.
      "st.global.u32 [%rd6], %r5; st.global.u32 [%rd5+28], %r1;\n"));
  std::vector<std::uint32_t> in(40);
  for (std::uint32_t i = 0; i < in.size(); ++i) in[i] = 1000 + 3 * i;
  auto* const device_in = Device(in);
  auto* const out = Device(std::vector<std::uint32_t>(32 * 8));
  Launch("k", {1}, {32}, device_in, out);
  for (std::uint32_t i = 0; i < 32; ++i) {
    EXPECT_THAT(
        std::vector(out + 8 * i, out + 8 * i + 8),
        ::testing::ElementsAre(in[i], in[i + 1], in[i + 1] & 255, in[31 - i], in[2], in[i], in[i + 2], i));
    EXPECT_EQ(device_in[i], 31 - i);
  }
}

TEST_F(InstructionTest, WidthsOfRegistersAreMinded) {
  // The lower part of a wide register, whose sign fills the whole; and vectors, of which some is not wanted.
  Load(Kernel(
      ".reg .b64 %rd<12>; .reg .b32 %r<4>;\n",
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 32; add.u64 %rd3, %rd1, %rd2;\n"
      "mov.u32 %r2, 7; sub.u32 %r2, %r2, %r1; cvt.u64.u32 %rd4, %r2; cvt.s64.s32 %rd5, %rd4; st.global.u64 "
      "[%rd3], %rd5;\n"
      "cvt.s64.s8 %rd6, %rd4; st.global.u64 [%rd3+8], %rd6; ld.global.v2.u32 {%rd7, _}, [%rd3]; "
      "st.global.u64 [%rd3+16], %rd7;\n"
      "st.global.v2.u32 [%rd3+24], {%rd7, %rd4};\n"));
  auto* const out = Device(std::vector<std::uint64_t>(32 * 4));
  Launch("k", {1}, {32}, std::uint64_t{0}, out);
  for (std::uint64_t i = 0; i < 32; ++i) {
    const std::uint64_t value = 7 - i, lower = value & 0xffff'ffff;
    EXPECT_THAT(std::vector(out + 4 * i, out + 4 * i + 4),
                ::testing::ElementsAre(value, value, lower, lower << 32 | lower));
  }
  const auto refused = [&](const char* text) {
    return Refusal(Kernel(".reg .b64 %rd<4>; .reg .b32 %r<4>; .reg .pred %p;\n", text));
  };
  for (const char* mixed : {"ld.global.v2.u32 {%rd2, %r1}, [%rd1];", "ld.param.v2.u32 {%r1, %rd2}, [in];",
                            "st.global.v2.u32 [%rd1], {%rd2, %r1};", "st.global.v2.u32 [%rd1], {%rd1, 5};"})
    EXPECT_THAT(refused(mixed), ::testing::HasSubstr("not of one width")) << mixed;
  EXPECT_THAT(refused("ld.param.u64 %rd1, [in]; cvta.to.glboal.u64 %rd2, %rd1;"),
              ::testing::HasSubstr("glboal"));
  EXPECT_THAT(Refusal(".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry inner() {ret;}\n"
                      ".visible .entry outer() {call inner; ret;}\n"),
              ::testing::HasSubstr("inner, which is a kernel"));
}

TEST_F(InstructionTest, AtomicsOfManyBlocksLoseNothing) {
  threads_ = std::make_unique<HostThreads>(4);
  Load(Kernel(
      ".reg .b32 %r<9>; .reg .b64 %rd<5>; .reg .f32 %f<2>;\n",
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;\n"
      "atom.global.add.u32 %r2, [%rd1], 1; red.global.max.s32 [%rd1+4], %r1; atom.global.inc.u32 %r3, "
      "[%rd1+8], 9;\n"
      "atom.global.add.f32 %f1, [%rd1+12], 0f3F000000; mov.u64 %rd2, 3; atom.add.u64 %rd3, [%rd1+16], %rd2;\n"
      "AGAIN: ld.volatile.global.u32 %r4, [%rd1+24]; add.u32 %r5, %r4, 2; atom.global.cas.b32 %r6, "
      "[%rd1+24], %r4, %r5;\n"
      ".reg .pred %p; setp.ne.u32 %p, %r6, %r4; @%p bra AGAIN;\n"));
  struct {
    std::uint32_t added;
    std::int32_t most;
    std::uint32_t wrapped;
    float halves;
    std::uint64_t wide;
    std::uint32_t swapped;
  } start{0, -5, 0, 0, 0, 0};
  auto* const out = Device(std::vector{start});
  Launch("k", {40}, {64}, std::uint64_t{0}, out);
  EXPECT_EQ(out->added, 2560u);
  EXPECT_EQ(out->most, 63);
  EXPECT_EQ(out->wrapped, 2560u % 10);
  EXPECT_EQ(out->halves, 1280.f);
  EXPECT_EQ(out->wide, 3 * 2560u);
  EXPECT_EQ(out->swapped, 2 * 2560u);
}

}  // namespace
}  // namespace tulle::gpu::softcuda
