#include "tulle/net/tls/tls_transport.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>

#include "tulle/net/tcp/stream_transport.h"
#include "tulle/net/tls/owned.h"
#include "tulle/net/wait.h"

namespace tulle::net {
namespace {

constexpr std::size_t kRecordBytes = SSL3_RT_MAX_PLAIN_LENGTH;  // most plaintext in one record
constexpr std::size_t kSealedRecordBytes = kRecordBytes + 256;  // with its header and tag
constexpr std::size_t kInputBytes = 64u << 10;                  // ciphertext of one recv
constexpr std::size_t kControlBytes = 4u << 10;                 // room for alerts and key updates
constexpr std::size_t kOutputBytes = 4 * kSealedRecordBytes + kControlBytes;  // ciphertext of one send
constexpr unsigned char kCipher[2] = {0x13, 0x01};                            // TLS_AES_128_GCM_SHA256

// Bytes between a read and a write position of a buffer that never grows.
class Fifo {
 public:
  explicit Fifo(std::size_t capacity)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(capacity)), capacity_(capacity) {}
  bool empty() const { return begin_ == end_; }
  std::size_t room() const { return capacity_ - end_; }
  ByteView data() const { return {bytes_.get() + begin_, end_ - begin_}; }
  MutableByteView space() { return {bytes_.get() + end_, capacity_ - end_}; }
  void Added(std::size_t size) { end_ += size; }
  void Taken(std::size_t size) {
    begin_ += size;
    if (begin_ == end_) begin_ = end_ = 0;
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

Error TlsError(Code code, std::string message) { return {code, std::move(message), Scope::kSession}; }

class TlsTransport final : public Transport {
 public:
  TlsTransport(std::shared_ptr<Crypto> crypto, UniqueFd socket, std::uint64_t rekey_bytes)
      : crypto_(std::move(crypto)), socket_(std::move(socket)), rekey_bytes_(rekey_bytes) {
    PrepareStreamSocket(socket_.get());
  }

  Status HandshakeAsClient(const std::string& identity, const SecretKey& key, Instant deadline) {
    identity_ = &identity;
    key_ = &key;
    TULLE_RETURN_IF_ERROR(Prepare(TLS_client_method()));
    // A certificate never replaces the key: none is trusted, and the check below demands the key's use.
    SSL_set_verify(ssl_.get(), SSL_VERIFY_PEER, nullptr);
    SSL_set_psk_use_session_callback(ssl_.get(), UseSession);
    SSL_set_connect_state(ssl_.get());
    return Handshake(deadline);
  }

  Status HandshakeAsServer(const PskLookup& lookup, Instant deadline) {
    lookup_ = &lookup;
    TULLE_RETURN_IF_ERROR(Prepare(TLS_server_method()));
    SSL_set_psk_find_session_callback(ssl_.get(), FindSession);
    SSL_set_accept_state(ssl_.get());
    return Handshake(deadline);
  }

  Result<std::size_t> Read(MutableByteView out) override {
    std::size_t total = 0;
    while (total < out.size()) {
      if (starved_) {
        if (total != 0) break;
        // The socket's input belongs to the reading thread; the lock is only for the TLS state.
        TULLE_ASSIGN_OR_RETURN(const std::size_t got, ReceiveSome(socket_.get(), input_.space()));
        if (got == 0) return std::size_t{0};
        input_.Added(got);
        starved_ = false;
      }
      const std::lock_guard lock(mutex_);
      ERR_clear_error();
      std::size_t got = 0;
      const int ok = SSL_read_ex(ssl_.get(), out.data() + total, out.size() - total, &got);
      if (ok == 1) {
        total += got;
        // Known now rather than by another system call.
        if (total == out.size()) starved_ = SSL_pending(ssl_.get()) == 0 && input_.empty();
        continue;
      }
      switch (SSL_get_error(ssl_.get(), ok)) {
        case SSL_ERROR_WANT_READ: starved_ = true; break;
        case SSL_ERROR_ZERO_RETURN:
          if (total != 0) return total;
          return TlsError(Code::kUnavailable, "the peer closed the connection");
        default:
          if (total != 0) return total;  // the error comes again
          [[maybe_unused]] const auto alert = SendOutput();
          return TlsError(Code::kDataLoss, "TLS: " + TakeOpenSslErrors());
      }
    }
    return total;
  }

  Result<std::size_t> Write(std::span<const iovec> pieces) override {
    const std::lock_guard lock(mutex_);
    std::size_t reported = 0;
    Cursor cursor{pieces};
    // Sealed by an earlier call that could not send it.
    if (!cursor.Skip(sealed_plain_)) {
      return TlsError(Code::kInternal, "bytes that an earlier write did not take were not offered again");
    }
    for (;;) {
      while (!cursor.done() && output_.room() >= kSealedRecordBytes + kControlBytes) {
        const ByteView plain = cursor.Take(record_);
        ERR_clear_error();
        std::size_t sealed = 0;
        if (SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &sealed) != 1 || sealed != plain.size()) {
          return TlsError(Code::kDataLoss, "TLS: " + TakeOpenSslErrors());
        }
        sealed_plain_ += sealed;
        sealed_since_rekey_ += sealed;
        if (sealed_since_rekey_ >= rekey_bytes_) {
          sealed_since_rekey_ = 0;
          SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);
        }
      }
      TULLE_RETURN_IF_ERROR(SendOutput());
      if (!output_.empty()) return reported;
      reported += sealed_plain_;
      sealed_plain_ = 0;
      if (cursor.done()) return reported;
    }
  }

  int fd() const override { return socket_.get(); }
  // Nothing that is read makes us write: a peer's request for new keys is answered by our next write.
  short read_events() const override { return POLLIN; }
  short write_events() const override { return POLLOUT; }
  bool has_buffered_input() const override { return !starved_; }
  void Shutdown() override { ::shutdown(socket_.get(), SHUT_RDWR); }

 private:
  // Walks the plaintext a record at a time, copying only where a record spans pieces.
  struct Cursor {
    std::span<const iovec> pieces;
    std::size_t offset = 0;  // in the first piece

    bool done() {
      while (!pieces.empty() && offset == pieces.front().iov_len) {
        pieces = pieces.subspan(1);
        offset = 0;
      }
      return pieces.empty();
    }
    bool Skip(std::size_t size) {
      while (size != 0) {
        if (done()) return false;
        const std::size_t step = std::min(size, pieces.front().iov_len - offset);
        offset += step;
        size -= step;
      }
      return true;
    }
    ByteView Take(std::span<std::byte> record) {
      const auto* start = static_cast<const std::byte*>(pieces.front().iov_base) + offset;
      const std::size_t here = pieces.front().iov_len - offset;
      if (here >= kRecordBytes || pieces.size() == 1) {
        const std::size_t size = std::min(here, kRecordBytes);
        offset += size;
        return {start, size};
      }
      std::size_t size = 0;
      while (size < kRecordBytes && !done()) {
        const std::size_t step = std::min(kRecordBytes - size, pieces.front().iov_len - offset);
        std::memcpy(record.data() + size, static_cast<const std::byte*>(pieces.front().iov_base) + offset,
                    step);
        size += step;
        offset += step;
      }
      return record.first(size);
    }
  };

  Status Prepare(const SSL_METHOD* method) {
    ERR_clear_error();
    const Owned<SSL_CTX, SSL_CTX_free> context(SSL_CTX_new_ex(crypto_->library(), nullptr, method));
    bool good = context != nullptr;
    if (good) {
      SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
      SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET);
      SSL_CTX_clear_options(context.get(), SSL_OP_ENABLE_MIDDLEBOX_COMPAT | SSL_OP_ALLOW_NO_DHE_KEX);
      SSL_CTX_set_quiet_shutdown(context.get(), 1);
      good = SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
             SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
             SSL_CTX_set_ciphersuites(context.get(), "TLS_AES_128_GCM_SHA256") == 1 &&
             SSL_CTX_set1_groups_list(context.get(), "X25519:P-256") == 1 &&
             SSL_CTX_set_num_tickets(context.get(), 0) == 1 &&
             SSL_CTX_set_max_early_data(context.get(), 0) == 1 &&
             SSL_CTX_set_recv_max_early_data(context.get(), 0) == 1;
    }
    if (good) ssl_.reset(SSL_new(context.get()));
    bio_method_.reset(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "tulle"));
    good = good && ssl_ != nullptr && bio_method_ != nullptr &&
           BIO_meth_set_read_ex(bio_method_.get(), BioRead) == 1 &&
           BIO_meth_set_write_ex(bio_method_.get(), BioWrite) == 1 &&
           BIO_meth_set_ctrl(bio_method_.get(), BioControl) == 1;
    BIO* bio = good ? BIO_new(bio_method_.get()) : nullptr;
    if (bio == nullptr) return TlsError(Code::kInternal, "prepare TLS: " + TakeOpenSslErrors());
    BIO_set_data(bio, this);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_app_data(ssl_.get(), this);
    return OkStatus();
  }

  Status Handshake(Instant deadline) {
    Status status = RunHandshake(deadline);
    crypto_->LeaveThread();
    identity_ = nullptr;
    key_ = nullptr;
    lookup_ = nullptr;
    return status;
  }

  Status RunHandshake(Instant deadline) {
    for (;;) {
      ERR_clear_error();
      const int done = SSL_do_handshake(ssl_.get());
      const int reason = SSL_get_error(ssl_.get(), done);
      Status failure = done == 1 || reason == SSL_ERROR_WANT_READ ? OkStatus() : Status(HandshakeError());
      // Our last flight, or the alert that tells the peer what went wrong.
      while (!output_.empty()) {
        const Status sent = SendOutput();
        if (!sent.ok()) return failure.ok() ? sent : failure;
        if (!output_.empty() && WaitFor(socket_.get(), POLLOUT, deadline) == 0) return HandshakeTimeout();
      }
      if (!failure.ok()) return failure;
      if (done == 1) break;
      if (WaitFor(socket_.get(), POLLIN, deadline) == 0) return HandshakeTimeout();
      TULLE_ASSIGN_OR_RETURN(const std::size_t got, ReceiveSome(socket_.get(), input_.space()));
      input_.Added(got);
    }
    if (SSL_session_reused(ssl_.get()) != 1) {
      return TlsError(Code::kUnauthenticated, "TLS: the peer did not use the key");
    }
    return OkStatus();
  }

  static Error HandshakeTimeout() {
    return TlsError(Code::kDeadlineExceeded, "TLS: the peer did not finish the handshake in time");
  }

  // Of the failed SSL_do_handshake.
  Error HandshakeError() const {
    if (refusal_) return *refusal_;
    const unsigned long code = ERR_peek_error();
    const std::string text = "TLS: " + TakeOpenSslErrors();
    if (ERR_GET_LIB(code) != ERR_LIB_SSL) return TlsError(Code::kDataLoss, text);
    switch (ERR_GET_REASON(code)) {
      case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:  // a server without the identity has nothing else to offer
      case SSL_AD_REASON_OFFSET + SSL_AD_UNKNOWN_PSK_IDENTITY: return TlsError(Code::kPermissionDenied, text);
      case SSL_AD_REASON_OFFSET + SSL_AD_DECRYPT_ERROR:
      case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:
      case SSL_R_BINDER_DOES_NOT_VERIFY:
      case SSL_R_DIGEST_CHECK_FAILED: return TlsError(Code::kUnauthenticated, text);
      default: return TlsError(Code::kDataLoss, text);
    }
  }

  // Sends sealed bytes while the socket takes them. An OK status with output left: the socket is full.
  Status SendOutput() {
    while (!output_.empty()) {
      const ByteView bytes = output_.data();
      const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
      TULLE_ASSIGN_OR_RETURN(const std::size_t sent, SendSome(socket_.get(), {&piece, 1}));
      if (sent == 0) break;
      output_.Taken(sent);
    }
    return OkStatus();
  }

  static SSL_SESSION* MakeSession(SSL* ssl, const SecretKey& key) {
    Owned<SSL_SESSION, SSL_SESSION_free> session(SSL_SESSION_new());
    const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipher);
    if (session == nullptr || cipher == nullptr ||
        SSL_SESSION_set1_master_key(session.get(), reinterpret_cast<const unsigned char*>(key.bytes().data()),
                                    SecretKey::kBytes) != 1 ||
        SSL_SESSION_set_cipher(session.get(), cipher) != 1 ||
        SSL_SESSION_set_protocol_version(session.get(), TLS1_3_VERSION) != 1) {
      return nullptr;
    }
    return session.release();
  }

  static int UseSession(SSL* ssl, const EVP_MD*, const unsigned char** id, std::size_t* id_size,
                        SSL_SESSION** session) {
    auto* self = static_cast<TlsTransport*>(SSL_get_app_data(ssl));
    *session = MakeSession(ssl, *self->key_);
    if (*session == nullptr) return 0;
    *id = reinterpret_cast<const unsigned char*>(self->identity_->data());
    *id_size = self->identity_->size();
    return 1;
  }

  // No session and success: OpenSSL goes on without a key, finds no certificate either, and refuses.
  static int FindSession(SSL* ssl, const unsigned char* id, std::size_t id_size, SSL_SESSION** session) {
    auto* self = static_cast<TlsTransport*>(SSL_get_app_data(ssl));
    *session = nullptr;
    Result<SecretKey> key = (*self->lookup_)({reinterpret_cast<const char*>(id), id_size});
    if (!key.ok()) {
      self->refusal_ = key.error();
      return 1;
    }
    *session = MakeSession(ssl, *key);
    return *session != nullptr ? 1 : 0;
  }

  static int BioRead(BIO* bio, char* out, std::size_t size, std::size_t* got) {
    auto* self = static_cast<TlsTransport*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    *got = std::min(size, self->input_.data().size());
    if (*got == 0) {
      BIO_set_retry_read(bio);
      return 0;
    }
    std::memcpy(out, self->input_.data().data(), *got);
    self->input_.Taken(*got);
    return 1;
  }

  // Never asks to be called again: whoever writes records makes room first, and a peer that provokes more
  // control messages than there is room for loses the connection.
  static int BioWrite(BIO* bio, const char* bytes, std::size_t size, std::size_t* written) {
    auto* self = static_cast<TlsTransport*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (size > self->output_.room()) return 0;
    std::memcpy(self->output_.space().data(), bytes, size);
    self->output_.Added(size);
    *written = size;
    return 1;
  }

  static long BioControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  const std::shared_ptr<Crypto> crypto_;  // outlives ssl_
  const UniqueFd socket_;
  const std::uint64_t rekey_bytes_;

  std::mutex mutex_;  // guards ssl_ and, after the handshake, the writer's state below
  Owned<BIO_METHOD, BIO_meth_free> bio_method_;
  Owned<SSL, SSL_free> ssl_;
  Fifo output_{kOutputBytes};
  std::size_t sealed_plain_ = 0;  // plaintext in output_ that no Write has reported as taken
  std::uint64_t sealed_since_rekey_ = 0;
  std::array<std::byte, kRecordBytes> record_;

  // The reading thread's.
  Fifo input_{kInputBytes};
  bool starved_ = false;  // the TLS state needs more ciphertext

  // During the handshake only.
  const std::string* identity_ = nullptr;
  const SecretKey* key_ = nullptr;
  const PskLookup* lookup_ = nullptr;
  std::optional<Error> refusal_;
};

}  // namespace

Result<std::unique_ptr<Transport>> ConnectTls(std::shared_ptr<Crypto> crypto, UniqueFd socket,
                                              const std::string& identity, const SecretKey& key,
                                              Instant deadline, std::uint64_t rekey_bytes) {
  auto transport = std::make_unique<TlsTransport>(std::move(crypto), std::move(socket), rekey_bytes);
  TULLE_RETURN_IF_ERROR(transport->HandshakeAsClient(identity, key, deadline));
  return std::unique_ptr<Transport>(std::move(transport));
}

Result<std::unique_ptr<Transport>> AcceptTls(std::shared_ptr<Crypto> crypto, UniqueFd socket,
                                             const PskLookup& lookup, Instant deadline,
                                             std::uint64_t rekey_bytes) {
  auto transport = std::make_unique<TlsTransport>(std::move(crypto), std::move(socket), rekey_bytes);
  TULLE_RETURN_IF_ERROR(transport->HandshakeAsServer(lookup, deadline));
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace tulle::net
