// Programs that are attached to vGPUs, as nodes report them. Not kept: a controller that starts learns them
// anew.
#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {
namespace {

constexpr std::size_t kMaxListed = 256;  // of one vGPU
constexpr std::size_t kNameBytes = 8;

// Logs and the API show it.
bool IsId(const std::string& text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

void Core::SetSessions(VGpuState& vgpu, const std::vector<SessionReport>& attached) {
  std::set<std::string> gone = vgpu.sessions;
  for (const SessionReport& report : attached) {
    if (gone.erase(report.id) != 0 || vgpu.sessions.size() >= kMaxListed || !IsId(report.id)) continue;
    if (sessions_.Find(report.id) != nullptr) continue;  // of another vGPU: none of ours says so
    const VGpu& model = vgpu.model();
    std::string name = report.id.substr(0, kNameBytes);
    if (sessions_.HasName(model.metadata.tenant, name)) name = report.id;
    sessions_.Insert({.session = {.metadata = {.name = name,
                                               .uid = report.id,
                                               .create_time_us = now_.wall_us,
                                               .tenant = model.metadata.tenant},
                                  .spec = {.vgpu = model.metadata.name, .claim = model.spec.claim},
                                  .status = {.node = model.status.node,
                                             .program = Cut(report.program, kMaxProgramBytes),
                                             .process_id = report.process_id,
                                             .channel = Cut(report.channel, kMaxNameBytes)}}});
    vgpu.sessions.insert(report.id);
    Touch(Kind::kSession, report.id, false);
  }
  for (const std::string& uid : gone) {
    vgpu.sessions.erase(uid);
    Remove(sessions_, Kind::kSession, uid);
  }
}

}  // namespace tulle::control
