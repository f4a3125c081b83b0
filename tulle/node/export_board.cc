#include "tulle/node/export_board.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tulle::node {

wire::ExportStatus ExportBoard::Offer(const std::string& vgpu, const std::string& token,
                                      const std::string& tenant, std::uint64_t size_bytes, bool writable,
                                      UniqueFd memory) {
  if (!memory.valid() || token.empty() || exports_.contains(token)) return wire::ExportStatus::kUnavailable;
  const auto has = std::count_if(exports_.begin(), exports_.end(),
                                 [&](const auto& one) { return one.second.owner == vgpu; });
  if (static_cast<std::size_t>(has) >= wire::kMaxExports || exports_.size() >= kMaxExportsOfNode)
    return wire::ExportStatus::kTooMany;
  Export& its = exports_[token];
  its.owner = vgpu;
  its.tenant = tenant;
  its.memory = std::move(memory);
  its.taken = {its.memory.get(), size_bytes, writable};
  return wire::ExportStatus::kOk;
}

const ExportBoard::Taken* ExportBoard::Take(const std::string& vgpu, const std::string& tenant,
                                            const std::string& token, std::uint64_t session) {
  const auto found = exports_.find(token);
  if (found == exports_.end() || found->second.withdrawn || found->second.tenant != tenant) return nullptr;
  found->second.sessions.emplace(vgpu, session);
  return &found->second.taken;
}

void ExportBoard::Close(const std::string& vgpu, const std::string& token, std::uint64_t session) {
  const auto found = exports_.find(token);
  if (found == exports_.end() || found->second.sessions.erase({vgpu, session}) == 0) return;
  (void)Settle(found);
}

void ExportBoard::Release(const std::string& vgpu, const std::string& token) {
  Export* const its = FindOf(vgpu, token);
  if (its == nullptr) return;
  its->released = true;
  (void)Settle(exports_.find(token));
}

void ExportBoard::Withdraw(const std::string& vgpu, const std::string& token, Done done) {
  Export* const its = FindOf(vgpu, token);
  if (its == nullptr) return done(wire::ExportStatus::kNoSuchExport);
  if (its->waiting.size() >= kMaxWithdrawals) return done(wire::ExportStatus::kUnavailable);
  its->waiting.push_back(std::move(done));
  Withdraw(token, *its);
  (void)Settle(exports_.find(token));
}

void ExportBoard::OnWorkerEnded(const std::string& vgpu) {
  for (auto it = exports_.begin(); it != exports_.end();) {
    Export& its = it->second;
    std::erase_if(its.sessions, [&](const auto& session) { return session.first == vgpu; });
    if (its.owner == vgpu) {
      its.owner.clear();
      Withdraw(it->first, its);
    }
    it = Settle(it);
  }
}

ExportBoard::Export* ExportBoard::FindOf(const std::string& vgpu, const std::string& token) {
  const auto found = exports_.find(token);
  return found == exports_.end() || found->second.owner != vgpu ? nullptr : &found->second;
}

void ExportBoard::Withdraw(const std::string& token, Export& its) {
  if (std::exchange(its.withdrawn, true)) return;
  std::set<std::string> vgpus;
  for (const auto& [vgpu, session] : its.sessions) vgpus.insert(vgpu);
  for (const std::string& vgpu : vgpus) tell_.withdrawn(vgpu, token);
}

ExportBoard::Exports::iterator ExportBoard::Settle(Exports::iterator at) {
  Export& its = at->second;
  if (!its.sessions.empty() || (!its.released && !its.withdrawn)) return std::next(at);
  const auto over = exports_.extract(at++);
  for (const Done& done : over.mapped().waiting) done(wire::ExportStatus::kOk);
  if (!over.mapped().owner.empty()) tell_.unused(over.mapped().owner, over.key());
  return at;
}

}  // namespace tulle::node
