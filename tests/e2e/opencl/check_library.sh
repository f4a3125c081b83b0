#!/bin/sh
# check_library.sh LIBRARY [SANITIZER]: what goes into programs needs only the C library, exports only what an
# ICD loader asks for, and stays loaded.
set -eu
library=$1
if [ -n "${2:-}" ]; then
  echo "skipped: this build of $library needs and exports what $2 sanitizers do, and goes into no program"
  exit 77
fi

needed=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
for name in $needed; do
  case $name in
    libc.so.6 | libm.so.6 | ld-linux-*) ;;
    *) echo "$library needs $name; only the C library is allowed" >&2; exit 1 ;;
  esac
done

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
