// Makes a claim, waits for its vGPU, lists the mesh's GPUs and the claims, and releases the claim.
#include <iostream>
#include <memory>

#include "tulle/control/model/rules.h"
#include "tulle/sdk/client.h"

namespace {

tulle::Status Run() {
  TULLE_ASSIGN_OR_RETURN(const std::unique_ptr<tulle::sdk::Client> client, tulle::sdk::Client::Connect());
  TULLE_ASSIGN_OR_RETURN(
      tulle::sdk::Claim claim,
      client->CreateClaim({.spec = {.memory_bytes = 256 << 20, .release_when_unheld = true}}));
  {
    const std::unique_ptr<tulle::sdk::ClaimHold> hold =
        client->Hold(claim.metadata.name, {.program = "list"});
    TULLE_ASSIGN_OR_RETURN(claim, hold->WaitBound());
    TULLE_ASSIGN_OR_RETURN(const auto vgpus, client->Attach(claim.metadata.name));
    for (const auto& vgpu : vgpus) std::cout << "vgpu " << vgpu.vgpu << " " << vgpu.memory_bytes << "\n";
    TULLE_ASSIGN_OR_RETURN(const auto gpus, client->ListGpus());
    for (const auto& gpu : gpus) std::cout << "gpu " << gpu.metadata.name << "\n";
    TULLE_ASSIGN_OR_RETURN(const auto claims, client->ListLiveClaims());
    for (const auto& each : claims) {
      std::cout << "claim " << each.metadata.name << " " << tulle::control::Name(each.status.phase) << "\n";
    }
  }
  TULLE_RETURN_IF_ERROR(client->DeleteClaim(claim.metadata.name));
  return tulle::OkStatus();
}

}  // namespace

int main() {
  const tulle::Status status = Run();
  if (!status.ok()) std::cerr << status.error().message << "\n";
  return status.ok() ? 0 : 1;
}
