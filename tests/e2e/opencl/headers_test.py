#!/usr/bin/env python3
"""headers_test.py ENTRY_POINTS.H UNSUPPORTED.H: every core function of the system's OpenCL headers is in exactly one
of the two lists, and neither names a function that no header has."""

import re
import sys
from pathlib import Path

HEADERS = Path("/usr/include/CL")


def declared(header):
    """Functions that a header declares, without their "cl"."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", (HEADERS / header).read_text(), flags=re.S)
    return set(re.findall(r"\bCL_API_CALL\s+cl([A-Z]\w*)\s*\(", text))


def listed(path):
    return re.findall(r"\bX\((\w+)", re.sub(r"#define \w+\(X\)", "", Path(path).read_text()))


core = declared("cl.h")
everything = set().union(*(declared(header.name) for header in HEADERS.glob("cl*.h")))
offered, refused = listed(sys.argv[1]), listed(sys.argv[2])
# Of interfaces of other systems, whose headers need theirs.
foreign = {name for name in refused if re.search("D3D1[01]|DX9", name)}

wrong = []
if len(core) < 100:
    wrong.append(f"only {len(core)} core functions were found in {HEADERS}/cl.h")
for name in sorted(core - set(offered) - set(refused)):
    wrong.append(f"cl{name} is neither offered nor refused")
for name in sorted({name for name in offered + refused if (offered + refused).count(name) > 1}):
    wrong.append(f"cl{name} is listed twice")
for name in sorted((set(offered) | set(refused)) - everything - foreign):
    wrong.append(f"cl{name} is in no header")
print(f"{len(core & set(offered))} of {len(core)} core functions are offered; refused:",
      " ".join("cl" + name for name in sorted(core & set(refused))))
print("\n".join(wrong))
sys.exit(bool(wrong))
