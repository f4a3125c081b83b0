#include "tulle/shim/opencl/includes.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>

namespace tulle::shim::opencl {
namespace {

bool IsNameStart(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool IsNamePart(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

// The name at the start of `text`; empty when there is none.
std::string_view NameAt(std::string_view text) {
  if (text.empty() || !IsNameStart(text.front())) return {};
  std::size_t end = 1;
  while (end < text.size() && IsNamePart(text[end])) ++end;
  return text.substr(0, end);
}

struct Macro {
  bool is_function = false;
  std::vector<std::string> parameters;
  std::string body;
};

// Just enough of a preprocessor to work out the operand of an #include.
class Macros {
 public:
  // "NAME", "NAME(a,b)".
  void Define(std::string_view head, std::string_view body) {
    const std::string_view name = NameAt(head);
    if (name.empty()) return;
    Macro macro;
    macro.body = Trim(body);
    head.remove_prefix(name.size());
    if (!head.empty() && head.front() == '(') {
      macro.is_function = true;
      head.remove_prefix(1);
      head = head.substr(0, head.find(')'));
      while (!head.empty()) {
        const std::size_t comma = std::min(head.find(','), head.size());
        macro.parameters.emplace_back(Trim(head.substr(0, comma)));
        head.remove_prefix(std::min(comma + 1, head.size()));
      }
    }
    macros_[std::string(name)] = std::move(macro);
  }

  std::string Expand(std::string_view text, int depth = 0) const {
    std::string out;
    while (!text.empty()) {
      if (text.front() == '"') {
        const std::size_t end = text.find('"', 1);
        const std::size_t size = end == std::string_view::npos ? text.size() : end + 1;
        out += text.substr(0, size);
        text.remove_prefix(size);
        continue;
      }
      const std::string_view name = NameAt(text);
      if (name.empty()) {
        out += text.front();
        text.remove_prefix(1);
        continue;
      }
      text.remove_prefix(name.size());
      const auto found = macros_.find(name);
      std::vector<std::string> arguments;
      if (depth >= kMaxDepth || found == macros_.end() ||
          (found->second.is_function && !TakeArguments(&text, &arguments))) {
        out += name;
        continue;
      }
      out += Expand(Substitute(found->second, arguments, depth), depth + 1);
    }
    return out;
  }

 private:
  static constexpr int kMaxDepth = 32;  // stands for the rule that a macro does not expand itself

  static bool TakeArguments(std::string_view* text, std::vector<std::string>* arguments) {
    std::string_view rest = *text;
    while (!rest.empty() && IsBlank(rest.front())) rest.remove_prefix(1);
    if (rest.empty() || rest.front() != '(') return false;
    int open = 0;
    std::string current;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      const char c = rest[i];
      if (c == '(' && open++ == 0) continue;
      if (c == ')' && --open == 0) {
        arguments->emplace_back(Trim(current));
        *text = rest.substr(i + 1);
        return true;
      }
      if (c == ',' && open == 1) {
        arguments->emplace_back(Trim(current));
        current.clear();
      } else {
        current += c;
      }
    }
    return false;
  }

  std::string Substitute(const Macro& macro, const std::vector<std::string>& arguments, int depth) const {
    std::string out;
    std::string_view body = macro.body;
    while (!body.empty()) {
      const bool quotes = body.front() == '#' && body.substr(0, 2) != "##";
      const std::string_view after = quotes ? Trim(body.substr(1)) : body;
      const std::string_view name = NameAt(after);
      const auto parameter = std::find(macro.parameters.begin(), macro.parameters.end(), name);
      const auto index = static_cast<std::size_t>(parameter - macro.parameters.begin());
      if (name.empty() || parameter == macro.parameters.end() || index >= arguments.size()) {
        const std::size_t size = name.empty() || quotes ? 1 : name.size();
        out += body.substr(0, size);
        body.remove_prefix(size);
        continue;
      }
      out += quotes ? '"' + arguments[index] + '"' : Expand(arguments[index], depth + 1);
      body = after.substr(name.size());
    }
    return out;
  }

  std::map<std::string, Macro, std::less<>> macros_;
};

class Inliner {
 public:
  Inliner(const IncludeOptions& options, const std::map<std::string, std::string>& headers,
          std::size_t max_bytes)
      : options_(options), headers_(headers), max_bytes_(max_bytes) {
    for (const auto& [head, body] : options.macros) macros_.Define(head, body);
  }

  Result<std::string> Run(std::string_view source) {
    std::string guard;
    TULLE_RETURN_IF_ERROR(Add(source, "", &guard));
    return std::move(out_);
  }

 private:
  struct File {
    std::string path;
    std::string text;
  };

  // Appends the text, file by file. Comments and strings are stepped over, so that nothing in them counts.
  // `once` becomes the name of the macro that says that the file was there, if there must be one.
  Status Add(std::string_view text, const std::string& path, std::string* once) {
    bool in_comment = false;
    for (std::size_t at = 0, line = 1; at < text.size();) {
      // A line of the source, with those that backslashes join to it.
      std::size_t end = at;
      std::size_t lines = 1;
      for (;;) {
        end = std::min(text.find('\n', end), text.size());
        const bool joined =
            end < text.size() && end > at &&
            (text[end - 1] == '\\' || (text[end - 1] == '\r' && end - 1 > at && text[end - 2] == '\\'));
        if (!joined) break;
        ++end;
        ++lines;
      }
      const std::string_view raw = text.substr(at, std::min(end + 1, text.size()) - at);
      if (out_.size() + raw.size() > max_bytes_) {
        return Error{Code::kResourceExhausted,
                     "with the files that it includes, the source is larger than " + FormatBytes(max_bytes_)};
      }
      at += raw.size();
      line += lines;
      const std::string code = StripComments(raw, &in_comment);
      if (IsPragmaOnce(code) && !path.empty()) {
        // Where it stands, since the compiler may skip it.
        *once = OnceName(path);
        out_ += "#define " + *once + std::string(lines, '\n');
        continue;
      }
      const std::optional<File> file = Directive(code, path);
      if (!file) {
        out_ += raw;
        continue;
      }
      if (std::find(stack_.begin(), stack_.end(), file->path) == stack_.end()) {
        const std::size_t begin = out_.size();
        std::string guard;
        out_ += "#line 1 \"" + file->path + "\"\n";
        stack_.push_back(file->path);
        TULLE_RETURN_IF_ERROR(Add(file->text, file->path, &guard));
        stack_.pop_back();
        if (!out_.ends_with('\n')) out_ += '\n';
        if (!guard.empty()) {
          out_.insert(begin, "#ifndef " + guard + "\n");
          out_ += "#endif\n";
        }
      }
      out_ += "#line " + std::to_string(line) + " \"" + (path.empty() ? "program.cl" : path) + "\"\n";
    }
    return OkStatus();
  }

  static bool IsPragmaOnce(std::string_view code) {
    for (const std::string_view word : {"#", "pragma", "once"}) {
      code = Trim(code);
      if (!code.starts_with(word)) return false;
      code.remove_prefix(word.size());
    }
    return Trim(code).empty();
  }

  // However the file is named, as far as that can be told.
  std::string OnceName(const std::string& path) {
    const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr), &std::free);
    const bool given = headers_.contains(path);
    const auto number = once_.try_emplace(given || !real ? path : real.get(), once_.size()).first->second;
    return "TULLE_ONCE_" + std::to_string(number);
  }

  static std::string FormatBytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

  static std::string StripComments(std::string_view line, bool* in_comment) {
    std::string code;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string_view two = line.substr(i, 2);
      if (*in_comment) {
        if (two == "*/") {
          *in_comment = false;
          code += ' ';
          ++i;
        }
        continue;
      }
      if (two == "//") break;
      if (two == "/*") {
        // In an operand of #include a path may hold this pair; there it starts no comment in practice.
        *in_comment = true;
        ++i;
        continue;
      }
      if (line[i] == '"' || line[i] == '\'') {
        const char quote = line[i];
        std::size_t end = i + 1;
        while (end < line.size() && line[end] != quote && line[end] != '\n') end += line[end] == '\\' ? 2 : 1;
        end = std::min(end, line.size() - 1);
        code += line.substr(i, end + 1 - i);
        i = end;
        continue;
      }
      if (line[i] == '\\' && (line.substr(i + 1, 1) == "\n" || line.substr(i + 1, 2) == "\r\n")) {
        i += line[i + 1] == '\n' ? 1 : 2;
        code += ' ';
        continue;
      }
      code += line[i];
    }
    return code;
  }

  // The file that this line includes, if it does and it is found. Notes what it defines.
  std::optional<File> Directive(std::string_view code, const std::string& path) {
    code = Trim(code);
    if (code.empty() || code.front() != '#') return std::nullopt;
    code = Trim(code.substr(1));
    const std::string_view name = NameAt(code);
    code.remove_prefix(name.size());
    if (name == "define") {
      code = Trim(code);
      const std::string_view macro = NameAt(code);
      std::size_t head = macro.size();
      if (head < code.size() && code[head] == '(') head = std::min(code.find(')', head), code.size() - 1) + 1;
      macros_.Define(code.substr(0, head), code.substr(head));
      return std::nullopt;
    }
    if (name != "include") return std::nullopt;
    std::string operand(Trim(code));
    if (!operand.starts_with('"') && !operand.starts_with('<')) operand = Trim(macros_.Expand(operand));
    const bool quoted = operand.starts_with('"');
    if (!quoted && !operand.starts_with('<')) return std::nullopt;
    const std::size_t end = operand.find(quoted ? '"' : '>', 1);
    if (end == std::string::npos || stack_.size() >= static_cast<std::size_t>(kMaxIncludeDepth))
      return std::nullopt;
    return Find(operand.substr(1, end - 1), quoted, path);
  }

  std::optional<File> Find(const std::string& name, bool quoted, const std::string& from) {
    if (const auto header = headers_.find(name); header != headers_.end()) return File{name, header->second};
    if (name.starts_with('/')) return Load(name);
    if (quoted && !from.empty()) {
      if (auto file = Load(from.substr(0, from.rfind('/') + 1) + name)) return file;
    }
    for (const std::string& folder : options_.folders) {
      if (auto file = Load(folder + "/" + name)) return file;
    }
    return quoted ? Load(name) : std::nullopt;
  }

  std::optional<File> Load(const std::string& path) {
    const auto [entry, fresh] = loaded_.try_emplace(path);
    if (fresh) {
      struct stat info {};
      if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) &&
          static_cast<std::size_t>(info.st_size) <= max_bytes_) {
        std::ifstream file(path, std::ios::binary);
        if (file) entry->second = std::string(std::istreambuf_iterator<char>(file), {});
      }
    }
    if (!entry->second) return std::nullopt;
    return File{path, *entry->second};
  }

  const IncludeOptions& options_;
  const std::map<std::string, std::string>& headers_;
  const std::size_t max_bytes_;
  Macros macros_;
  std::string out_;
  std::vector<std::string> stack_;                            // files that are being inlined
  std::map<std::string, std::optional<std::string>> loaded_;  // what was read of them
  std::map<std::string, std::size_t> once_;                   // those with #pragma once, numbered
};

}  // namespace

IncludeOptions ParseIncludeOptions(std::string_view build_options) {
  std::vector<std::string> words;
  bool quoted = false;
  bool open = false;
  for (const char c : build_options) {
    if (c == '"') {
      quoted = !quoted;
      if (!open) words.emplace_back();
      open = true;
    } else if (!quoted && std::isspace(static_cast<unsigned char>(c)) != 0) {
      open = false;
    } else {
      if (!open) words.emplace_back();
      open = true;
      words.back() += c;
    }
  }
  IncludeOptions options;
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (const std::string_view flag : {"-I", "-D"}) {
      if (!words[i].starts_with(flag)) continue;
      std::string value = words[i].substr(2);
      if (value.empty() && i + 1 < words.size()) value = words[++i];
      if (flag == "-I") {
        options.folders.push_back(value);
      } else {
        const std::size_t equals = value.find('=');
        options.macros[value.substr(0, equals)] =
            equals == std::string::npos ? "1" : value.substr(equals + 1);
      }
      break;
    }
  }
  return options;
}

Result<std::string> InlineIncludes(std::string_view source, const IncludeOptions& options,
                                   const std::map<std::string, std::string>& headers, std::size_t max_bytes) {
  if (source.find("include") == std::string_view::npos) return std::string(source);
  return Inliner(options, headers, max_bytes).Run(source);
}

}  // namespace tulle::shim::opencl
