// The files below /dev through which a GPU's driver reaches it: what a process that opens that GPU needs, and
// nobody else should have.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tulle::gpu {

// Of the GPU at a PCI address ("0000:65:00.0"), those that are there: of NVIDIA's GPUs its own and those that
// all of the driver's GPUs share; of others its render node, and AMD's /dev/kfd. None: the address is empty
// or no GPU's. `root` stands before /dev, /proc and /sys, for tests.
std::vector<std::string> DeviceNodesOf(std::string_view pci_address, const std::string& root = "");

}  // namespace tulle::gpu
