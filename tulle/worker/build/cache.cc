#include "tulle/worker/build/cache.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <list>
#include <string>
#include <unordered_map>
#include <utility>

#include "tulle/base/guarded.h"
#include "tulle/base/unique_fd.h"
#include "tulle/gpu/api/opencl_status.h"

namespace tulle::worker::build {
namespace {

std::string Key(wire::opencl::ProgramKind kind, ByteView text, std::string_view options) {
  // The number says where the options end.
  std::string key = std::to_string(static_cast<unsigned>(kind)) + ' ' + std::to_string(options.size()) + ' ';
  return key.append(options).append(AsText(text));
}

// One whose outcome is there already.
class KnownBuild final : public Build {
 public:
  KnownBuild(gpu::CompileOutput output, UniqueFd readable)
      : output_(std::move(output)), readable_(std::move(readable)) {}
  int fd() const override { return readable_.get(); }
  std::optional<gpu::CompileOutput> TryFinish() override { return std::exchange(output_, std::nullopt); }

 private:
  std::optional<gpu::CompileOutput> output_;
  const UniqueFd readable_;
};

}  // namespace

class CachingBuilder::Cache {
 public:
  explicit Cache(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<gpu::CompileOutput> Find(const std::string& key) {
    auto state = state_.lock();
    const auto found = state->by_key.find(key);
    if (found == state->by_key.end()) return std::nullopt;
    state->entries.splice(state->entries.begin(), state->entries, found->second);
    return found->second->output;
  }

  void Put(std::string key, const gpu::CompileOutput& output) {
    Entry entry{std::move(key), output};
    if (entry.bytes() > max_bytes_ / 4) return;
    auto state = state_.lock();
    if (state->by_key.contains(entry.key)) return;  // built twice at once
    state->bytes += entry.bytes();
    while (state->bytes > max_bytes_) {
      state->bytes -= state->entries.back().bytes();
      state->by_key.erase(state->entries.back().key);
      state->entries.pop_back();
    }
    state->entries.push_front(std::move(entry));
    state->by_key[state->entries.front().key] = state->entries.begin();
  }

 private:
  struct Entry {
    std::string key;
    gpu::CompileOutput output;
    std::size_t bytes() const { return key.size() + output.log.size() + output.binary.size(); }
  };
  struct State {
    std::list<Entry> entries;  // the most recently used first
    std::unordered_map<std::string_view, std::list<Entry>::iterator> by_key;
    std::size_t bytes = 0;
  };
  const std::size_t max_bytes_;
  Guarded<State> state_;
};

// One whose outcome will be kept. First it asks the mesh, where there is one.
class CachingBuilder::NewBuild final : public Build {
 public:
  NewBuild(const CachingBuilder& builder, std::string key)
      : builder_(builder.builder_), cache_(builder.cache_), mesh_(builder.mesh_), key_(std::move(key)) {}

  Status Start(wire::opencl::ProgramKind kind, ByteView text, std::string_view options) {
    if (mesh_ != nullptr && kind != wire::opencl::ProgramKind::kBinary) {
      mesh_key_ = mesh_->KeyOf(kind, text, options);
      if (auto answer = mesh_->Find(*mesh_key_); answer.ok()) {
        answer_.emplace(std::move(*answer));
        request_ = {kind, ByteVector(text.begin(), text.end()), std::string(options)};
        return OkStatus();
      }
    }
    TULLE_ASSIGN_OR_RETURN(build_, builder_->Start(kind, text, options));
    return OkStatus();
  }

  int fd() const override { return answer_ ? answer_->fd() : build_->fd(); }

  std::optional<gpu::CompileOutput> TryFinish() override {
    if (answer_) {
      if (!answer_->Finished()) return std::nullopt;
      auto found = answer_->Take();
      answer_.reset();
      if (found) {
        cache_->Put(std::move(key_), *found);
        done_ = true;
        return found;
      }
      auto build = builder_->Start(request_.kind, request_.text, request_.options);
      request_ = {};
      if (!build.ok()) {
        done_ = true;
        return gpu::CompileOutput{gpu::cl_status::kOutOfResources,
                                  "the compiler could not be started: " + build.error().message,
                                  {}};
      }
      build_ = std::move(*build);
    }
    if (done_) return std::nullopt;
    auto output = build_->TryFinish();
    if (output.has_value() && output->status == 0) {
      if (mesh_key_) mesh_->Keep(*mesh_key_, *output);
      cache_->Put(std::move(key_), *output);
    }
    return output;
  }

 private:
  struct Request {
    wire::opencl::ProgramKind kind{};
    ByteVector text;
    std::string options;
  };
  const std::shared_ptr<Builder> builder_;
  const std::shared_ptr<Cache> cache_;
  const std::shared_ptr<const MeshBuilds> mesh_;
  std::string key_;
  std::optional<MeshKey> mesh_key_;
  std::optional<MeshAnswer> answer_;  // while the mesh is asked; then not
  Request request_;                   // while the mesh is asked
  std::unique_ptr<Build> build_;
  bool done_ = false;  // without a build
};

CachingBuilder::CachingBuilder(std::unique_ptr<Builder> builder, std::size_t max_bytes,
                               std::unique_ptr<const MeshBuilds> mesh)
    : builder_(std::move(builder)), cache_(std::make_shared<Cache>(max_bytes)), mesh_(std::move(mesh)) {}
CachingBuilder::~CachingBuilder() = default;

Result<std::unique_ptr<Build>> CachingBuilder::Start(wire::opencl::ProgramKind kind, ByteView text,
                                                     std::string_view options) {
  std::string key = Key(kind, text, options);
  if (auto known = cache_->Find(key); known.has_value()) {
    UniqueFd readable(eventfd(1, EFD_CLOEXEC));
    if (!readable.valid()) return ErrnoError("an eventfd for a build", errno);
    return std::unique_ptr<Build>(std::make_unique<KnownBuild>(*std::move(known), std::move(readable)));
  }
  auto build = std::make_unique<NewBuild>(*this, std::move(key));
  TULLE_RETURN_IF_ERROR(build->Start(kind, text, options));
  return std::unique_ptr<Build>(std::move(build));
}

}  // namespace tulle::worker::build
