#include "tulle/control/placement/outlook.h"

#include <utility>

#include "tulle/control/placement/best_gpu.h"
#include "tulle/control/placement/fragmentation.h"

namespace tulle::control {
namespace {

class Predictive final : public Policy {
 public:
  explicit Predictive(std::shared_ptr<const Outlook> outlook)
      : outlook_(std::move(outlook)), fragmentation_(outlook_->workload) {}
  const char* name() const override { return "predictive"; }
  void Look(const NodeRoom& node) override {
    node_ = &node;
    fragmentation_.Look(node);
    left_ = outlook_->leftover->Of(node);
  }
  Choice Best(const Demand& demand) const override {
    return BestGpu(*node_, demand, [&](const std::uint32_t* gpus, std::size_t count) {
      const double fragment = fragmentation_.After(demand, gpus, count) - fragmentation_.now();
      const double left = outlook_->leftover->After(*node_, demand, gpus, count) - left_;
      return InSteps(-(left + outlook_->gradient * fragment));
    });
  }

 private:
  std::shared_ptr<const Outlook> outlook_;
  Fragmentation fragmentation_;
  const NodeRoom* node_ = nullptr;
  double left_ = 0;
};

}  // namespace

std::unique_ptr<Policy> MakePredictive(std::shared_ptr<const Outlook> outlook) {
  if (outlook->leftover) return std::make_unique<Predictive>(std::move(outlook));
  const Workload* const workload = &outlook->workload;
  return MakeFgd(std::shared_ptr<const Workload>(std::move(outlook), workload));
}

}  // namespace tulle::control
