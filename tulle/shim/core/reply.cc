#include "tulle/shim/core/reply.h"

namespace tulle::shim {

Status StatusWait::Answered(ByteView body, ByteView payload) {
  wire::Arena arena;
  wire::StatusReply reply;
  TULLE_RETURN_IF_ERROR(DecodeReply(body, payload.size(), arena, &reply));
  status = reply.status;
  return OkStatus();
}

Reply** ReplyTable::Slot(std::uint64_t sequence) {
  Reply** slot = &buckets_[sequence % kBuckets];
  while (*slot != nullptr && (*slot)->sequence_ != sequence) slot = &(*slot)->next_;
  return slot;
}

bool ReplyTable::Add(std::uint64_t sequence, Reply* reply) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  Reply** bucket = &buckets_[sequence % kBuckets];
  reply->sequence_ = sequence;
  reply->next_ = *bucket;
  *bucket = reply;
  return true;
}

Reply* ReplyTable::Find(std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  return *Slot(sequence);
}

Reply* ReplyTable::Take(std::uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  Reply** slot = Slot(sequence);
  Reply* reply = *slot;
  if (reply != nullptr) *slot = reply->next_;
  return reply;
}

void ReplyTable::Close() {
  Reply* all = nullptr;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    for (Reply*& bucket : buckets_) {
      while (bucket != nullptr) {
        Reply* reply = bucket;
        bucket = reply->next_;
        reply->next_ = all;
        all = reply;
      }
    }
  }
  while (all != nullptr) {
    Reply* reply = all;
    all = reply->next_;
    reply->OnLost();
  }
}

}  // namespace tulle::shim
