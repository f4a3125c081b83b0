#include "tulle/worker/build/cache.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <list>
#include <string>
#include <unordered_map>
#include <utility>

#include "tulle/base/guarded.h"
#include "tulle/base/unique_fd.h"

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

// One whose outcome will be kept.
class CachingBuilder::NewBuild final : public Build {
 public:
  NewBuild(std::unique_ptr<Build> build, std::string key, std::shared_ptr<Cache> cache)
      : build_(std::move(build)), key_(std::move(key)), cache_(std::move(cache)) {}
  int fd() const override { return build_->fd(); }
  std::optional<gpu::CompileOutput> TryFinish() override {
    auto output = build_->TryFinish();
    if (output.has_value() && output->status == 0) cache_->Put(std::move(key_), *output);
    return output;
  }

 private:
  const std::unique_ptr<Build> build_;
  std::string key_;
  const std::shared_ptr<Cache> cache_;
};

CachingBuilder::CachingBuilder(std::unique_ptr<Builder> builder, std::size_t max_bytes)
    : builder_(std::move(builder)), cache_(std::make_shared<Cache>(max_bytes)) {}
CachingBuilder::~CachingBuilder() = default;

Result<std::unique_ptr<Build>> CachingBuilder::Start(wire::opencl::ProgramKind kind, ByteView text,
                                                     std::string_view options) {
  std::string key = Key(kind, text, options);
  if (auto known = cache_->Find(key); known.has_value()) {
    UniqueFd readable(eventfd(1, EFD_CLOEXEC));
    if (!readable.valid()) return ErrnoError("an eventfd for a build", errno);
    return std::unique_ptr<Build>(std::make_unique<KnownBuild>(*std::move(known), std::move(readable)));
  }
  TULLE_ASSIGN_OR_RETURN(auto build, builder_->Start(kind, text, options));
  return std::unique_ptr<Build>(std::make_unique<NewBuild>(std::move(build), std::move(key), cache_));
}

}  // namespace tulle::worker::build
