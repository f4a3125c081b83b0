#include "apps/tulle/completion.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "apps/tulle/text.h"

namespace tulle::cli {
namespace {

// "tulle tenant set" and what may follow it: commands, then flags.
struct Words {
  std::string command;
  std::vector<std::pair<std::string, std::string>> next;  // with what each is
};

std::string FirstPart(const std::string& text) {
  return text.substr(0, std::min({text.find(". "), text.find("; "), text.find(", "), text.find(": ")}));
}

void Collect(const CLI::App& app, const std::string& command, std::vector<Words>* all) {
  Words words{.command = command};
  const std::vector<const CLI::App*> commands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* sub : commands)
    words.next.emplace_back(sub->get_name(), FirstPart(sub->get_description()));
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    for (const std::string& name : option->get_lnames()) {
      words.next.emplace_back("--" + name, FirstPart(option->get_description()));
    }
  }
  all->push_back(std::move(words));
  for (const CLI::App* sub : commands) Collect(*sub, command + " " + sub->get_name(), all);
}

// Of the longest command that the line begins with, what may follow; kinds of resources after those that take
// one. After -- it is another program's line.
std::string Bash(const std::vector<Words>& all, const std::string& name) {
  std::string text = "_" + name + "() {\n  local command=" + name +
                     " word words= i\n  COMPREPLY=()\n  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
                     "    word=${COMP_WORDS[i]}\n    if [[ $word == -- ]]; then\n"
                     "      _command_offset $((i + 1)) 2> /dev/null\n      return\n    fi\n"
                     "    case \"$command $word\" in\n";
  for (const Words& words : all) {
    if (words.command != name) {
      text += "      " + Quoted(words.command) + ") command=" + Quoted(words.command) + " ;;\n";
    }
  }
  text += "    esac\n  done\n  case $command in\n";
  for (const Words& words : all) {
    std::string list;
    for (const auto& [word, what] : words.next) list += (list.empty() ? "" : " ") + word;
    const std::string last = words.command.substr(words.command.rfind(' ') + 1);
    if (last == "get" || last == "describe" || last == "watch" || last == "events") {
      list += " nodes gpus vgpus claims sessions instances tenants";
    } else if (last == "delete") {
      list += " claim tenant";
    }
    text += "    " + Quoted(words.command) + ") words=" + Quoted(list) + " ;;\n";
  }
  return text +
         "  esac\n  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\")\n}\n"
         "complete -F _" +
         name + " -o default " + name + "\n";
}

std::string Fish(const std::vector<Words>& all, const std::string& name) {
  std::string text = "complete -c " + name + " -f\n";
  for (const Words& words : all) {
    std::string condition = words.command == name ? "__fish_use_subcommand" : "";
    std::string rest = words.command.substr(std::min(name.size() + 1, words.command.size()));
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      condition +=
          (condition.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + rest.substr(0, end));
      rest.erase(0, end + 1);
    }
    for (const auto& [word, what] : words.next) {
      text += "complete -c " + name + " -n " + Quoted(condition) +
              (word.starts_with("--") ? " -l " + word.substr(2) : " -a " + word) + " -d " + Quoted(what) +
              "\n";
    }
  }
  return text;
}

}  // namespace

Result<std::string> Completion(const CLI::App& app, const std::string& shell) {
  std::vector<Words> all;
  Collect(app, app.get_name(), &all);
  if (shell == "bash") return Bash(all, app.get_name());
  if (shell == "zsh") return "autoload -U +X bashcompinit && bashcompinit\n" + Bash(all, app.get_name());
  if (shell == "fish") return Fish(all, app.get_name());
  return Error{.code = Code::kInvalidArgument,
               .message = "there is no completion for " + shell + "; there is for bash, zsh and fish"};
}

}  // namespace tulle::cli
