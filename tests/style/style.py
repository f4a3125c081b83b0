#!/usr/bin/env python3
"""Style checks of the whole tree; the rules are in rules.toml beside this file.

  style.py includes ROOT           folders include only what they may
  style.py headers ROOT BUILD      each header compiles alone
  style.py hygiene ROOT            what no file may hold, and links between documents

Prints one line per breach, "file:line: what, and what to do", and ends with 1 when there was any.
"""

import fnmatch
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RULES = tomllib.loads((Path(__file__).parent / "rules.toml").read_text())
SOURCE_SUFFIXES = {".h", ".cc"}


@functools.cache
def project_files(root):
    """Every file of the project: what git tracks or would, else what is there outside build/."""
    git = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         capture_output=True, text=True)
    if git.returncode == 0:
        names = git.stdout.split("\0")
    else:
        names = [str(p.relative_to(root)) for p in root.rglob("*") if p.parts[len(root.parts)] != "build"]
    return sorted(name for name in set(names) if name and (root / name).is_file() and not (root / name).is_symlink())


def matches(text, patterns):
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def longest_match(text, table):
    found = [pattern for pattern in table if fnmatch.fnmatchcase(text, pattern)]
    return max(found, key=len) if found else None


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


# --- includes ---------------------------------------------------------------------------------------------

KEYWORDS = {"DEPS", "LIBS", "TEST_DEPS", "LABEL"}


def read_modules(root):
    """{folder: {"DEPS": [folder...], "TEST_DEPS": [...]}} from the tulle_module calls under tulle/."""
    modules = {}
    for name in project_files(root):
        if not re.fullmatch(r"tulle/.*CMakeLists\.txt", name):
            continue
        text = re.sub(r"#.*", "", (root / name).read_text())
        call = re.search(r"\btulle_module\s*\(([^)]*)\)", text)
        if not call:
            continue
        lists, current = {key: [] for key in KEYWORDS}, None
        for word in call.group(1).split():
            if word in KEYWORDS:
                current = word
            elif current:
                lists[current].append(word)
        modules[os.path.dirname(name)] = lists
    folders = {folder.replace("/", "_"): folder for folder in modules}
    for lists in modules.values():
        for key in ("DEPS", "TEST_DEPS"):
            lists[key] = [folders[target] for target in lists[key] if target in folders]
    return modules


def reachable(modules, starts):
    seen, queue = set(), list(starts)
    while queue:
        folder = queue.pop()
        if folder not in seen:
            seen.add(folder)
            queue += modules[folder]["DEPS"]
    return seen


def module_of(modules, name):
    """The innermost module folder that holds `name`, or its own folder where there is none."""
    folder = os.path.dirname(name)
    while folder:
        if folder in modules:
            return folder
        folder = os.path.dirname(folder)
    return None


def is_for_tests(name):
    """Tests, and the headers that several of them share."""
    return name.endswith("_test.cc") or fnmatch.fnmatchcase(os.path.basename(name), "test_*.h")


def check_includes(root):
    modules = read_modules(root)
    breaches = []
    for folder, lists in sorted(modules.items()):
        rule = longest_match(folder, RULES["depends"])
        if rule is None:
            breaches.append(f"{folder}/CMakeLists.txt:1: {folder} is a new folder: say in rules.toml what it may depend on")
            continue
        for target in lists["DEPS"]:
            if not matches(target, RULES["depends"][rule]):
                breaches.append(f"{folder}/CMakeLists.txt:1: {folder} may not depend on {target}; rules.toml lists what it may")
    for name in project_files(root):
        if Path(name).suffix not in SOURCE_SUFFIXES:
            continue
        text = (root / name).read_text()
        folder = module_of(modules, name)
        if name.startswith("tulle/") and folder is None:
            breaches.append(f"{name}:1: this folder has no tulle_module() in a CMakeLists.txt, so nothing says what it may include")
            continue
        if folder:
            starts = [folder] + (modules[folder]["TEST_DEPS"] if is_for_tests(name) else [])
            allowed = reachable(modules, starts)
        for include in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', text, re.M):
            header, place = include.group(2), f"{name}:{line_of(text, include.start())}"
            if header.startswith("tulle/") and not header.endswith(".pb.h"):  # generated ones: see [headers]
                target = module_of(modules, header)
                if folder and target not in allowed:
                    breaches.append(f"{place}: includes {header}, but {target or 'its folder'} is not in the DEPS of {folder}/CMakeLists.txt")
                if target == "tulle/sim" and not name.startswith(("tulle/sim/", "tests/")):
                    breaches.append(f"{place}: includes {header}: only tests may include the simulator")
            elif include.group(1) == '"' and name.startswith("tulle/") and not header.startswith("tulle/"):
                breaches.append(f'{place}: includes "{header}": write the path from the root, "tulle/..."')
            rule = longest_match(header, RULES["headers"])
            if rule and not matches(folder or os.path.dirname(name), RULES["headers"][rule]):
                breaches.append(f"{place}: includes {header}, which only {', '.join(RULES['headers'][rule])} may")
    return breaches


# --- headers ----------------------------------------------------------------------------------------------


def include_flags(root, build):
    """{folder: -I and -isystem flags} as the build uses them for each folder, and "" for any other."""
    flags = {"": [f"-I{root}"]}
    database = build / "compile_commands.json"
    for entry in json.loads(database.read_text()) if database.is_file() else []:
        words = entry["command"].split()
        found = [w for i, w in enumerate(words) if w.startswith("-I") or w == "-isystem" or words[i - 1] == "-isystem"]
        file = Path(entry["directory"], entry["file"])
        if file.is_relative_to(root):
            flags.setdefault(str(file.parent.relative_to(root)), found)
    return flags


def is_fresh(stamp, depfile):
    """Whether nothing that the header reached has changed since it last compiled."""
    if not stamp.is_file() or not depfile.is_file():
        return False
    compiled = stamp.stat().st_mtime
    try:
        return all(os.stat(d).st_mtime < compiled for d in depfile.read_text().replace("\\\n", " ").split()[1:])
    except FileNotFoundError:
        return False


def is_proved_by_its_source(root, name):
    """Whether the header is the first that the source file of its name includes: the build compiles it alone then."""
    source = (root / name).with_suffix(".cc")
    if not source.exists():
        return False
    first = re.search(r"^#include\s+(\S+)", source.read_text(), re.M)
    return first is not None and first.group(1) == f'"{name}"'


def check_headers(root, build):
    flags = include_flags(root, build)
    cache = build / "style"
    cache.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "g++")

    def check(name):
        folder = os.path.dirname(name)
        while folder and folder not in flags:
            folder = os.path.dirname(folder)
        command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-missing-field-initializers",
                   "-Wno-pragma-once-outside-header", *flags[folder], "-x", "c++", str(root / name)]
        key = hashlib.sha256(" ".join(command).encode()).hexdigest()[:24]
        stamp, depfile = cache / f"{key}.ok", cache / f"{key}.d"
        if is_fresh(stamp, depfile):
            return None
        done = subprocess.run(command + ["-MD", "-MF", str(depfile)], capture_output=True, text=True)
        if done.returncode == 0:
            stamp.touch()
            return None
        stamp.unlink(missing_ok=True)
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
        return f"{name}:1: does not compile alone: {first.strip()}"

    names = [name for name in project_files(root) if name.endswith(".h") and not is_proved_by_its_source(root, name)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [breach for breach in pool.map(check, names) if breach]


# --- hygiene ----------------------------------------------------------------------------------------------

BANNED = [
    (re.compile(r"\b(TODO|FIXME|XXX|HACK)\b"), "open ends belong in the issue tracker"),
    (re.compile(r"(?<![\w.$}-])/(home|work|Users)/\w+"), "a path of one machine"),
    (re.compile(r"[ \t]+$", re.M), "trailing space"),
    (re.compile(r"\r"), "carriage return"),
    (re.compile(r"^(<<<<<<<|>>>>>>>) ", re.M), "merge conflict"),
]
SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|time\.sleep|sleep\s*\(|sleep\s+[\d.$])")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)|(?:src|href)=\"([^\"#]+)\"")


def check_hygiene(root):
    breaches = []
    modules = read_modules(root)
    for name in project_files(root):
        raw = (root / name).read_bytes()
        if b"\0" in raw:
            continue
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            breaches.append(f"{name}:1: is not UTF-8")
            continue
        if text and not text.endswith("\n"):
            breaches.append(f"{name}:{line_of(text, len(text))}: no newline at the end of the file")
        if matches(name, RULES["hygiene"]["skip"]):
            continue
        for pattern, why in BANNED:
            breaches += [f"{name}:{line_of(text, m.start())}: {m.group().strip()!r}: {why}" for m in pattern.finditer(text)]
        if "\t" in text:
            breaches.append(f"{name}:{line_of(text, text.index(chr(9)))}: tab")
        is_test = name.endswith("_test.cc") or name.startswith("tests/")
        if is_test and not matches(name, RULES["hygiene"]["may_sleep"]):
            breaches += [f"{name}:{line_of(text, m.start())}: sleeps; wait for a condition with a deadline"
                         for m in SLEEP.finditer(text)]
        if name.endswith(".h"):
            if "#pragma once" not in text:
                breaches.append(f"{name}:1: no #pragma once")
            if not text.startswith("//"):
                breaches.append(f"{name}:1: a header opens with a comment that says what it is")
        if name.endswith(".md"):
            for link in LINK.finditer(text):
                target = link.group(1) or link.group(2)
                if "://" not in target and not target.startswith("mailto:") and not (root / name).parent.joinpath(target).exists():
                    breaches.append(f"{name}:{line_of(text, link.start())}: link to {target}, which is not there")
    architecture = root / "docs/ARCHITECTURE.md"
    if architecture.is_file():
        text = architecture.read_text()
        breaches += [f"docs/ARCHITECTURE.md:1: says nothing about {folder}"
                     for folder in sorted(modules) if f"`{folder}`" not in text]
    return breaches


def main(arguments):
    checks = {"includes": (check_includes, 1), "headers": (check_headers, 2), "hygiene": (check_hygiene, 1)}
    if not arguments or arguments[0] not in checks or len(arguments) != 1 + checks[arguments[0]][1]:
        sys.exit(__doc__)
    check = checks[arguments[0]][0]
    breaches = check(*(Path(argument).resolve() for argument in arguments[1:]))
    print("\n".join(breaches) if breaches else f"{arguments[0]}: nothing found")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
