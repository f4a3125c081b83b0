#include "tulle/control/placement/placer.h"

#include <algorithm>
#include <array>

namespace tulle::control {
namespace {

constexpr std::size_t kNewcomers = 64;
constexpr std::size_t kAlike = 8;

}  // namespace

std::size_t Placer::Add(NodeRoom room) {
  const std::size_t index = nodes_.size();
  nodes_.emplace_back();
  headroom_.emplace_back();
  for (Kept& kept : rankings_) kept.ranking.Grow(nodes_.size());
  Set(index, std::move(room));
  return index;
}

void Placer::Use(std::unique_ptr<Policy> policy) {
  policy_ = std::move(policy);
  newcomers_.clear();
  next_newcomer_ = 0;
  for (Kept& kept : rankings_) newcomers_.push_back(std::move(kept.demand));  // no newcomers
  rankings_.clear();
}

void Placer::Set(std::size_t index, NodeRoom room) {
  nodes_[index] = std::move(room);
  Rescore(index);
}

void Placer::Take(const Demand& demand, const PlacedDemand& placed) {
  control::Take(&nodes_[placed.node], demand, placed.gpus);
  Rescore(placed.node);
}

void Placer::Give(const Demand& demand, const PlacedDemand& placed) {
  control::Give(&nodes_[placed.node], demand, placed.gpus);
  Rescore(placed.node);
}

template <typename F>
void Placer::VisitWithRoom(const Demand& demand, F visit) {
  // Many nodes of a new mesh are alike.
  struct Scored {
    const NodeRoom* node = nullptr;
    float score = 0;
  };
  std::array<Scored, kAlike> scored;
  std::size_t next = 0;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const NodeRoom& node = nodes_[i];
    if (headroom_[i].compute < demand.compute || headroom_[i].memory < demand.memory) continue;
    if (!Fits(node, demand)) continue;
    const auto alike = std::find_if(scored.begin(), scored.end(), [&](const Scored& other) {
      return other.node != nullptr && *other.node == node;
    });
    if (policy_->scores_last() && alike != scored.end()) {
      visit(i, alike->score);
      continue;
    }
    policy_->Look(node);
    const float score = policy_->Best(demand).score;
    scored[next++ % kAlike] = {.node = &node, .score = score};
    visit(i, score);
  }
}

Ranking* Placer::RankingOf(const Demand& demand) {
  if (most_rankings_ == 0 || !policy_->scores_last()) return nullptr;
  const auto known = std::find_if(rankings_.begin(), rankings_.end(),
                                  [&](const Kept& kept) { return kept.demand == demand; });
  if (known != rankings_.end()) {
    known->used = choices_;
    return &known->ranking;
  }
  const auto newcomer = std::find(newcomers_.begin(), newcomers_.end(), demand);
  if (newcomer == newcomers_.end()) {
    if (newcomers_.size() < kNewcomers) {
      newcomers_.push_back(demand);
    } else {
      newcomers_[next_newcomer_++ % newcomers_.size()] = demand;
    }
    return nullptr;
  }
  Kept* kept = nullptr;
  if (rankings_.size() < most_rankings_) {
    kept = &rankings_.emplace_back();
  } else {
    kept = &*std::min_element(rankings_.begin(), rankings_.end(),
                              [](const Kept& a, const Kept& b) { return a.used < b.used; });
  }
  *kept = {.demand = demand, .used = choices_};
  kept->ranking.Grow(nodes_.size());
  VisitWithRoom(demand, [&](std::size_t index, float score) { kept->ranking.Set(index, score); });
  return &kept->ranking;
}

std::optional<PlacedDemand> Placer::Choose(const Demand& demand,
                                           const std::function<bool(std::size_t)>& may_use) {
  ++choices_;
  Ranking::Top top;
  const Ranking* const ranking = may_use ? nullptr : RankingOf(demand);
  if (ranking != nullptr) {
    top = ranking->Best();
  } else {
    VisitWithRoom(demand, [&](std::size_t index, float score) {
      if (score > top.score && (!may_use || may_use(index))) top = {.node = index, .score = score};
    });
  }
  if (top.score == Choice::kNoRoom) return std::nullopt;
  const NodeRoom& node = nodes_[top.node];
  policy_->Look(node);
  return PlacedDemand{.node = top.node, .gpus = GpusOf(node, demand, policy_->Best(demand))};
}

void Placer::Rescore(std::size_t index) {
  const NodeRoom& node = nodes_[index];
  Headroom& headroom = headroom_[index];
  headroom = {};
  for (const GpuRoom& gpu : node.gpus) {
    headroom.compute = std::max(headroom.compute, gpu.compute);
    headroom.memory = std::max(headroom.memory, gpu.memory);
  }
  if (rankings_.empty()) return;
  policy_->Look(node);
  for (Kept& kept : rankings_) kept.ranking.Set(index, policy_->Best(kept.demand).score);
}

}  // namespace tulle::control
