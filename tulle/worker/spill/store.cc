#include "tulle/worker/spill/store.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "tulle/base/check.h"

namespace tulle::worker::spill {
namespace {

constexpr std::size_t kKeyBytes = 32, kNonceBytes = 12, kTagBytes = 16;

struct Free {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_CIPHER_CTX, Free>;
using Nonce = std::array<unsigned char, kNonceBytes>;

unsigned char* Raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* Raw(const std::byte* bytes) { return reinterpret_cast<const unsigned char*>(bytes); }

Nonce NonceOf(std::uint64_t number) {
  Nonce nonce{};
  std::memcpy(nonce.data(), &number, sizeof number);
  return nonce;
}

Secret MakeKey(Random& random) {
  Secret key = Secret::OfSize(kKeyBytes);
  random.Fill(key.Mutable());
  return key;
}

bool IsZero(ByteView bytes) {
  // Compares the bytes with themselves, one further on.
  return bytes.empty() || (bytes.front() == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// What lies in each of the ranges, one behind the other.
template <typename Visit>
void ForEachPiece(const std::vector<Range>& pieces, MutableByteView bytes, const Visit& visit) {
  for (const Range& piece : pieces) {
    const MutableByteView part = bytes.first(std::min<std::uint64_t>(bytes.size(), piece.size_bytes));
    visit(part, piece.offset_bytes);
    bytes = bytes.subspan(part.size());
  }
}

// All of it, at a place in a file.
Status WriteAt(int fd, ByteView bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoError("memory could not be written to the file for it", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return OkStatus();
}
Status ReadAt(int fd, MutableByteView bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return Error{Code::kDataLoss, "the file for memory is shorter than it was"};
    if (got < 0) return ErrnoError("memory could not be read from the file for it", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return OkStatus();
}

}  // namespace

struct Store::Entry {
  explicit Entry(Store* its) : store(*its) {}
  Store& store;
  std::mutex mutex;  // of the rest, while it moves
  ByteVector bytes;  // while in memory
  std::uint64_t size_bytes = 0;
  std::optional<std::list<std::shared_ptr<Entry>>::iterator> at;  // in_memory; guarded as that is
  std::vector<Range> pieces;                                      // of the file; none: it is in memory
  std::uint64_t nonce = 0;
  std::array<unsigned char, kTagBytes> tag{};
  bool forgotten = false;
};

Store::Block& Store::Block::operator=(Block&& other) noexcept {
  Forget();
  entry_ = std::move(other.entry_);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  return *this;
}

void Store::Block::Forget() {
  if (entry_ != nullptr) entry_->store.Forget(entry_);
  entry_.reset();
}

Store::Store(std::uint64_t memory_bytes, UniqueFd file, std::uint64_t file_bytes, Random& random)
    : memory_limit_bytes_(memory_bytes),
      file_(std::move(file)),
      key_(MakeKey(random)),
      state_(file_.valid() ? file_bytes : 0) {}

Store::~Store() { TULLE_CHECK(state_.lock()->in_memory.empty()); }

ByteVector Store::Buffer(std::uint64_t size_bytes) {
  TULLE_CHECK(size_bytes <= kBlockBytes);
  if (size_bytes == kBlockBytes) {
    auto state = state_.lock();
    if (!state->buffers.empty()) {
      ByteVector bytes = std::move(state->buffers.back());
      state->buffers.pop_back();
      return bytes;
    }
  }
  return ByteVector(size_bytes);
}

void Store::Recycle(ByteVector bytes) {
  if (bytes.size() != kBlockBytes) return;
  auto state = state_.lock();
  if (state->buffers.size() < kSpareBuffers) state->buffers.push_back(std::move(bytes));
}

Result<Store::Block> Store::Save(ByteVector bytes) {
  TULLE_CHECK(bytes.size() <= kBlockBytes);
  const std::uint64_t size_bytes = bytes.size();
  Block block;
  block.size_bytes_ = size_bytes;
  if (IsZero(bytes)) {
    Recycle(std::move(bytes));
    return block;
  }
  auto entry = std::make_shared<Entry>(this);
  entry->size_bytes = size_bytes;
  entry->bytes = std::move(bytes);
  // It is counted before there is room, so that several savers together make enough.
  memory_used_bytes_ += size_bytes;
  bool in_memory = true;
  while (in_memory && memory_used_bytes_ > memory_limit_bytes_) {
    auto moved = MoveOldest();
    if (moved.ok() && !*moved) {
      in_memory = false;
      if (Status written = Write(*entry); !written.ok()) moved = written.error();
    }
    if (moved.ok()) continue;
    memory_used_bytes_ -= size_bytes;
    return moved.error();
  }
  if (in_memory) {
    auto state = state_.lock();
    entry->at = state->in_memory.insert(state->in_memory.end(), entry);
  }
  block.entry_ = std::move(entry);
  return block;
}

Result<bool> Store::MoveOldest() {
  std::shared_ptr<Entry> entry;
  {
    auto state = state_.lock();
    if (state->in_memory.empty()) return false;
    entry = state->in_memory.front();
    state->in_memory.pop_front();
    entry->at.reset();
  }
  const std::lock_guard lock(entry->mutex);
  if (entry->forgotten) return true;  // and was counted out
  if (Status written = Write(*entry); !written.ok()) {
    auto state = state_.lock();
    entry->at = state->in_memory.insert(state->in_memory.begin(), entry);
    return written.error();
  }
  return true;
}

void Store::FreePieces(Entry& entry) {
  auto state = state_.lock();
  for (const Range& piece : entry.pieces) {
    state->file.Free(piece);
    // The disk's again; where the file system cannot, it is when the file goes.
    (void)fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(piece.offset_bytes), static_cast<off_t>(piece.size_bytes));
  }
  entry.pieces.clear();
}

Status Store::Write(Entry& entry) {
  {
    auto state = state_.lock();
    if (entry.size_bytes > state->file.free_bytes())
      return Error{Code::kResourceExhausted, "there is no room for more memory that is not in use"};
    // In as few pieces as there are free ranges for.
    for (std::uint64_t left = entry.size_bytes; left != 0;) {
      const auto piece = state->file.Allocate(std::min(left, state->file.largest_free_bytes()));
      TULLE_CHECK(piece.has_value());
      entry.pieces.push_back(*piece);
      left -= std::min(left, piece->size_bytes);
    }
  }
  entry.nonce = nonces_++;
  const Nonce nonce = NonceOf(entry.nonce);
  ByteVector sealed = Buffer(entry.size_bytes);
  const Context cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  TULLE_CHECK(cipher != nullptr &&
              EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Raw(key_.Expose().data()),
                                 nonce.data()) == 1 &&
              EVP_EncryptUpdate(cipher.get(), Raw(sealed.data()), &size, Raw(entry.bytes.data()),
                                static_cast<int>(entry.bytes.size())) == 1 &&
              EVP_EncryptFinal_ex(cipher.get(), Raw(sealed.data()) + size, &size) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, entry.tag.data()) == 1);
  Status written = OkStatus();
  ForEachPiece(entry.pieces, sealed, [&](MutableByteView bytes, std::uint64_t offset_bytes) {
    if (written.ok()) written = WriteAt(file_.get(), bytes, offset_bytes);
  });
  Recycle(std::move(sealed));
  if (!written.ok()) {
    FreePieces(entry);
    return written;
  }
  Recycle(std::exchange(entry.bytes, {}));
  memory_used_bytes_ -= entry.size_bytes;
  file_used_bytes_ += entry.size_bytes;
  return OkStatus();
}

Result<ByteVector> Store::Take(Block block) {
  if (block.entry_ == nullptr) return ByteVector(block.size_bytes_);
  Entry& entry = *block.entry_;
  const std::lock_guard lock(entry.mutex);
  if (entry.pieces.empty()) {
    {
      auto state = state_.lock();
      if (entry.at.has_value()) state->in_memory.erase(*entry.at);
      entry.at.reset();
    }
    entry.forgotten = true;
    memory_used_bytes_ -= entry.size_bytes;
    return std::move(entry.bytes);
  }
  ByteVector sealed = Buffer(entry.size_bytes);
  Status got = OkStatus();
  ForEachPiece(entry.pieces, sealed, [&](MutableByteView piece, std::uint64_t offset_bytes) {
    if (got.ok()) got = ReadAt(file_.get(), piece, offset_bytes);
  });
  TULLE_RETURN_IF_ERROR(got);
  const Nonce nonce = NonceOf(entry.nonce);
  const Context cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool good =
      cipher != nullptr &&
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Raw(key_.Expose().data()), nonce.data()) ==
          1 &&
      EVP_DecryptUpdate(cipher.get(), Raw(sealed.data()), &size, Raw(sealed.data()),
                        static_cast<int>(sealed.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, entry.tag.data()) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), Raw(sealed.data()) + size, &size) == 1;
  if (!good) return Error{Code::kDataLoss, "the file for memory is not what was written"};
  return sealed;
}

void Store::Forget(const std::shared_ptr<Entry>& entry) {
  const std::lock_guard lock(entry->mutex);
  if (std::exchange(entry->forgotten, true)) return;  // what it had was taken
  if (!entry->pieces.empty()) {
    file_used_bytes_ -= entry->size_bytes;
    return FreePieces(*entry);
  }
  memory_used_bytes_ -= entry->size_bytes;
  auto state = state_.lock();
  if (entry->at.has_value()) state->in_memory.erase(*entry->at);
  entry->at.reset();
}

}  // namespace tulle::worker::spill
