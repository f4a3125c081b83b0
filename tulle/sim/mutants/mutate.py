#!/usr/bin/env python3
"""Writes the core's sources with the bugs of mutants.toml in them, each behind a switch, and a list of their names.

usage: mutate.py MUTANTS CORE_FOLDER OUT_FOLDER
"""

import sys
import tomllib
from pathlib import Path


def main():
    mutants_file, core, out = map(Path, sys.argv[1:])
    mutants = tomllib.loads(mutants_file.read_text())["mutant"]
    sources = {file.name: file.read_text() for file in core.glob("*.cc") if not file.name.endswith("_test.cc")}
    for number, mutant in enumerate(mutants, 1):
        source, old, new = sources[mutant["file"]], mutant["from"].strip("\n"), mutant["to"]
        if source.count(old) != 1:
            sys.exit(f"{mutants_file}: \"{mutant['name']}\": its text is {source.count(old)} times in {mutant['file']}, not once:\n{old}")
        switch = f"::tulle::sim::mutant == {number}"
        if mutant["kind"] == "statement":
            changed = f"{{ if ({switch}) {{ {new} }} else {{ {old} }} }}"  # also where it is the one statement of another if
        else:
            changed = f"({switch} ? ({new}) : ({old}))"
        sources[mutant["file"]] = source.replace(old, changed)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        (out / name).write_text(text)
    names = "".join(f'    "{mutant["name"]}",\n' for mutant in mutants)
    (out / "names.cc").write_text('#include "tulle/sim/mutants/switch.h"\n\nnamespace tulle::sim {\n'
                                  f"const std::vector<const char*> mutants = {{\n{names}}};\n}}  // namespace tulle::sim\n")


if __name__ == "__main__":
    main()
