#include "tulle/gpu/softcuda/ptx.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "tulle/base/bytes.h"
#include "tulle/gpu/softcuda/problem.h"

namespace tulle::gpu::softcuda {
namespace {

constexpr std::size_t kMaxText = 64 << 20;
constexpr std::size_t kMaxNesting = 64;          // of scopes
constexpr std::uint64_t kMaxVariable = 1 << 30;  // bytes
constexpr std::uint32_t kMaxRange = 1 << 20;     // registers of one name
constexpr std::size_t kMaxWords = 16;            // of an instruction's name

constexpr std::pair<std::string_view, Type> kTypes[] = {
    {"pred", Type::kPred}, {"b8", Type::kB8},       {"b16", Type::kB16},      {"b32", Type::kB32},
    {"b64", Type::kB64},   {"u8", Type::kU8},       {"u16", Type::kU16},      {"u32", Type::kU32},
    {"u64", Type::kU64},   {"s8", Type::kS8},       {"s16", Type::kS16},      {"s32", Type::kS32},
    {"s64", Type::kS64},   {"f16", Type::kF16},     {"bf16", Type::kBF16},    {"f32", Type::kF32},
    {"f64", Type::kF64},   {"f16x2", Type::kF16x2}, {"bf16x2", Type::kBF16x2}};

struct Token {
  enum class Kind : std::uint8_t { kEnd, kWord, kNumber, kString, kSign };
  Kind kind = Kind::kEnd;
  std::string_view text;
  int line = 0;
  std::uint64_t bits = 0;
  std::uint32_t float_bytes = 0;  // 0: a whole number
};

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  Token Next() {
    SkipBlanks();
    Token token{.line = line_};
    if (at_ >= text_.size()) return token;
    const char c = text_[at_];
    const std::size_t begin = at_;
    if (IsWord(c) && !IsDigit(c)) {
      while (at_ < text_.size() && (IsWord(text_[at_]) || text_[at_] == '.')) ++at_;
      token.kind = Token::Kind::kWord;
    } else if (c == '.' && at_ + 1 < text_.size() && IsWord(text_[at_ + 1]) && !IsDigit(text_[at_ + 1])) {
      ++at_;
      while (at_ < text_.size() && (IsWord(text_[at_]) || text_[at_] == '.')) ++at_;
      token.kind = Token::Kind::kWord;
    } else if (IsDigit(c)) {
      ReadNumber(&token);
    } else if (c == '"') {
      ++at_;
      while (at_ < text_.size() && text_[at_] != '"') {
        if (text_[at_] == '\n') throw Problem{line_, "a text in quotes does not end"};
        ++at_;
      }
      if (at_ == text_.size()) throw Problem{line_, "a text in quotes does not end"};
      ++at_;
      token.kind = Token::Kind::kString;
    } else {
      ++at_;
      token.kind = Token::Kind::kSign;
    }
    token.text = text_.substr(begin, at_ - begin);
    return token;
  }

 private:
  static bool IsDigit(char c) { return c >= '0' && c <= '9'; }
  static bool IsWord(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || IsDigit(c) || c == '_' || c == '$' || c == '%';
  }
  void SkipBlanks() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const std::string_view two = text_.substr(at_, 2);
      if (c == '\n') {
        ++line_;
        ++at_;
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
        ++at_;
      } else if (two == "//") {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else if (two == "/*") {
        const std::size_t end = text_.find("*/", at_ + 2);
        if (end == std::string_view::npos) throw Problem{line_, "a comment does not end"};
        line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                             text_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
        at_ = end + 2;
      } else {
        return;
      }
    }
  }
  // 12, 012, 0x1F, 0b101, 12U; 0f3F800000, 0d3FF0000000000000; 1.5.
  void ReadNumber(Token* token) {
    token->kind = Token::Kind::kNumber;
    const auto digit = [](char c) -> unsigned {
      if (IsDigit(c)) return static_cast<unsigned>(c - '0');
      if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
      if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A') + 10;
      return 99;
    };
    unsigned base = 10;
    std::size_t exactly = 0;
    if (text_[at_] == '0' && at_ + 1 < text_.size()) {
      const char next = static_cast<char>(text_[at_ + 1] | 0x20);
      if (next == 'x') base = 16;
      if (next == 'b') base = 2;
      if (next == 'f' || next == 'd') {
        base = 16;
        token->float_bytes = next == 'f' ? 4 : 8;
        exactly = 2 * token->float_bytes;
      }
      if (base != 10) {
        at_ += 2;
      } else if (IsDigit(next)) {
        base = 8;
      }
    }
    std::size_t digits = 0;
    for (; at_ < text_.size() && digit(text_[at_]) < base && (exactly == 0 || digits < exactly);
         ++at_, ++digits) {
      const unsigned value = digit(text_[at_]);
      if (token->bits > (~std::uint64_t{0} - value) / base) throw Problem{line_, "a number beyond 64 bits"};
      token->bits = token->bits * base + value;
    }
    if (digits == 0 || (exactly != 0 && digits != exactly))
      throw Problem{line_, "a number without its digits"};
    if (base == 10 && at_ < text_.size() && text_[at_] == '.') {
      // A decimal fraction, which versions ("7.1") and hand-written programs have.
      std::string decimal = std::to_string(token->bits) + ".";
      for (++at_; at_ < text_.size() && IsDigit(text_[at_]); ++at_) decimal += text_[at_];
      token->float_bytes = 8;
      token->bits = std::bit_cast<std::uint64_t>(std::strtod(decimal.c_str(), nullptr));
    }
    if (at_ < text_.size() && text_[at_] == 'U') ++at_;
    if (at_ < text_.size() && IsWord(text_[at_])) throw Problem{line_, "letters behind a number"};
  }

  std::string_view text_;
  std::size_t at_ = 0;
  int line_ = 1;
};

class Parser {
 public:
  explicit Parser(std::string_view text) : lexer_(text) { Advance(); }

  PtxModule Module() {
    while (token_.kind != Token::Kind::kEnd) TopLevel();
    if (module_.version == 0) throw Problem{1, "there is no .version"};
    return std::move(module_);
  }

 private:
  // ---- tokens

  void Advance() { token_ = lexer_.Next(); }
  [[noreturn]] void Fail(const std::string& what) const { throw Problem{token_.line, what}; }
  bool Is(std::string_view text) const { return token_.text == text && token_.kind != Token::Kind::kString; }
  bool Take(std::string_view text) {
    if (!Is(text)) return false;
    Advance();
    return true;
  }
  void Expect(std::string_view text) {
    if (!Take(text)) Fail("\"" + std::string(text) + "\" is missing before " + Shown());
  }
  std::string Shown() const {
    return token_.kind == Token::Kind::kEnd ? "the end" : "\"" + CutText(std::string(token_.text), 40) + "\"";
  }
  std::string Word(const char* what) {
    if (token_.kind != Token::Kind::kWord || token_.text[0] == '.')
      Fail(std::string(what) + " is missing before " + Shown());
    std::string word(token_.text);
    Advance();
    return word;
  }
  std::uint64_t Number(const char* what) {
    if (token_.kind != Token::Kind::kNumber || token_.float_bytes != 0)
      Fail(std::string(what) + " must be a number, not " + Shown());
    const std::uint64_t bits = token_.bits;
    Advance();
    return bits;
  }
  // .loc and .file have no ';'.
  void SkipLine() {
    const int line = token_.line;
    while (token_.kind != Token::Kind::kEnd && token_.line == line) Advance();
  }

  // ---- the module

  void TopLevel() {
    if (Take(".version")) {
      if (token_.kind != Token::Kind::kNumber) Fail(".version must be a number");
      const double version =
          token_.float_bytes != 0 ? std::bit_cast<double>(token_.bits) : static_cast<double>(token_.bits);
      if (!(version > 0 && version < 100)) Fail(".version must be a number such as 7.1");
      module_.version = static_cast<std::uint32_t>(version * 10 + 0.5);
      Advance();
      return;
    }
    if (Take(".target")) {
      module_.target = Word("a target");
      while (Take(",")) Word("a target");
      return;
    }
    if (Take(".address_size")) {
      if (Number(".address_size") != 64) Fail(".address_size must be 64");
      return;
    }
    if (Is(".file") || Is(".loc")) return SkipLine();
    if (Is(".section")) return SkipSection();
    bool is_external = false;
    for (;;) {
      if (Take(".extern")) {
        is_external = true;
      } else if (!Take(".visible") && !Take(".weak") && !Take(".common")) {
        break;
      }
    }
    if (Is(".entry") || Is(".func")) return Function(is_external);
    if (Is(".global") || Is(".const") || Is(".shared")) {
      PtxVariable variable = Variable(is_external);
      Expect(";");
      module_.variables.push_back(std::move(variable));
      return;
    }
    Fail("cannot read " + Shown());
  }

  void SkipSection() {
    while (token_.kind != Token::Kind::kEnd && !Is("{")) Advance();
    while (token_.kind != Token::Kind::kEnd && !Is("}")) Advance();
    Expect("}");
  }

  void Function(bool is_external) {
    PtxFunction function{.line = token_.line, .is_entry = Is(".entry")};
    Advance();
    if (!function.is_entry && Is("(")) function.returns = Parameters();
    function.name = Word("a name");
    if (Is("(")) function.parameters = Parameters();
    for (;;) {
      if (Is(".maxntid") || Is(".reqntid")) {
        Advance();
        std::uint64_t all = 1;
        do {
          all *= std::min<std::uint64_t>(Number("a block's size"), 1 << 16);
        } while (Take(","));
        function.max_threads = static_cast<std::uint32_t>(std::min<std::uint64_t>(all, 1 << 20));
      } else if (Is(".minnctapersm") || Is(".maxnreg") || Is(".maxnctapersm")) {
        Advance();
        Number("that");
      } else if (!Take(".noreturn")) {
        break;
      }
    }
    if (!Take(";")) {
      if (is_external) Fail("an external function has no body");
      function.has_body = true;
      Body(&function);
    }
    module_.functions.push_back(std::move(function));
  }

  std::vector<PtxVariable> Parameters() {
    std::vector<PtxVariable> parameters;
    Expect("(");
    while (!Take(")")) {
      if (!parameters.empty()) Expect(",");
      if (!Is(".param") && !Is(".reg")) Fail("a parameter must be .param or .reg, not " + Shown());
      parameters.push_back(Variable(false));
    }
    return parameters;
  }

  // .space [.align N] [.vN] .type name[N] [= init], without its end.
  PtxVariable Variable(bool is_external) {
    static constexpr std::pair<std::string_view, Space> kSpaces[] = {
        {".reg", Space::kRegister},  {".global", Space::kGlobal}, {".const", Space::kConst},
        {".shared", Space::kShared}, {".local", Space::kLocal},   {".param", Space::kParam}};
    PtxVariable variable{.is_external = is_external};
    for (const auto& [word, space] : kSpaces) {
      if (Is(word)) variable.space = space;
    }
    Advance();
    std::uint64_t lanes = 1;
    for (;; Advance()) {
      if (Is(".align")) {
        Advance();
        if (token_.kind != Token::Kind::kNumber || token_.bits > 4096 || !std::has_single_bit(token_.bits)) {
          Fail(".align must be a power of two up to 4096, not " + Shown());
        }
        variable.align = static_cast<std::uint32_t>(token_.bits);
      } else if (Is(".v2")) {
        lanes = 2;
      } else if (Is(".v4")) {
        lanes = 4;
      } else if (Is(".ptr")) {
        // Says what a parameter points to: [.space] [.align N].
      } else if (token_.kind == Token::Kind::kWord && token_.text[0] == '.' &&
                 TypeNamed(token_.text.substr(1)) != Type::kNone) {
        variable.type = TypeNamed(token_.text.substr(1));
      } else if (variable.type == Type::kNone ||
                 !(Is(".global") || Is(".const") || Is(".shared") || Is(".local"))) {
        break;
      }
    }
    if (variable.type == Type::kNone) Fail("cannot read the type " + Shown());
    variable.name = Word("a name");
    if (variable.space == Space::kRegister && Take("<")) {
      const std::uint64_t range = Number("how many registers");
      if (range == 0 || range > kMaxRange)
        Fail("of one name there may be " + std::to_string(kMaxRange) + " registers");
      variable.range = static_cast<std::uint32_t>(range);
      Expect(">");
    }
    if (variable.align == 0) variable.align = static_cast<std::uint32_t>(SizeOf(variable.type) * lanes);
    variable.count = lanes;
    bool has_size = true;
    while (Take("[")) {
      if (Take("]")) {
        has_size =
            false;  // of its first dimension: as large as what it is initialised with, or as the launch says
        continue;
      }
      const std::uint64_t size = Number("a size");
      if (size > kMaxVariable || variable.count * size > kMaxVariable)
        Fail(variable.name + " is larger than " + FormatSize(kMaxVariable));
      variable.count *= size;
      Expect("]");
    }
    if (Take("=")) Initialise(&variable);
    if (!has_size)
      variable.count = std::max<std::uint64_t>(variable.count, 1) *
                       (variable.init.size() / std::max<std::uint64_t>(variable.bytes(), 1));
    if (variable.init.size() > variable.bytes())
      Fail(variable.name + " is initialised with more than it holds");
    return variable;
  }

  void Initialise(PtxVariable* variable) {
    const std::uint32_t size = SizeOf(variable->type);
    const auto one = [&] {
      std::uint64_t bits = 0;
      if (token_.kind == Token::Kind::kWord) {
        PtxVariable::Address address{.at = variable->init.size(), .name = Word("a name")};
        if (address.name == "generic" && Take("(")) {
          address.generic = true;
          address.name = Word("a name");
          Expect(")");
        }
        if (Take("+")) address.offset = static_cast<std::int64_t>(Number("an offset"));
        if (size != 8) Fail("an address needs 8 bytes");
        variable->addresses.push_back(std::move(address));
      } else {
        const PtxOperand number = Immediate();
        bits = number.bits;
        if (number.is_float && size == 4 && number.float_bytes == 8)
          bits = std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
      }
      for (std::uint32_t i = 0; i < size; ++i)
        variable->init.push_back(static_cast<std::uint8_t>(bits >> (8 * i)));
      if (variable->init.size() > kMaxVariable) Fail("too much to initialise");
    };
    if (!Is("{")) return one();
    std::size_t depth = 0;
    do {
      if (Take("{")) {
        if (++depth > kMaxNesting) Fail("too many braces");
      } else if (Take("}")) {
        --depth;
      } else if (!Take(",")) {
        one();
      }
    } while (depth != 0);
  }

  // ---- a function's body

  void Body(PtxFunction* function) {
    Expect("{");
    std::size_t depth = 1;
    while (depth != 0) {
      const int line = token_.line;
      const auto add = [&](auto what) { function->body.push_back({line, std::move(what)}); };
      if (Take("{")) {
        if (++depth > kMaxNesting) Fail("scopes are nested too deep");
        add(PtxScope{true});
      } else if (Take("}")) {
        if (--depth != 0) add(PtxScope{false});
      } else if (Is(".loc") || Is(".file")) {
        SkipLine();
      } else if (Take(".pragma")) {
        while (!Take(";")) {
          if (token_.kind == Token::Kind::kEnd) Fail("the text ends within a .pragma");
          Advance();
        }
      } else if (Is(".reg") || Is(".local") || Is(".shared") || Is(".param") || Is(".const") ||
                 Is(".global")) {
        PtxVariable variable = Variable(false);
        add(variable);
        while (Take(",")) {  // more of the same kind
          PtxVariable other = variable;
          other.name = Word("a name");
          other.range = 0;
          if (Take("<")) {
            const std::uint64_t range = Number("how many registers");
            if (range == 0 || range > kMaxRange) Fail("too many registers");
            other.range = static_cast<std::uint32_t>(range);
            Expect(">");
          }
          add(std::move(other));
        }
        Expect(";");
      } else if (Is("@") || token_.kind == Token::Kind::kWord) {
        Instruction(line, function);
      } else if (!Take(";")) {
        Fail("cannot read " + Shown());
      }
    }
  }

  void Instruction(int line, PtxFunction* function) {
    PtxInstruction instruction;
    if (Take("@")) {
      instruction.guard_negated = Take("!");
      instruction.guard = Word("a predicate");
    }
    if (token_.kind == Token::Kind::kWord && token_.text[0] == '.') Fail("cannot read " + Shown());
    const std::string name = Word("an instruction");
    if (instruction.guard.empty() && Take(":")) {
      if (Take(".branchtargets")) {
        PtxTargets targets{.name = name};
        do {
          targets.labels.push_back(Word("a label"));
        } while (Take(","));
        Expect(";");
        function->body.push_back({line, std::move(targets)});
      } else if (Take(".callprototype")) {
        PtxPrototype prototype{.name = name};
        if (Is("(")) prototype.returns = Parameters();
        if (Word("_") != "_") Fail("a prototype has _ in place of a function's name");
        if (Is("(")) prototype.parameters = Parameters();
        Take(".noreturn");
        Expect(";");
        function->body.push_back({line, std::move(prototype)});
      } else if (Is(".calltargets")) {
        Fail("of calls through pointers only those with a .callprototype are supported");
      } else {
        function->body.push_back({line, PtxLabel{name}});
      }
      return;
    }
    for (std::size_t begin = 0; begin <= name.size();) {
      const std::size_t end = std::min(name.find('.', begin), name.size());
      instruction.words.push_back(name.substr(begin, end - begin));
      begin = end + 1;
    }
    if (instruction.words.size() > kMaxWords) Fail("cannot read " + CutText(name, 40));
    while (!Take(";")) {
      if (!instruction.operands.empty()) Expect(",");
      instruction.operands.push_back(Operand());
    }
    function->body.push_back({line, std::move(instruction)});
  }

  PtxOperand Immediate() {
    const bool minus = Take("-");
    PtxOperand operand{.kind = PtxOperand::Kind::kNumber};
    if (token_.kind != Token::Kind::kNumber) Fail("a number is missing before " + Shown());
    operand.bits = token_.bits;
    operand.is_float = token_.float_bytes != 0;
    operand.float_bytes = token_.float_bytes;
    Advance();
    if (minus && operand.is_float) {
      operand.bits ^= std::uint64_t{1} << (8 * operand.float_bytes - 1);
    } else if (minus) {
      operand.bits = 0 - operand.bits;
    }
    return operand;
  }

  PtxOperand Operand() {
    using Kind = PtxOperand::Kind;
    if (Take("[")) {
      PtxOperand operand{.kind = Kind::kMemory};
      if (token_.kind == Token::Kind::kWord) {
        operand.name = Word("an address");
      } else {
        operand.bits = Immediate().bits;
      }
      if (Take("+")) {
        operand.offset = static_cast<std::int64_t>(Immediate().bits);
      } else if (Is("-")) {
        operand.offset = static_cast<std::int64_t>(Immediate().bits);
      }
      Expect("]");
      return operand;
    }
    if (Is("{") || Is("(")) {
      PtxOperand operand{.kind = Is("{") ? Kind::kVector : Kind::kList};
      const char* const end = Is("{") ? "}" : ")";
      Advance();
      while (!Take(end)) {
        if (!operand.items.empty()) Expect(",");
        if (Is("{") || Is("(") || Is("[") || operand.items.size() == 64) Fail("cannot read " + Shown());
        operand.items.push_back(Operand());
      }
      return operand;
    }
    if (token_.kind == Token::Kind::kNumber) return Immediate();
    PtxOperand operand;
    if (Take("!")) {
      operand.negated = true;
    } else if (Is("-")) {
      return Immediate();
    }
    operand.name = Word("an operand");
    if (Take("|")) {
      operand.kind = Kind::kPair;
      operand.items.push_back({.name = Word("a predicate")});
    } else if (Take("+")) {
      operand.offset = static_cast<std::int64_t>(Immediate().bits);
    }
    return operand;
  }

  Lexer lexer_;
  Token token_;
  PtxModule module_;
};

}  // namespace

std::uint32_t SizeOf(Type type) {
  switch (type) {
    case Type::kNone: return 0;
    case Type::kPred:
    case Type::kB8:
    case Type::kU8:
    case Type::kS8: return 1;
    case Type::kB16:
    case Type::kU16:
    case Type::kS16:
    case Type::kF16:
    case Type::kBF16: return 2;
    case Type::kB32:
    case Type::kU32:
    case Type::kS32:
    case Type::kF32:
    case Type::kF16x2:
    case Type::kBF16x2: return 4;
    case Type::kB64:
    case Type::kU64:
    case Type::kS64:
    case Type::kF64: return 8;
  }
  return 0;
}

Type TypeNamed(std::string_view word) {
  for (const auto& [name, type] : kTypes) {
    if (name == word) return type;
  }
  return Type::kNone;
}

Result<PtxModule> ParsePtx(std::string_view text) {
  const auto refuse = [](int line, const std::string& what) {
    return Error{.code = Code::kInvalidArgument, .message = "line " + std::to_string(line) + ": " + what};
  };
  if (text.size() > kMaxText)
    return refuse(1, "the text has " + FormatSize(text.size()) + ", at most " + FormatSize(kMaxText));
  // Whoever passes a C string may have its end in it.
  if (const std::size_t end = text.find('\0'); end != std::string_view::npos) text = text.substr(0, end);
  try {
    return Parser(text).Module();
  } catch (const Problem& problem) {
    return refuse(problem.line, problem.what);
  }
}

}  // namespace tulle::gpu::softcuda
