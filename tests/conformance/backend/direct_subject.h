// A Subject that is a gpu::Backend in this process.
#pragma once

#include "tests/conformance/backend/subject.h"

namespace tulle::gpu::conformance {

// Opens device `index` of `driver`. With `lend_memory` every CreateBuffer brings its memory, which becomes
// inaccessible as soon as the buffer's DestroyObject is answered. Aborts when the device does not open.
// What the backend must not do (release a payload twice, answer twice) is a test failure.
std::unique_ptr<Subject> MakeDirectSubject(Driver& driver, std::uint32_t index, bool lend_memory);

// A factory of these. `driver` is shared by what it opens.
SubjectFactory DirectFactory(std::string name, std::shared_ptr<Driver> driver, std::uint32_t index,
                             bool lend_memory);

}  // namespace tulle::gpu::conformance
