// What a program might send: frames whose names mostly exist, whose sizes mostly fit and whose order mostly
// makes sense, so that they come further than random ones do.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/wire/random_message.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/object_file.h"
#include "tulle/wire/test_spirv.h"

namespace tulle::fuzz {

// A frame is {u16 opcode, u8 flags, u16 body bytes, u16 payload bytes, body, payload}.
inline constexpr std::size_t kHeadBytes = 7;
inline constexpr std::uint16_t kLieOpcode = 0xffff;  // of no command

class MadeUpProgram {
 public:
  // Of all messages but the first few, `wild` of 64 are anything.
  MadeUpProgram(std::uint8_t* data, std::size_t max_size, Random& random, std::uint64_t wild)
      : data_(data), max_size_(max_size), random_(random), maker_(random), wild_(wild) {}

  std::size_t size() const { return size_; }

  // From here on the executor lies.
  void AddLies() {
    const std::uint64_t seed = random_.Next();
    if (size_ + kHeadBytes + sizeof seed > max_size_) return;
    WriteHead(kLieOpcode, 0, sizeof seed, 0);
    std::memcpy(data_ + size_ + kHeadBytes, &seed, sizeof seed);
    size_ += kHeadBytes + sizeof seed;
  }

  // Something to work with.
  void Begin(std::uint64_t memory_bytes) {
    Add(wire::AcquireMemory{.size_bytes = memory_bytes}, {});
    AddOne<wire::opencl::CreateContext>();
    AddOne<wire::opencl::CreateQueue>();
    AddOne<wire::opencl::CreateBuffer>();
    AddOne<wire::opencl::CreateImage>();
    AddOne<wire::opencl::CreateSampler>();
    AddOne<wire::opencl::CreateSvm>();
    AddProgram();
  }
  // One of everything that there is.
  void AddAny() {
    if (random_.Below(16) == 0) return AddProgram();
    const wire::RowInfo& row = wire::kRowInfos[random_.Below(wire::kRowInfos.size())];
    wire::WithRow(wire::kCommands, row.opcode, [&](const auto& typed) {
      AddOne<typename std::remove_cvref_t<decltype(typed)>::Command>();
    });
  }

 private:
  struct Live {
    std::vector<wire::Handle> buffers, images, svms, user_events;
    std::map<wire::ObjectKind, std::vector<wire::Handle>> others;
  };

  template <wire::Message M>
  void AddOne() {
    M message = maker_.Make<M>();
    std::vector<wire::Handle> made;
    if (random_.Below(64) >= wild_) {
      if (!Tame(message, &made)) return;
      if (std::same_as<M, wire::opencl::ProgramText> && random_.Below(16) != 0) return;  // it is built by now
    }
    if (Add(message, {})) Note<M>(made);
  }

  // A program with its text, built, and a kernel of it with its arguments.
  void AddProgram() {
    using wire::opencl::ProgramKind;
    static const std::string source =
        "kernel void null_add(global uint* data, uint value) {}\n"
        "kernel void null_mul(global uint* data, uint value, local uint* scratch) {}\n"
        "kernel void null_copy_image(read_only image2d_t source, write_only image2d_t target, sampler_t s) "
        "{}\n";
    auto program = maker_.Make<wire::opencl::CreateProgram>();
    std::vector<wire::Handle> made;
    Tame(program, &made);
    std::string text;
    switch (program.kind.value) {
      case ProgramKind::kSource:
      case ProgramKind::kObject: text = source; break;
      case ProgramKind::kIl: text = wire::opencl::testing::AddConstantModule(); break;
      case ProgramKind::kBinary: text = "tulle-null-binary\n" + source; break;
      case ProgramKind::kLink:
        text = wire::opencl::FormatObjectFile(
            {false, {{"", source}, {"", wire::opencl::testing::AddConstantModule()}}});
        break;
    }
    if (random_.Below(16) == 0) text[random_.Below(text.size())] ^= 1;
    if (!Add(program, {})) return;
    Note<wire::opencl::CreateProgram>(made);
    const auto bytes = std::as_bytes(std::span(text));
    Add(wire::opencl::ProgramText{{program.program.handle}, {bytes.size()}}, bytes);
    Add(wire::opencl::BuildProgram{{program.program.handle}, {}}, {});
    auto kernel = maker_.Make<wire::opencl::CreateKernel>();
    made.clear();
    Tame(kernel, &made);
    kernel.program = {program.program.handle};
    if (!Add(kernel, {})) return;
    Note<wire::opencl::CreateKernel>(made);
    const auto arg = [&](std::uint32_t index, wire::opencl::ArgKind kind, wire::Handle memory) {
      static constexpr std::array<std::byte, 4> kValue{};
      wire::opencl::SetKernelArg message;
      message.kernel = {kernel.kernel.handle};
      message.index = index;
      message.kind = {kind};
      message.memory = {memory};
      message.local_bytes = 64;
      message.value = {kValue};
      if (kind != wire::opencl::ArgKind::kValue) message.value = {};
      Add(message, {});
    };
    using wire::opencl::ArgKind;
    if (kernel.name.text == "null_copy_image") {
      arg(0, ArgKind::kMemory, Pick(live_.images));
      arg(1, ArgKind::kMemory, Pick(live_.images));
      if (const wire::Handle sampler = Pick(live_.others[wire::ObjectKind::kSampler]); !sampler.null())
        Add(wire::opencl::SetSamplerArg{{kernel.kernel.handle}, 2, {sampler}}, {});
    } else {
      arg(0, ArgKind::kMemory, Pick(live_.buffers));
      if (kernel.name.text != "null_add_constant") arg(1, ArgKind::kValue, {});
      if (kernel.name.text == "null_mul") arg(2, ArgKind::kLocal, {});
    }
    if (random_.Below(2) == 0) AddOne<wire::opencl::EnqueueKernel>();
  }

  void WriteHead(std::uint16_t opcode, std::uint8_t flags, std::size_t body, std::size_t payload_bytes) {
    const std::uint16_t sizes[] = {static_cast<std::uint16_t>(body),
                                   static_cast<std::uint16_t>(payload_bytes)};
    std::memcpy(data_ + size_, &opcode, 2);
    data_[size_ + 2] = flags;
    std::memcpy(data_ + size_ + 3, sizes, 4);
  }

  // Appends the frame, with this payload or a random one. False: there is no room for it.
  template <wire::Message M>
  bool Add(const M& message, ByteView payload) {
    const std::size_t body = wire::EncodedSize(message);
    const std::size_t payload_bytes = std::min<std::size_t>(wire::AnnouncedPayload(message), 0xffff);
    if (body > 0xffff || size_ + kHeadBytes + body + payload_bytes > max_size_) return false;
    WriteHead(wire::kOpcodeOf<M>, static_cast<std::uint8_t>(random_.Below(2)), body, payload_bytes);
    wire::Encode(message, std::as_writable_bytes(std::span(data_ + size_ + kHeadBytes, body)));
    const auto room = std::as_writable_bytes(std::span(data_ + size_ + kHeadBytes + body, payload_bytes));
    random_.Fill(room);
    std::copy_n(payload.begin(), std::min(payload.size(), room.size()), room.begin());
    size_ += kHeadBytes + body + payload_bytes;
    return true;
  }

  // The object that a message has made exists from now on.
  template <wire::Message M>
  void Note(const std::vector<wire::Handle>& made) {
    for (const wire::Handle handle : made) {
      if constexpr (std::same_as<M, wire::opencl::CreateImage>) {
        live_.images.push_back(handle);
      } else if constexpr (std::same_as<M, wire::opencl::CreateSvm>) {
        live_.svms.push_back(handle);
      } else if constexpr (std::same_as<M, wire::opencl::CreateBuffer> ||
                           std::same_as<M, wire::opencl::CreateSubBuffer>) {
        live_.buffers.push_back(handle);
      } else {
        live_.others[new_kind_].push_back(handle);
        if (std::same_as<M, wire::opencl::CreateUserEvent>) live_.user_events.push_back(handle);
      }
    }
  }

  wire::Handle Pick(const std::vector<wire::Handle>& from) {
    return from.empty() ? wire::Handle{} : from[random_.Below(from.size())];
  }
  template <wire::Message M>
  wire::Handle Pick(wire::ObjectKind kind, std::string_view name) {
    if (kind != wire::ObjectKind::kMemory) {
      return std::same_as<M, wire::opencl::SetUserEventStatus> ? Pick(live_.user_events)
                                                               : Pick(live_.others[kind]);
    }
    if constexpr (std::same_as<M, wire::opencl::SetSvmArg>) return Pick(live_.svms);
    const bool is_image = name == "image" || std::same_as<M, wire::opencl::EnqueueCopyImage>;
    if (is_image) return Pick(live_.images);
    return random_.Below(4) == 0 && !live_.svms.empty() ? Pick(live_.svms) : Pick(live_.buffers);
  }

  // Makes a random message one that a program might send; says which handle it makes. False: nothing exists
  // that it could be about.
  template <wire::Message M>
  bool Tame(M& message, std::vector<wire::Handle>* made) {
    about_nothing_ = false;
    M::ForEachField(message, [&](std::string_view name, auto& field) { TameField<M>(name, field, made); });
    if constexpr (requires { message.more, message.transfer; }) {
      message.transfer = random_.Below(4) == 0 ? 1 + random_.Below(3) : 0;
      message.more = message.transfer != 0 && random_.Below(2) == 0;
      if (message.more != 0) {
        message.event = {};
        made->clear();
      }
    }
    if constexpr (requires { message.data, message.region; }) {
      const bool pixels = requires { message.image; };
      message.data.size_bytes = (pixels ? 4 : 1) * message.region[0] * message.region[1] * message.region[2];
    }
    if constexpr (std::same_as<M, wire::opencl::CreateImage>) {
      if (random_.Below(4) != 0) message.buffer = {};
      message.row_pitch_bytes = 0;
      if (message.buffer.handle.null() && message.type.value == wire::opencl::ImageType::k1DBuffer)
        message.type = {wire::opencl::ImageType::k1D};
    }
    return !about_nothing_;
  }

  template <wire::Message M, typename T>
  void TameField(std::string_view name, T& field, std::vector<wire::Handle>* made) {
    using namespace wire::internal;
    if constexpr (IsHandle<T>::value) {
      if constexpr (T::kUse == wire::Use::kNew || T::kUse == wire::Use::kOptNew) {
        if (field.handle.null()) return;
        new_kind_ = T::kKind;
        field.handle = {next_slot_++, 1};
        made->push_back(field.handle);
      } else {
        const bool none = T::kUse == wire::Use::kOptRef && random_.Below(8) == 0;
        field.handle = none ? wire::Handle{} : Pick<M>(T::kKind, name);
        about_nothing_ |= field.handle.null() && T::kUse != wire::Use::kOptRef;
      }
    } else if constexpr (std::same_as<T, wire::Drop>) {
      TameDrop(field);
    } else if constexpr (std::same_as<T, wire::WaitList>) {
      waits_[0].handle = Pick(live_.others[wire::ObjectKind::kEvent]);
      field.items = std::span(waits_).first(waits_[0].handle.null() || random_.Below(4) != 0 ? 0 : 1);
    } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
      field.size_bytes = 1 + random_.Below(64);
    } else if constexpr (IsStr<T>::value) {
      static constexpr std::array<std::string_view, 4> kNames = {"null_add", "null_mul", "null_copy_image",
                                                                 "null_add_constant"};
      field.text = name == "name" ? kNames[random_.Below(kNames.size())] : std::string_view();
    } else if constexpr (IsBytes<T>::value) {
      // Of a pattern, a colour or an argument.
      random_.Fill(bytes_);
      field.bytes = ByteView(bytes_).first(name == "color" ? 16 : std::size_t{1} << random_.Below(5));
    } else if constexpr (IsList<T>::value) {
      field.items = {};
      if constexpr (std::same_as<M, wire::opencl::CreateContextOn>) field.items = whole_device_;
    } else if constexpr (std::same_as<T, wire::opencl::Rect>) {
      field = {random_.Below(64), 4 + random_.Below(8), 16 + random_.Below(64)};
    } else if constexpr (std::same_as<T, wire::opencl::ImageFormat>) {
      if (random_.Below(8) != 0) field = {wire::opencl::kOrderRgba, wire::opencl::kUnsignedInt8};
    } else if constexpr (std::same_as<T, wire::Vec3>) {
      TameBox(name, field);
    } else if constexpr (std::same_as<T, wire::U64>) {
      field = Number(name);
    } else if constexpr (std::same_as<T, wire::U32>) {
      field = static_cast<wire::U32>(random_.Below(3) + (name == "work_dim" || name == "dimensions"));
    } else if constexpr (std::same_as<T, wire::I32>) {
      field = -static_cast<wire::I32>(random_.Below(2));
    } else if constexpr (IsEnum<T>::value) {
      if constexpr (std::same_as<T, wire::Enum<wire::opencl::ImageType>>) {
        if (random_.Below(2) == 0) field = {wire::opencl::ImageType::k2D};
      }
    } else if constexpr (IsFlags<T>::value) {
      if (random_.Below(4) != 0) field = {};
    }
  }

  wire::U64 Number(std::string_view name) {
    if (name == "address")
      return wire::opencl::kSvmBase + wire::opencl::kMemoryGranuleBytes * random_.Below(1024);
    if (name == "size_bytes") return 16 * (1 + random_.Below(16));
    return 16 * random_.Below(4);
  }

  // Boxes that a small image has; of unused extents OpenCL wants 1.
  void TameBox(std::string_view name, wire::Vec3& box) {
    const bool offset = name.find("origin") != std::string_view::npos || name == "global_offset";
    const bool local = name == "local_size";
    for (std::size_t i = 0; i < box.size(); ++i) {
      box[i] = offset || local ? 0 : 1;
      if (i == 0 || random_.Below(4) == 0) box[i] += random_.Below(name == "extents" ? 8 : 3);
    }
  }

  void TameDrop(wire::Drop& field) {
    struct Choice {
      wire::ObjectKind kind;
      std::vector<wire::Handle>* from;
    };
    std::vector<Choice> choices;
    for (auto* list : {&live_.buffers, &live_.images, &live_.svms}) {
      if (list->size() > 1) choices.push_back({wire::ObjectKind::kMemory, list});
    }
    for (auto& [kind, list] : live_.others) {
      if (list.size() > 1 || (kind == wire::ObjectKind::kEvent && !list.empty()))
        choices.push_back({kind, &list});
    }
    about_nothing_ = choices.empty();
    if (about_nothing_) return;
    const Choice choice = choices[random_.Below(choices.size())];
    const std::size_t at = random_.Below(choice.from->size());
    field.kind = choice.kind;
    field.handle = (*choice.from)[at];
    std::erase(live_.user_events, field.handle);
    choice.from->erase(choice.from->begin() + static_cast<std::ptrdiff_t>(at));
  }

  std::uint8_t* const data_;
  const std::size_t max_size_;
  std::size_t size_ = 0;
  Random& random_;
  wire::testing::MessageMaker maker_;
  const std::uint64_t wild_;
  Live live_;
  std::uint32_t next_slot_ = 1;
  bool about_nothing_ = false;
  wire::ObjectKind new_kind_ = wire::ObjectKind::kNone;
  std::array<wire::Ref<wire::ObjectKind::kEvent>, 1> waits_;
  std::array<wire::OptRef<wire::ObjectKind::kDevice>, 1> whole_device_;
  std::array<std::byte, 16> bytes_{};
};

}  // namespace tulle::fuzz
