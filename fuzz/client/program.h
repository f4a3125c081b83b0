// The program that a hostile worker serves.
#pragma once

#include "tulle/base/random.h"

namespace tulle::fuzz {

// A bit of every part of OpenCL, as far as the answers let it come, in an order by seed. Errors are what it
// expects; writes beside the memory that it gave for something are a finding.
void RunProgram(Random& random);

}  // namespace tulle::fuzz
