"""What we declare of CUDA's driver API (tulle/cuda) against an installed cuda.h: every function of it is exported, with the
same parameters; values and layouts are the same. Usage: parity_test.py CUDA_H COMPILER [-v]; without such a file it says so and
ends with 77."""

import re
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CUDA_H, COMPILER = sys.argv.pop(1), sys.argv.pop(1)
if not Path(CUDA_H).is_file():
    print("skipped: no cuda.h is installed")
    sys.exit(77)
OLD_NAMES_TOO = "-D__CUDA_API_VERSION_INTERNAL"

TYPES = (ROOT / "tulle/cuda/types.h").read_text()
VERSION = int(re.search(r"kApiVersion = (\d+)", TYPES)[1])
HEADER_VERSION = int(re.search(r"#define CUDA_VERSION (\d+)", Path(CUDA_H).read_text())[1])

# Ends the list of attributes, and moves with every version of the API.
MOVES = {"CU_DEVICE_ATTRIBUTE_MAX"}

# Two functions take the same where their parameters are as many, of the same sizes, and pointers to the same.
SAME = """
#include <cstdint>
#include <type_traits>
template <class A, class B>
constexpr bool Same() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using X = std::remove_cv_t<std::remove_pointer_t<A>>;
    using Y = std::remove_cv_t<std::remove_pointer_t<B>>;
    if constexpr (std::is_void_v<X> || std::is_void_v<Y>) return true;
    else if constexpr (std::is_class_v<X> || std::is_union_v<X>) return std::is_class_v<Y> || std::is_union_v<Y>;
    else return Same<X, Y>();
  } else if constexpr (std::is_pointer_v<A> || std::is_pointer_v<B>) {
    return false;
  } else if constexpr (std::is_function_v<A> || std::is_function_v<B>) {
    return std::is_function_v<A> && std::is_function_v<B>;
  } else {
    return sizeof(A) == sizeof(B) && std::is_class_v<A> == std::is_class_v<B> &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
  }
}
template <class A, class B> struct SameFunction : std::false_type {};
template <class R, class... A, class S, class... B>
  requires(sizeof...(A) == sizeof...(B))
struct SameFunction<R(A...), S(B...)> : std::bool_constant<(Same<A, B>() && ...)> {};
"""


def rows(file, pattern):
    return re.findall(pattern, (ROOT / "tulle/cuda" / file).read_text(), re.M)


FUNCTIONS = {}  # by exported name: the parameters
for name, suffix, rest in rows("functions.inc", r"^TULLE_CUDA_FUNCTION\((\w+), (\w*), \d+, (\(.*\))\)$"):
    FUNCTIONS[name + suffix] = rest
for name, suffix, twin, rest in rows("functions.inc", r"^TULLE_CUDA_STREAM_FUNCTION\((\w+), (\w*), \d+, (\w+), (\(.*\)), \(.*?\)\)$"):
    FUNCTIONS[name + suffix] = FUNCTIONS[name + suffix + twin] = rest
UNSUPPORTED = set(rows("unsupported.inc", r"^TULLE_CUDA_UNSUPPORTED\((\w+)\)"))

ENUMERATORS = re.findall(r"\b(CU(?:DA)?_[A-Z0-9_a-z]+) = (?:0x)?[0-9a-f]+", TYPES)
RESULTS = rows("results.inc", r"^TULLE_CUDA_RESULT\((\w+),")


def layouts():
    """{struct: [its fields]} of types.h, those of nested ones left out."""
    found = {}
    for name, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", TYPES, re.M | re.S):
        body = re.sub(r"//.*", "", body)
        body = re.sub(r"struct \{.*?\}", "int", body, flags=re.S)
        found[name] = [field for line in body.split(";") for field in
                       re.findall(r"[\s*](\w+)(?:\[\d+\])?(?=,|$)", line.strip())]
    return found


def compile(*flags, source):
    return subprocess.run([COMPILER, "-std=c++20", "-w", "-x", "c++", *flags, f"-I{ROOT}", "-"], input=source, text=True,
                          capture_output=True)


def declared():
    done = compile("-E", "-P", OLD_NAMES_TOO, source=f'#include "{CUDA_H}"\n')
    if done.returncode:
        raise SystemExit(done.stderr)
    return set(re.findall(r"\bCUresult\s+(cu[A-Z]\w*)\s*\(", done.stdout)), set(re.findall(r"\b(CU(?:DA)?_\w+)\b", done.stdout))


NAMES, VALUES = declared()


class Parity(unittest.TestCase):
    maxDiff = None

    def check(self, before, after, *flags):
        """`before` sees our types alone, `after` the header, too."""
        source = f'#include "tulle/cuda/types.h"\n{SAME}\n{before}\n#include "{CUDA_H}"\n{after}\n'
        done = compile("-fsyntax-only", *flags, source=source)
        said = [line.split("error: ", 1)[1] for line in done.stderr.splitlines() if "error: " in line]
        self.assertEqual((done.returncode, said), (0, []))

    @unittest.skipIf(HEADER_VERSION > VERSION, f"{CUDA_H} is of CUDA {HEADER_VERSION}, newer than {VERSION}")
    def test_every_function_is_exported(self):
        self.assertGreater(len(NAMES), 500)
        self.assertEqual(sorted(NAMES - FUNCTIONS.keys() - UNSUPPORTED), [])

    def test_functions_take_the_same(self):
        checked = sorted(NAMES & FUNCTIONS.keys())
        self.assertGreater(len(checked), 200)
        ours = "namespace ours { using namespace tulle::cuda;\n" + "\n".join(
            f"using {name}_ = CUresult {FUNCTIONS[name]};" for name in checked) + "\n}"
        self.check(ours, "\n".join(
            f'static_assert(SameFunction<ours::{name}_, decltype(::{name})>::value, "{name}");' for name in checked), OLD_NAMES_TOO)

    def test_values_are_the_same(self):
        checked = sorted(VALUES & {*ENUMERATORS, *RESULTS} - MOVES)
        self.assertGreater(len(checked), 150)
        ours = "\n".join(f"constexpr auto ours_{name} = static_cast<long long>(tulle::cuda::{name});" for name in checked)
        self.check(ours, "\n".join(f'static_assert(ours_{name} == static_cast<long long>({name}), "{name}");' for name in checked))

    def test_layouts_are_the_same(self):
        structs = layouts()
        self.assertGreater(len(structs), 8)
        lines = [f'static_assert(sizeof(tulle::cuda::{name}) == sizeof(::{name}), "{name}");' for name in structs]
        lines += [f'static_assert(offsetof(tulle::cuda::{name}, {field}) == offsetof(::{name}, {field}) && '
                  f'sizeof(tulle::cuda::{name}::{field}) == sizeof(::{name}::{field}), "{name}.{field}");'
                  for name, fields in structs.items() for field in fields]
        self.assertGreater(len(lines), 100)
        self.check("", "\n".join(lines))


if __name__ == "__main__":
    unittest.main()
