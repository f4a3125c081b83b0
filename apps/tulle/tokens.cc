#include "apps/tulle/tokens.h"

#include <chrono>
#include <memory>

#include "apps/tulle/join.h"
#include "apps/tulle/text.h"
#include "tulle/control/model/rules.h"

namespace tulle::cli {
namespace {

constexpr Duration kMostApiLifetime = std::chrono::hours(366 * 24);

// The secret alone on standard output, for scripts; what to do with it beside it.
Status CreateApiToken(sdk::Client& client, const std::string& description, Duration lifetime) {
  TULLE_ASSIGN_OR_RETURN(const sdk::NewApiToken made, client.CreateApiToken(description, lifetime));
  std::printf("%s\n", made.secret.c_str());
  const sdk::Config& config = client.config();
  std::fprintf(stderr,
               "API token %s of %s, until %s. It is not shown again. To use it:\n\n"
               "  export TULLE_API_TOKEN=... TULLE_ENDPOINT=%s TULLE_CA_FILE=%s\n",
               made.token.id.c_str(), made.token.tenant.c_str(),
               control::FormatUtc(made.token.expire_time_us).c_str(), config.endpoint.c_str(),
               config.ca_file.c_str());
  if (!config.http_endpoint.empty()) {
    std::fprintf(
        stderr,
        "  curl --cacert \"$TULLE_CA_FILE\" -H \"Authorization: Bearer $TULLE_API_TOKEN\" --json '{}' \\\n"
        "    https://%s/tulle.v1.Mesh/ListClaims\n",
        config.http_endpoint.c_str());
  }
  return OkStatus();
}

}  // namespace

std::string TokenTable(const std::vector<sdk::ApiToken>& tokens) {
  Table table({"ID", "TENANT", "CREATED", "EXPIRES", "DESCRIPTION"});
  for (const sdk::ApiToken& token : tokens) {
    table.Add({token.id, token.tenant, control::FormatUtc(token.create_time_us),
               control::FormatUtc(token.expire_time_us), token.description});
  }
  return table.TakeText();
}

void AddTokenCommands(CLI::App& app, const Runner& run) {
  struct Flags {
    std::string name, description, id, tenant, lifetime, output = "table";
    bool is_api = false;
  };
  const auto flags = std::make_shared<Flags>();

  CLI::App* token = app.add_subcommand(
      "token", "Let another machine, another user, or a program of your own into the mesh");
  token->require_subcommand(1);
  CLI::App* create = token->add_subcommand(
      "create", "Make a token for one use, and print the line that its bearer runs; or one for the API");
  create->footer(
      "Examples:\n  tulle token create --node                 a node that chooses its name\n"
      "  tulle token create --node gpu-1 --lifetime 1d\n  tulle token create --user bob\n"
      "  tulle token create --api --description \"nightly build\" --lifetime 90d\n\n"
      "Those for nodes and users are for administrators. One for the API is your own: programs that have no "
      "certificate\ncall as you with it, from anywhere, until it expires; they may make no tokens. Whoever "
      "has "
      "a token is let in:\nhand it over as you would a password.");
  CLI::Option* node =
      create->add_option("--node", flags->name, "For a node, of that name if one is given")->expected(0, 1);
  CLI::Option* user = create->add_option("--user", flags->name, "For a user of that name")->excludes(node);
  CLI::Option* api = create->add_flag("--api", flags->is_api, "For a program, to call the API as you")
                         ->excludes(node)
                         ->excludes(user);
  create->add_option("--description", flags->description, "What it is for, with --api")->needs(api);
  create->add_option(
      "--lifetime", flags->lifetime,
      "How long it may be used, such as 30m, 12h or 7d, at most 30d, with --api 366d [1h, with "
      "--api 30d]");
  create->callback([flags, run, node, user] {
    run([&](sdk::Client& client) -> Status {
      if (flags->is_api) {
        Duration lifetime(0);
        if (!flags->lifetime.empty()) {
          TULLE_ASSIGN_OR_RETURN(lifetime, ParseLifetime("--lifetime", flags->lifetime, kMostApiLifetime));
        }
        return CreateApiToken(client, flags->description, lifetime);
      }
      if (node->count() + user->count() == 0) {
        return Error{.code = Code::kInvalidArgument,
                     .message = "say for whom: --node [NAME], --user NAME, or --api"};
      }
      TULLE_ASSIGN_OR_RETURN(const Duration lifetime,
                             ParseLifetime("--lifetime", flags->lifetime.empty() ? "1h" : flags->lifetime));
      const auto role = user->count() != 0 ? control::JoinRole::kUser : control::JoinRole::kNode;
      return CreateToken(client, role, flags->name, lifetime);
    });
  });

  CLI::App* list = token->add_subcommand("list", "API tokens that have not expired");
  list->footer("Examples:\n  tulle token list\n  tulle token list --tenant bob -o json");
  list->add_option("--tenant", flags->tenant, "Whose [your own]");
  AddOutput(list, &flags->output);
  list->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      TULLE_ASSIGN_OR_RETURN(const auto tokens, client.ListApiTokens({.tenant = flags->tenant}));
      PrintAll(tokens, flags->output, TokenTable(tokens));
      return OkStatus();
    });
  });

  CLI::App* remove = token->add_subcommand("delete", "Refuse an API token from now on");
  remove->footer(
      "Examples:\n  tulle token delete 0123456789abcdef\n\nIts streams end, too. `tulle token list` "
      "shows the IDs.");
  remove->add_option("ID", flags->id, "Which")->required();
  remove->add_option("--tenant", flags->tenant, "Whose [your own]; for administrators");
  remove->callback([flags, run] {
    run([&](sdk::Client& client) -> Status {
      TULLE_ASSIGN_OR_RETURN(const sdk::ApiToken gone,
                             client.DeleteApiToken(flags->id, {.tenant = flags->tenant}));
      std::printf("API token %s of %s is deleted\n", gone.id.c_str(), gone.tenant.c_str());
      return OkStatus();
    });
  });
}

}  // namespace tulle::cli
