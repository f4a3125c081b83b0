// What the mesh remembers of its builds, as the worker's node tells: asked for before a program is built,
// given after. Only where the worker knows what compiles for its device.
//
// Whoever decides what is built cannot decide what others are given: a key is made of the whole request, so
// that even a compiler that a program has turned around can only answer for that very program; and a tenant
// is only given what its own vGPUs have built.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"
#include "tulle/wire/schema/node.h"
#include "tulle/worker/build/builder.h"

namespace tulle::worker::build {

// SHA-256 of the request and of what compiles it.
using MeshKey = std::array<std::byte, wire::node::kBuildKeyBytes>;
MeshKey MeshKeyOf(std::string_view compiler, wire::opencl::ProgramKind kind, ByteView text,
                  std::string_view options);

// One answer under way. One thread owns it.
class MeshAnswer {
 public:
  // `pipe`: what the node writes into.
  static Result<MeshAnswer> Await(UniqueFd pipe);

  int fd() const { return poll_.get(); }  // readable when Finished() may have something to do
  // True: it is all here, or there is none, which was too late.
  bool Finished();
  // What was found. Once it is finished.
  std::optional<gpu::CompileOutput> Take();

 private:
  MeshAnswer(UniqueFd pipe, UniqueFd timer, UniqueFd poll)
      : pipe_(std::move(pipe)), timer_(std::move(timer)), poll_(std::move(poll)) {}
  UniqueFd pipe_;
  UniqueFd timer_;
  UniqueFd poll_;  // an epoll of both
  ByteVector content_;
};

class MeshBuilds {
 public:
  // `control` is the packet socket to the node; it must outlive this. `compiler`: what binaries for the
  // device depend on, tulle's release apart.
  MeshBuilds(int control, std::string compiler) : control_(control), compiler_(std::move(compiler)) {}

  MeshKey KeyOf(wire::opencl::ProgramKind kind, ByteView text, std::string_view options) const {
    return MeshKeyOf(compiler_, kind, text, options);
  }
  // Any thread. An error: the node cannot be asked now.
  Result<MeshAnswer> Find(const MeshKey& key) const;
  void Keep(const MeshKey& key, const gpu::CompileOutput& output) const;

 private:
  const int control_;
  const std::string compiler_;
};

}  // namespace tulle::worker::build
