#include "tulle/gpu/cuda_image/variables.h"

#include <elf.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "tulle/gpu/cuda_image/fatbin.h"

namespace tulle::gpu::cuda_image {
namespace {

constexpr std::uint64_t kTooMany = std::numeric_limits<std::uint64_t>::max();

std::uint64_t Sum(std::uint64_t a, std::uint64_t b) { return a > kTooMany - b ? kTooMany : a + b; }
std::uint64_t Product(std::uint64_t a, std::uint64_t b) {
  return a != 0 && b > kTooMany / a ? kTooMany : a * b;
}

// PTX as a row of words, numbers among them, texts in quotes and single signs. An empty one: the end.
class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  std::string_view Next() {
    SkipBlanks();
    const std::size_t begin = at_;
    if (at_ == text_.size()) return {};
    if (text_[at_] == '"') {
      at_ = std::min(text_.find('"', at_ + 1), text_.size() - 1) + 1;
    } else if (IsOfWord(text_[at_])) {
      while (at_ < text_.size() && IsOfWord(text_[at_])) ++at_;
    } else {
      ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }
  // Behind the sign that closes what `open` has opened, which was the last.
  void SkipPast(std::string_view open, std::string_view close) {
    for (std::size_t depth = 1; depth != 0;) {
      const std::string_view word = Next();
      if (word.empty()) return;
      if (word == open) ++depth;
      if (word == close) --depth;
    }
  }

 private:
  static bool IsOfWord(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '$' || c == '%' || c == '.';
  }
  void SkipBlanks() {
    while (at_ < text_.size()) {
      const std::string_view rest = text_.substr(at_);
      if (rest.starts_with("//")) {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (rest.starts_with("/*")) {
        const std::size_t end = text_.find("*/", at_ + 2);
        at_ = end == std::string_view::npos ? text_.size() : end + 2;
      } else if (static_cast<unsigned char>(rest.front()) <= ' ') {
        ++at_;
      } else {
        return;
      }
    }
  }

  const std::string_view text_;
  std::size_t at_ = 0;
};

std::uint64_t Number(std::string_view word) {
  int base = 10;
  if (word.starts_with("0x") || word.starts_with("0X")) {
    word.remove_prefix(2), base = 16;
  } else if (word.starts_with("0b") || word.starts_with("0B")) {
    word.remove_prefix(2), base = 2;
  } else if (word.size() > 1 && word.front() == '0') {
    base = 8;
  }
  std::uint64_t value = 0;
  const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  return error == std::errc::result_out_of_range ? kTooMany : value;
}

// ".f32" is of 4 bytes, ".b8" of 1, ".f16x2" of 4; what is none is of 0. (Of textures and the like, 8.)
std::uint64_t TypeBytes(std::string_view directive) {
  if (directive == ".pred") return 1;
  if (directive == ".texref" || directive == ".samplerref" || directive == ".surfref") return 8;
  for (const std::string_view kind : {".bf", ".b", ".u", ".s", ".f"}) {
    if (!directive.starts_with(kind)) continue;
    directive.remove_prefix(kind.size());
    const std::size_t times = directive.find('x');
    const std::uint64_t bits = Number(directive.substr(0, times));
    return bits / 8 * (times == std::string_view::npos ? 1 : Number(directive.substr(times + 1)));
  }
  return 0;
}

Error NotUnderstood(const std::string& what) { return {.code = Code::kInvalidArgument, .message = what}; }

// How many values stand between braces, the first of which is behind us: on the outermost level, and in all.
struct Values {
  std::uint64_t outermost = 0, all = 0;
};
Values CountValues(Words& words) {
  Values values;
  bool begins = true, begins_outermost = true;  // a value
  for (std::size_t depth = 1;;) {
    const std::string_view word = words.Next();
    if (word.empty()) return values;
    if (word == "}" && --depth == 0) return values;
    if (word == ",") {
      begins = true;
      begins_outermost |= depth == 1;
      continue;
    }
    if (word == "}") continue;
    values.outermost += std::exchange(begins_outermost, false) ? 1 : 0;
    if (word == "{") {
      ++depth;
      begins = true;
    } else {
      values.all += std::exchange(begins, false) ? 1 : 0;
    }
  }
}

// One declaration, `.global` or `.const` being behind us, up to its end: `.align 4 .v2 .f32 a[2][3] = {...},
// b;`
Result<std::uint64_t> DeclaredBytes(Words& words) {
  std::uint64_t element = 0, vector = 1, count = 1, total = 0;
  std::string_view name;
  bool counts_values = false;
  for (;;) {
    const std::string_view word = words.Next();
    const bool ends = word.empty() || word == ";" || word == "}";
    if (ends || word == ",") {
      if (!name.empty() && element == 0)
        return NotUnderstood("the type of variable " + std::string(name) + " is not known");
      if (!name.empty()) total = Sum(total, Product(Product(element, vector), count));
      if (ends) return total;
      name = {};
      count = 1;
      counts_values = false;
    } else if (word == ".align") {
      words.Next();
    } else if (word == "(") {
      words.SkipPast("(", ")");
    } else if (word == ".v2" || word == ".v4" || word == ".v8") {
      vector = Number(word.substr(2));
    } else if (word == "[" || word == "<") {
      const std::string_view size = words.Next();
      if (size == "]") {
        counts_values = true;
      } else {
        count = Product(count, Number(size));
        if (const std::string_view end = words.Next(); end != "]" && end != ">")
          return NotUnderstood("the size of variable " + std::string(name) + " is not a plain number");
      }
    } else if (word == "{") {
      // Where nothing else says how many the outermost dimension has.
      const Values values = CountValues(words);
      if (counts_values) count = std::max(Product(count, values.outermost), values.all);
    } else if (word.front() == '.') {
      if (const std::uint64_t bytes = TypeBytes(word); bytes != 0) element = bytes;
    } else if (name.empty() && word != "=") {
      name = word;
    }
  }
}

bool IsHeaderDirective(std::string_view word) {
  return word == ".version" || word == ".target" || word == ".address_size" || word == ".file" ||
         word == ".loc";
}

Result<std::uint64_t> PtxBytes(std::string_view text) {
  // Whoever passes a C string may have its end in it.
  if (const std::size_t end = text.find('\0'); end != std::string_view::npos) text = text.substr(0, end);
  Words words(text);
  std::uint64_t total = 0;
  // Whether a statement may begin here; it does behind a directive that ends with its line, too.
  bool begins = true, in_header = false, external = false;
  for (;;) {
    const std::string_view word = words.Next();
    if (word.empty()) return total;
    if (begins && (word == ".global" || word == ".const")) {
      TULLE_ASSIGN_OR_RETURN(const std::uint64_t bytes, DeclaredBytes(words));
      if (!external) total = Sum(total, bytes);
      external = in_header = false;
    } else if (begins && (word == ".visible" || word == ".weak" || word == ".common" || word == ".extern")) {
      external |= word == ".extern";
      in_header = false;
    } else if (begins && IsHeaderDirective(word)) {
      in_header = true;
    } else if (word == "(") {
      words.SkipPast("(", ")");  // parameters: `.param .u64 .ptr .global .align 8 a`
      begins = in_header = external = false;
    } else if (word == ";" || word == "{" || word == "}" || word == ":") {
      begins = true;
      in_header = external = false;
    } else {
      begins = in_header && word.front() != '.';
    }
  }
}

Result<std::uint64_t> ElfBytes(ByteView image) {
  const Error damaged{.code = Code::kInvalidArgument, .message = "the cubin is damaged"};
  Elf64_Ehdr header;
  if (image.size() < sizeof header) return damaged;
  std::memcpy(&header, image.data(), sizeof header);
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize != sizeof(Elf64_Shdr)) return damaged;
  const auto section = [&](std::size_t index, Elf64_Shdr* out) {
    const std::uint64_t offset = header.e_shoff + index * sizeof *out;
    if (header.e_shoff > image.size() || offset > image.size() || image.size() - offset < sizeof *out)
      return false;
    std::memcpy(out, image.data() + offset, sizeof *out);
    return true;
  };
  Elf64_Shdr names{};
  if (header.e_shnum != 0 && !section(header.e_shstrndx, &names)) return damaged;
  std::uint64_t total = 0;
  for (std::size_t index = 0; index < header.e_shnum; ++index) {
    Elf64_Shdr it;
    if (!section(index, &it)) return damaged;
    if ((it.sh_flags & SHF_ALLOC) == 0) continue;
    constexpr std::string_view kShared = ".nv.shared";  // of the processors, not of the device's memory
    const std::uint64_t name = names.sh_offset + it.sh_name;
    if (name < names.sh_offset || name > image.size()) return damaged;
    const ByteView rest = image.subspan(name);
    if (rest.size() >= kShared.size() && std::memcmp(rest.data(), kShared.data(), kShared.size()) == 0)
      continue;
    total = Sum(total, it.sh_size);
  }
  return total;
}

}  // namespace

Result<std::uint64_t> VariableBytes(ByteView image) {
  if (IsFatbin(image)) {
    std::uint64_t largest = 0;
    TULLE_RETURN_IF_ERROR(ForEachImage(image, [&largest](ByteView inside) -> Status {
      if (IsFatbin(inside)) return OkStatus();  // none has one
      TULLE_ASSIGN_OR_RETURN(const std::uint64_t bytes, VariableBytes(inside));
      largest = std::max(largest, bytes);
      return OkStatus();
    }));
    return largest;
  }
  if (image.size() >= SELFMAG && std::memcmp(image.data(), ELFMAG, SELFMAG) == 0) return ElfBytes(image);
  return PtxBytes({reinterpret_cast<const char*>(image.data()), image.size()});
}

}  // namespace tulle::gpu::cuda_image
