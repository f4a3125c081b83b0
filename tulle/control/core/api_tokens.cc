// Secrets by which programs without a certificate call the API.
#include <algorithm>

#include "tulle/control/core/core.h"
#include "tulle/control/core/internal.h"
#include "tulle/control/model/rules.h"

namespace tulle::control {

template <typename F>
void Core::ForgetApiTokens(const std::string& tenant, F shall_go) {
  for (auto it = api_tokens_.lower_bound({tenant, ""});
       it != api_tokens_.end() && it->first.first == tenant;) {
    if (!shall_go(it->second)) {
      ++it;
      continue;
    }
    actions_.writes.push_back({Kind::kApiToken, it->second.id, std::nullopt});
    it = api_tokens_.erase(it);
  }
}

void Core::ForgetAllApiTokens(const std::string& tenant) {
  ForgetApiTokens(tenant, [](const ApiToken&) { return true; });
}

std::vector<ApiToken> Core::ApiTokensOf(const std::string& tenant, const Now& now) const {
  std::vector<ApiToken> tokens;
  for (auto it = api_tokens_.lower_bound({tenant, ""}); it != api_tokens_.end() && it->first.first == tenant;
       ++it) {
    if (it->second.expire_time_us > now.wall_us) tokens.push_back(it->second);
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const ApiToken& a, const ApiToken& b) { return a.create_time_us < b.create_time_us; });
  return tokens;
}

void Core::On(const CreateApiToken& event) {
  ApiToken token = event.token;
  const auto check = [&]() -> Status {
    TULLE_RETURN_IF_ERROR(CheckRead(token.tenant, token.tenant));
    if (token.description.size() > kMaxDescriptionBytes) {
      return Refusal(Code::kInvalidArgument, "description: " + std::to_string(token.description.size()) +
                                                 " bytes, at most " + std::to_string(kMaxDescriptionBytes));
    }
    const WallMicros lifetime_us =
        std::chrono::duration_cast<std::chrono::microseconds>(event.lifetime).count();
    if (lifetime_us <= 0 || lifetime_us > kMaxApiTokenMicros) {
      return Refusal(Code::kInvalidArgument,
                     "lifetime: " + Seconds(event.lifetime) + " is not above 0 and at most 366 days");
    }
    TULLE_RETURN_IF_ERROR(TenantNamed(token.tenant));
    token.create_time_us = now_.wall_us;
    token.expire_time_us = now_.wall_us + lifetime_us;
    ForgetApiTokens(token.tenant, [this](const ApiToken& old) { return old.expire_time_us <= now_.wall_us; });
    const std::size_t has = ApiTokensOf(token.tenant, now_).size();
    if (has >= options_.max_api_tokens_per_tenant) {
      return Refusal(Code::kResourceExhausted, "tenant " + token.tenant + " has " + std::to_string(has) +
                                                   " API tokens, the limit; delete some with `tulle token "
                                                   "delete ID`");
    }
    if (api_tokens_.contains({token.tenant, token.id})) return Refusal(Code::kAborted, "try again");
    return OkStatus();
  };
  if (Status status = check(); !status.ok()) return Answer(event.call, std::move(status).error());
  actions_.writes.push_back({Kind::kApiToken, token.id, token});
  api_tokens_.emplace(std::pair(token.tenant, token.id), token);
  Answer(event.call, ReplyBody(std::move(token)));
}

void Core::On(const DeleteApiToken& event) {
  if (Status status = event.caller == event.tenant ? CheckRead(event.caller, event.tenant)
                                                   : Authorize(event.caller, Permission::kAdminister);
      !status.ok()) {
    return Answer(event.call, std::move(status).error());
  }
  const auto it = api_tokens_.find({event.tenant, event.id});
  if (it == api_tokens_.end()) {
    return Answer(event.call, Refusal(Code::kNotFound,
                                      "tenant " + Cut(event.tenant, kMaxNameBytes) + " has no API token \"" +
                                          Cut(event.id, kMaxNameBytes) + "\"; see `tulle token list`"));
  }
  const ApiToken gone = it->second;
  ForgetApiTokens(gone.tenant, [&gone](const ApiToken& token) { return token.id == gone.id; });
  EndHoldsOf(gone.tenant, gone.id, Refusal(Code::kUnauthenticated, "the API token has been deleted"));
  Answer(event.call, ReplyBody(gone));
}

}  // namespace tulle::control
