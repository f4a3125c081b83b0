#!/bin/sh
# check_library.sh LIBRARY [SANITIZER]: what goes into programs needs only the C library, exports only what an
# ICD loader asks for, stays loaded, and loads with glibc 2.28 and later.
set -eu
library=$1
if [ -n "${2:-}" ]; then
  echo "skipped: this build of $library needs and exports what $2 sanitizers do, and goes into no program"
  exit 77
fi

needed=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
for name in $needed; do
  case $name in
    libc.so.6 | libm.so.6 | libpthread.so.0 | libdl.so.2 | ld-linux-*) ;;
    *) echo "$library needs $name; only the C library is allowed" >&2; exit 1 ;;
  esac
done

versions=$(objdump -T "$library" | grep -o 'GLIBC_[0-9.]*' | sort -uV)
newest=$(printf '%s\nGLIBC_2.28\n' "$versions" | sort -V | tail -n 1)
if [ -z "$versions" ] || [ "$newest" != GLIBC_2.28 ]; then
  echo "$library needs ${newest:-no version of glibc at all}; tulle/shim/libc is to keep it at GLIBC_2.28:" >&2
  objdump -T "$library" | grep "$newest" >&2
  exit 1
fi

exported=$(nm -D --defined-only "$library" | awk '{print $3}' | sort | tr '\n' ' ')
expected="clGetExtensionFunctionAddress clGetPlatformInfo clIcdGetPlatformIDsKHR "
if [ "$exported" != "$expected" ]; then
  echo "$library exports: $exported(expected: $expected)" >&2
  exit 1
fi

flags=$(readelf -d "$library" | grep '(FLAGS' | tr '\n' ' ')
for flag in SYMBOLIC BIND_NOW NODELETE; do
  case $flags in
    *$flag*) ;;
    *) echo "$library is not linked with $flag" >&2; exit 1 ;;
  esac
done
