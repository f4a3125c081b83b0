// A connected, ordered stream of bytes: what a session runs over. Implementations: tcp/ (any stream socket,
// so a socketpair serves as the in-process one), tls/, and local/ (within one host).
//
// Threads: one thread may read while another writes; two readers or two writers need a lock of their own.
// No call blocks. Nothing here allocates per call.
#pragma once

#include <sys/uio.h>

#include <span>

#include "tulle/base/bytes.h"
#include "tulle/base/result.h"
#include "tulle/base/unique_fd.h"

namespace tulle::net {

class Transport {
 public:
  virtual ~Transport() = default;

  // Reads what has arrived into `out`. 0: nothing now, poll fd() and try again. An error (kUnavailable when
  // the peer closed) is final.
  virtual Result<std::size_t> Read(MutableByteView out) = 0;

  // Writes as much of `pieces`, in order, as the stream takes now; the bytes taken, perhaps 0. What was not
  // taken must come first, unchanged, in the next Write: TLS may have sealed it already.
  virtual Result<std::size_t> Write(std::span<const iovec> pieces) = 0;

  // For poll(). When Read or Write took nothing, wait for read_events() or write_events() on it: TLS may
  // have to write before it can read.
  virtual int fd() const = 0;
  virtual short read_events() const = 0;
  virtual short write_events() const = 0;

  // True when Read may return bytes although fd() is not readable (TLS holds decrypted ones).
  virtual bool has_buffered_input() const = 0;

  // Ends both directions; threads in poll() on fd() wake up. Idempotent; any thread.
  virtual void Shutdown() = 0;

  // Whether descriptors can come with what is read.
  virtual bool carries_descriptors() const { return false; }
  // Of streams within one host (local/): the peer gets a descriptor of its own for what `fd` is of, with the
  // next byte that is written; false: this stream cannot. The writer's.
  virtual bool PassDescriptor(int fd) {
    static_cast<void>(fd);
    return false;
  }
  // The latest that came with what was read; invalid: none. The reader's.
  virtual UniqueFd TakeDescriptor() { return {}; }
};

}  // namespace tulle::net
