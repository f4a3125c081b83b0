#include "tulle/gpu/opencl/reporter.h"

#include <algorithm>
#include <array>

#include "tulle/gpu/api/outcome.h"

namespace tulle::gpu::opencl {
namespace {

using wire::opencl::EventCompletion;

void ReadTimes(cl_event native, EventCompletion* completion) {
  const auto read = [native](cl_profiling_info what, std::uint64_t* ns) {
    cl_ulong value = 0;
    if (clGetEventProfilingInfo(native, what, sizeof value, &value, nullptr) == CL_SUCCESS) *ns = value;
  };
  read(CL_PROFILING_COMMAND_QUEUED, &completion->queued_ns);
  read(CL_PROFILING_COMMAND_SUBMIT, &completion->submitted_ns);
  read(CL_PROFILING_COMMAND_START, &completion->started_ns);
  read(CL_PROFILING_COMMAND_END, &completion->ended_ns);
}

// A transfer's times: from its first piece to its last.
void Merge(const EventCompletion& piece, EventCompletion* whole) {
  if (whole->status == 0) whole->status = piece.status;
  const auto earlier = [](std::uint64_t value, std::uint64_t* least) {
    if (*least == 0 || (value != 0 && value < *least)) *least = value;
  };
  earlier(piece.queued_ns, &whole->queued_ns);
  earlier(piece.submitted_ns, &whole->submitted_ns);
  earlier(piece.started_ns, &whole->started_ns);
  whole->ended_ns = std::max(whole->ended_ns, piece.ended_ns);
}

}  // namespace

bool Reporter::IsIdle(const QueueProgress& queue) {
  std::lock_guard lock(mutex_);
  return queue.running == 0;
}

void Reporter::CloseTransfer(Transfer* transfer, wire::Handle event, std::int32_t status) {
  std::unique_lock lock(mutex_);
  transfer->closed = true;
  transfer->completion.event = event;
  if (status != 0) transfer->completion.status = status;
  if (transfer->running != 0) return;
  if (!event.null()) reports_.push_back({Report::Kind::kEvent, 0, transfer->completion});
  delete transfer;
  Deliver(lock);
}

void Reporter::Track(Tracked* command) {
  command->reporter_ = this;
  tracked_.fetch_add(1, std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    QueueProgress& queue = *command->queue;
    command->group_ = queue.first_group + queue.groups.size() - 1;
    ++queue.groups.back().running;
    ++queue.running;
    if (command->transfer != nullptr) ++command->transfer->running;
    command->next_ = under_way_;
    if (under_way_ != nullptr) under_way_->previous_ = command;
    under_way_ = command;
  }
  const cl_event native = command->native.get();
  if (clSetEventCallback(native, CL_COMPLETE, &OnEnd, command) != CL_SUCCESS) {
    // Out of memory in the driver. The command may still use its payload, so its end must be seen.
    cl_int status = CL_OUT_OF_HOST_MEMORY;
    if (clWaitForEvents(1, &native) == CL_SUCCESS) status = CL_COMPLETE;
    End(command, status);
  }
}

bool Reporter::Finish(QueueProgress* queue, std::uint64_t sequence) {
  std::unique_lock lock(mutex_);
  if (queue->groups.size() > kMaxTracked) return false;
  queue->groups.back().closed = true;
  queue->groups.back().finish_sequence = sequence;
  queue->groups.emplace_back();
  AnswerFinishes(queue);
  Deliver(lock);
  return true;
}

void Reporter::CompleteEvent(wire::Handle event, std::int32_t status) {
  std::unique_lock lock(mutex_);
  reports_.push_back({Report::Kind::kEvent, 0, {event, status}});
  Deliver(lock);
}

void Reporter::MemoryFreed(std::uint64_t sequence) {
  std::unique_lock lock(mutex_);
  if (closed_) return;
  reports_.push_back({Report::Kind::kMemoryFreed, sequence, {}});
  Deliver(lock);
}

void Reporter::EndFailed() {
  const std::size_t first = failed_.size();
  {
    std::lock_guard lock(mutex_);
    for (Tracked* command = under_way_; command != nullptr; command = command->next_) {
      cl_int status = CL_QUEUED;
      clGetEventInfo(command->native.get(), CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
                     nullptr);
      if (status >= 0) continue;
      command->Ref();
      failed_.push_back(command);
    }
  }
  for (std::size_t i = failed_.size(); i > first; --i) {  // oldest first
    End(failed_[i - 1], CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
  }
}

void Reporter::Close() {
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return tracked_.load() == 0 && reports_.empty() && !delivering_; });
    closed_ = true;
  }
  for (Tracked* command : failed_) command->Unref();
}

void CL_CALLBACK Reporter::OnEnd(cl_event, cl_int status, void* tracked) {
  auto* command = static_cast<Tracked*>(tracked);
  command->reporter_->End(command, status);
}

void Reporter::End(Tracked* command, cl_int native_status) {
  const std::int32_t status = std::min<std::int32_t>(native_status, CL_COMPLETE);
  if (command->status_.exchange(status, std::memory_order_acq_rel) <= CL_COMPLETE)
    return;  // EndFailed was faster
  switch (command->duty) {
    case Tracked::Duty::kNone: break;
    case Tracked::Duty::kReadReply: {
      const std::uint64_t bytes = status == CL_COMPLETE ? command->payload_bytes : 0;
      const wire::opencl::EnqueueReadReply reply{status, {bytes}};
      std::array<std::byte, sizeof reply.status + sizeof reply.data.size_bytes> body;
      wire::Encode(reply, body);
      completions_->Reply(command->opcode, command->sequence, body, bytes);
      break;
    }
    case Tracked::Duty::kPayloadDone: completions_->PayloadDone(command->sequence); break;
  }

  EventCompletion completion{command->event, status};
  if (command->profiles && status == CL_COMPLETE) ReadTimes(command->native.get(), &completion);
  QueueProgress* const queue = command->queue;
  const std::uint64_t group = command->group_;
  Transfer* const transfer = command->transfer;
  {
    std::lock_guard lock(mutex_);
    (command->previous_ == nullptr ? under_way_ : command->previous_->next_) = command->next_;
    if (command->next_ != nullptr) command->next_->previous_ = command->previous_;
  }
  command->Unref();  // not under the lock: it may be what deletes a buffer. Not later: Close waits for it

  std::unique_lock lock(mutex_);
  if (!completion.event.null()) reports_.push_back({Report::Kind::kEvent, 0, completion});
  if (transfer != nullptr) {
    Merge(completion, &transfer->completion);
    if (--transfer->running == 0 && transfer->closed) {
      if (!transfer->completion.event.null())
        reports_.push_back({Report::Kind::kEvent, 0, transfer->completion});
      delete transfer;
    }
  }
  --queue->groups[group - queue->first_group].running;
  --queue->running;
  AnswerFinishes(queue);
  tracked_.fetch_sub(1, std::memory_order_relaxed);
  Deliver(lock);
}

void Reporter::AnswerFinishes(QueueProgress* queue) {
  while (queue->groups.front().closed && queue->groups.front().running == 0) {
    reports_.push_back({Report::Kind::kFinish, queue->groups.front().finish_sequence, {}});
    queue->groups.pop_front();
    ++queue->first_group;
  }
}

void Reporter::Deliver(std::unique_lock<std::mutex>& lock) {
  if (delivering_) return;
  delivering_ = true;
  while (!reports_.empty()) {
    sending_.clear();
    sending_.swap(reports_);
    lock.unlock();
    SendAll(sending_);
    lock.lock();
  }
  delivering_ = false;
  // Under the lock: whoever waits may destroy this as soon as it is released.
  if (tracked_.load() == 0) idle_.notify_all();
}

void Reporter::SendAll(const std::vector<Report>& reports) {
  const auto send_batch = [this] {
    if (batch_.empty()) return;
    const wire::opencl::EventsCompleted notice{{batch_}};
    body_.resize(wire::EncodedSize(notice));
    wire::Encode(notice, body_);
    completions_->Notice(wire::kOpcodeOf<wire::opencl::EventsCompleted>, body_);
    batch_.clear();
  };
  for (const Report& report : reports) {
    if (report.kind == Report::Kind::kEvent) {
      batch_.push_back(report.completion);
      if (batch_.size() == wire::kMaxEventsPerNotice) send_batch();
      continue;
    }
    send_batch();
    SendStatus(*completions_,
               report.kind == Report::Kind::kFinish ? wire::kOpcodeOf<wire::opencl::Finish>
                                                    : wire::kOpcodeOf<wire::DestroyObject>,
               report.sequence, 0);
  }
  send_batch();
}

}  // namespace tulle::gpu::opencl
