// The API's definition as text, from its descriptors with their comments: a lock of what must stay, and a
// reference for people.
#pragma once

#include <string>
#include <vector>

namespace tulle::api {

// A line for each field, value and method, by name: what clients that are built already depend on. Of the
// packages' own files only. `path`: of a FileDescriptorSet with source information.
std::vector<std::string> LockLines(const std::string& path);

// docs/API_REFERENCE.md.
std::string Reference(const std::string& path);

}  // namespace tulle::api
