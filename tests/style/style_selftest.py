#!/usr/bin/env python3
"""Each style check must be able to fail: a small tree with one planted breach of each kind, and the same tree without."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import style  # noqa: E402

GOOD = {
    "tulle/base/CMakeLists.txt": "tulle_module(DEPS)\n",
    "tulle/base/bytes.h": "// Bytes.\n#pragma once\nstruct Bytes {};\n",
    "tulle/wire/CMakeLists.txt": "tulle_module(DEPS tulle_base)\n",
    "tulle/wire/schema/buffer.h": '// A buffer.\n#pragma once\n#include "tulle/base/bytes.h"\nstruct Buffer { Bytes bytes; };\n',
    "tulle/session/CMakeLists.txt": "tulle_module(DEPS tulle_wire)  # tulle_sim\n",
    "tulle/session/session.cc": '#include "tulle/base/bytes.h"\n#include "tulle/wire/schema/buffer.h"\n',
    "tulle/shim/opencl/CMakeLists.txt": "tulle_module(DEPS tulle_session LIBS dl)\n",
    "tulle/shim/opencl/icd.cc": "#include <CL/cl.h>\n",
    "docs/ARCHITECTURE.md": "`tulle/base` `tulle/wire` `tulle/session` `tulle/shim/opencl` [base](../tulle/base/bytes.h)\n",
}


class StyleTest(unittest.TestCase):
    def breaches(self, check, changes):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve()
            for name, text in {**GOOD, **changes}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            arguments = (root, root / "build") if check is style.check_headers else (root,)
            found = check(*arguments)
            if check is style.check_headers:  # the second time from its cache
                self.assertEqual(found, check(*arguments))
            return "\n".join(found)

    def expect(self, check, name, text, message):
        self.assertEqual(self.breaches(check, {}), "")
        found = self.breaches(check, {name: text})
        self.assertIn(message, found)
        self.assertIn(name.split("/")[0], found)

    def test_includes(self):
        for name, text, message in [
            ("tulle/base/CMakeLists.txt", "tulle_module(DEPS tulle_wire)\n", "tulle/base may not depend on tulle/wire"),
            ("tulle/base/up.cc", '#include "tulle/wire/schema/buffer.h"\n', "tulle/wire is not in the DEPS of tulle/base"),
            ("tulle/base/up.h", '// Up.\n#pragma once\n#  include "tulle/session/x.h"\n', "tulle/session is not in the DEPS"),
            ("tulle/base/near.cc", '#include "bytes.h"\n', "write the path from the root"),
            ("tulle/odd/odd.cc", "int x;\n", "has no tulle_module()"),
            ("tulle/odd/CMakeLists.txt", "tulle_module(DEPS)\n", "say in rules.toml"),
            ("tulle/session/cl.cc", "#include <CL/cl.h>\n", "includes CL/cl.h, which only"),
            ("tulle/session/rpc.cc", "#include <grpcpp/grpcpp.h>\n", "includes grpcpp/grpcpp.h, which only"),
            ("tulle/wire/pb.cc", '#include "tulle/v1/api.pb.h"\n', "which only"),
        ]:
            with self.subTest(name):
                self.expect(style.check_includes, name, text, message)

    def test_tests_may_include_their_own_dependencies_and_only_they(self):
        module = {"tulle/session/CMakeLists.txt": "tulle_module(DEPS tulle_base TEST_DEPS tulle_wire)\n"}
        text = '#include "tulle/wire/schema/buffer.h"\n'
        self.assertIn("session.cc:2", self.breaches(style.check_includes, module))
        self.assertEqual(self.breaches(style.check_includes, {**module, "tulle/session/session.cc": "", "tulle/session/a_test.cc": text}), "")
        shared = {**module, "tulle/session/session.cc": "", "tulle/session/test_ends.h": "// Shared.\n#pragma once\n" + text}
        self.assertEqual(self.breaches(style.check_includes, shared), "")

    def test_nobody_includes_the_simulator(self):
        sim = {"tulle/sim/CMakeLists.txt": "tulle_module(DEPS)\n", "tulle/sim/net.h": "// Net.\n#pragma once\n"}
        include = '#include "tulle/sim/net.h"\n'
        self.assertIn("only tests may", self.breaches(style.check_includes, {**sim, "apps/tulle/main.cc": include}))
        self.assertEqual(self.breaches(style.check_includes, {**sim, "tests/sim/churn.cc": include}), "")

    def test_headers(self):
        self.expect(style.check_headers, "tulle/base/torn.h", "// Torn.\n#pragma once\nstd::string torn;\n", "torn.h:1: does not compile alone")
        # Its own source file proves it only if nothing comes before it there.
        torn = {"tulle/base/torn.h": "// Torn.\n#pragma once\nstd::string torn;\n"}
        for source, caught in [('#include <string>\n#include "tulle/base/torn.h"\n', True), ('#include "tulle/base/torn.h"\n', False)]:
            found = self.breaches(style.check_headers, {**torn, "tulle/base/torn.cc": source})
            self.assertEqual("does not compile alone" in found, caught, source)

    def test_hygiene(self):
        for name, text, message in [
            ("README.md", "see [that](docs/none.md)\n", "which is not there"),
            ("README.md", '<img src="docs/none.svg">\n', "which is not there"),
            ("a.cc", "// TODO: more\n", "issue tracker"),
            ("a.cc", 'open("/home/ann/x");\n', "a path of one machine"),
            ("a.cc", "int a; \n", "trailing space"),
            ("a.cc", "int a;\r\n", "carriage return"),
            ("a.cc", "<<<<<<< ours\n", "merge conflict"),
            ("a.cc", "\tint a;\n", "tab"),
            ("a.cc", "int a;", "no newline at the end"),
            ("a_test.cc", "usleep(5);\n", "wait for a condition"),
            ("a_test.cc", "std::this_thread::sleep_for(1s);\n", "wait for a condition"),
            ("tests/e2e/a.py", "time.sleep(1)\n", "wait for a condition"),
            ("tests/e2e/a.sh", "sleep 1\n", "wait for a condition"),
            ("a.h", "// A.\nint a;\n", "no #pragma once"),
            ("a.h", "#pragma once\n", "opens with a comment"),
            ("tulle/net/CMakeLists.txt", "tulle_module(DEPS tulle_base)\n", "says nothing about tulle/net"),
        ]:
            with self.subTest(name + message):
                changes = {name: text}
                found = self.breaches(style.check_hygiene, changes)
                self.assertEqual(self.breaches(style.check_hygiene, {}), "")
                self.assertIn(message, found)


if __name__ == "__main__":
    unittest.main()
