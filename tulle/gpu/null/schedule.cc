// Which command of which queue runs next, and what is told of it.
#include "tulle/gpu/null/null_backend_class.h"

namespace tulle::gpu::null {

std::shared_ptr<Transfer> NullBackend::FindTransfer(Queue& queue, std::uint64_t number, bool more,
                                                    std::int32_t* result) {
  const auto found = queue.transfers.find(number);
  if (found != queue.transfers.end()) {
    *result = found->second->failed;
    return found->second;
  }
  if (!more) return nullptr;
  if (queue.transfers.size() == kMaxOpenTransfers) {
    *result = status::kOutOfResources;
    return nullptr;
  }
  return queue.transfers.emplace(number, std::make_shared<Transfer>()).first->second;
}

std::int32_t NullBackend::GatherWaits(const wire::WaitList& waits, std::vector<EventPointer>* states) const {
  for (const auto& wait : waits.items) {
    const Event* const event = table_.Find<Event>(wait.handle);
    if (event == nullptr) return status::kInvalidEventWaitList;
    if (event->placeholder || (event->user && event->state->status < 0)) {
      return status::kExecStatusErrorForEventsInWaitList;
    }
    states->push_back(event->state);
  }
  return 0;
}

void NullBackend::Push(Queue& queue, Waiting waiting) {
  waiting.queued_ns = ++now_ns_;
  if (queue.waiting.empty()) active_.push_back(&queue);
  queue.waiting.push_back(std::move(waiting));
  ++waiting_;
}

std::deque<Waiting>::iterator NullBackend::FindReady(Queue& queue) {
  for (auto it = queue.waiting.begin(); it != queue.waiting.end(); ++it) {
    const bool first = it == queue.waiting.begin();
    const bool waited = std::all_of(it->waits.begin(), it->waits.end(),
                                    [](const EventPointer& event) { return event->status != kRunning; });
    if (waited && (first || !it->after_all)) return it;
    if (queue.in_order || it->barrier) break;
  }
  return queue.waiting.end();
}

bool NullBackend::StepOnce() {
  for (Queue* const queue : active_) {
    if (!StepQueue(*queue)) continue;
    if (queue->waiting.empty()) {
      std::erase(active_, queue);
      std::erase_if(retired_, [queue](const auto& retired) { return retired.get() == queue; });
    }
    return true;
  }
  return false;
}

bool NullBackend::StepQueue(Queue& queue) {
  const auto ready = FindReady(queue);
  if (ready == queue.waiting.end()) return false;
  const Waiting command = std::move(*ready);
  queue.waiting.erase(ready);
  --waiting_;
  const bool failed = std::any_of(command.waits.begin(), command.waits.end(),
                                  [](const EventPointer& event) { return event->status < 0; });
  EventCompletion completion{command.event};
  if (queue.profiles) {
    completion.queued_ns = command.queued_ns;
    completion.submitted_ns = ++now_ns_;
    completion.started_ns = ++now_ns_;
  }
  completion.status = failed ? status::kExecStatusErrorForEventsInWaitList : command.run();
  if (queue.profiles) completion.ended_ns = ++now_ns_;
  if (command.answer) command.answer(completion.status);
  command.state->status = completion.status;
  if (command.transfer != nullptr) MergePiece(completion, *command.transfer, &completion);
  if (!command.event.null()) completed_.push_back(completion);
  return true;
}

void NullBackend::MergePiece(const EventCompletion& piece, Transfer& transfer, EventCompletion* whole) {
  EventCompletion& sum = transfer.completion;
  if (sum.queued_ns == 0) {
    const std::int32_t before = sum.status;
    sum = piece;
    if (before != 0) sum.status = before;
  }
  if (sum.status == 0) sum.status = piece.status;
  sum.ended_ns = piece.ended_ns;
  sum.event = piece.event;
  *whole = sum;
}

void NullBackend::SendEvents() {
  for (std::size_t begin = 0; begin < completed_.size(); begin += wire::kMaxEventsPerNotice) {
    const std::size_t count = std::min<std::size_t>(wire::kMaxEventsPerNotice, completed_.size() - begin);
    SendNotice(completions_, wire::opencl::EventsCompleted{{std::span(completed_).subspan(begin, count)}});
  }
  completed_.clear();
}

}  // namespace tulle::gpu::null
