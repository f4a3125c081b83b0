// Any bytes as any message of any table: decoding refuses them, or gives a message within its limits that
// encodes to the same bytes and whose handles are checked exactly as an independent model says.
//
// Input: u16 opcode, u8 which (bit 0: the reply, bit 1: the exec table, bit 2: the node table), u32 payload
// bytes, body.
#include <algorithm>
#include <cstring>
#include <map>

#include "fuzz/target.h"
#include "tests/wire/random_message.h"
#include "tulle/wire/command_table.h"
#include "tulle/wire/handle_table.h"
#include "tulle/wire/schema/exec.h"
#include "tulle/wire/schema/node.h"

namespace tulle::wire {
namespace {

constexpr std::size_t kHeadBytes = 7;

struct Head {
  U16 opcode = 0;
  U8 which = 0;
  U32 payload_bytes = 0;
};

Head ReadHead(const std::uint8_t* data) {
  Head head;
  std::memcpy(&head.opcode, data, 2);
  head.which = data[2];
  std::memcpy(&head.payload_bytes, data + 3, 4);
  return head;
}

// The limits once more, straight from the types, not by way of the decoder.
template <typename T>
void RequireWithinLimits(const T& field) {
  using namespace internal;
  if constexpr (IsStr<T>::value) {
    fuzz::Require(field.text.size() <= T::kMax, "text over its limit");
  } else if constexpr (IsBytes<T>::value) {
    fuzz::Require(field.bytes.size() <= T::kMax, "bytes over their limit");
  } else if constexpr (IsPayload<T>::value || IsWanted<T>::value) {
    fuzz::Require(field.size_bytes <= T::kMax, "payload over its limit");
  } else if constexpr (IsList<T>::value) {
    fuzz::Require(field.items.size() <= T::kMax, "list over its limit");
    for (const auto& item : field.items) RequireWithinLimits(item);
  } else if constexpr (IsEnum<T>::value) {
    fuzz::Require(IsKnown(field.value), "unknown enumerator");
  } else if constexpr (Message<T>) {
    T::ForEachField(field, [](std::string_view, const auto& inner) { RequireWithinLimits(inner); });
  }
}

// A table with a known population, and what an independent model says of a handle in it.
struct Population {
  HandleTable table;
  std::map<U32, std::pair<U32, ObjectKind>> live;
  Population() {
    U32 slot = 1;
    for (U32 generation : {1u, 2u, 7u}) {
      for (U8 kind = 1; kind <= 6; ++kind, ++slot) {
        table.Insert(static_cast<ObjectKind>(kind), {slot, generation});
        live[slot] = {generation, static_cast<ObjectKind>(kind)};
      }
    }
  }
  bool Lives(ObjectKind kind, Handle handle) const {
    const auto found = live.find(handle.slot);
    return found != live.end() && found->second == std::pair(handle.generation, kind);
  }
};

template <Message M>
void RequireHandlesAsModelled(const M& message) {
  static const Population population;
  bool references_live = true;
  const auto check = [&](const auto& field, const auto& self) -> void {
    using T = std::remove_cvref_t<decltype(field)>;
    if constexpr (internal::IsHandle<T>::value) {
      if ((T::kUse == Use::kRef || T::kUse == Use::kOptRef) && !field.handle.null()) {
        references_live = references_live && population.Lives(T::kKind, field.handle);
      }
    } else if constexpr (std::same_as<T, Drop>) {
      references_live = references_live && population.Lives(field.kind, field.handle);
    } else if constexpr (internal::IsList<T>::value) {
      if constexpr (internal::IsHandle<typename T::Element>::value) {
        for (const auto& item : field.items) self(item, self);
      }
    }
  };
  M::ForEachField(message, [&](std::string_view, const auto& field) { check(field, check); });
  const bool accepted = CheckHandles(message, population.table) == WireResult::kOk;
  fuzz::Require(references_live || !accepted, "a dead or foreign handle was accepted");
}

template <Message M>
void DecodeOne(ByteView body, U32 payload_bytes) {
  static Arena arena;
  arena.Reset();
  M message{};
  if (Decode(body, payload_bytes, arena, &message) != WireResult::kOk) return;
  RequireWithinLimits(message);
  ByteVector again(EncodedSize(message));
  Encode(message, again);
  fuzz::Require(std::ranges::equal(again, body), "decoding and encoding changed the bytes");
  RequireHandlesAsModelled(message);
}

template <typename F>
void WithMessage(const Head& head, F&& f) {
  const auto call = [&](const auto& row) {
    using R = std::remove_cvref_t<decltype(row)>;
    if ((head.which & 1) != 0) {
      f.template operator()<typename R::Reply>();
    } else {
      f.template operator()<typename R::Command>();
    }
  };
  if ((head.which & 4) != 0) {
    WithRow(node::kNodeCommands, head.opcode, call);
  } else if ((head.which & 2) != 0) {
    WithRow(exec::kExecCommands, head.opcode, call);
  } else {
    WithRow(kCommands, head.opcode, call);
  }
}

}  // namespace
}  // namespace tulle::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tulle::wire;
  if (size < kHeadBytes) return 0;
  const Head head = ReadHead(data);
  const tulle::ByteView body = std::as_bytes(std::span(data + kHeadBytes, size - kHeadBytes));
  WithMessage(head, [&]<typename M>() { DecodeOne<M>(body, head.payload_bytes); });
  return 0;
}

// Half of the inputs are messages made field by field, right or wrong in one place; the others are bytes
// changed at random.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace tulle::wire;
  tulle::SeededRandom random(seed);
  if (size >= kHeadBytes && random.Below(2) == 0) {
    return kHeadBytes + LLVMFuzzerMutate(data + kHeadBytes, size - kHeadBytes, max_size - kHeadBytes);
  }
  Head head;
  const auto pick = [&](const auto& infos, U8 table) {
    head.opcode = infos[random.Below(infos.size())].opcode;
    head.which = static_cast<U8>(table | random.Below(2));
  };
  switch (random.Below(6)) {
    case 0: pick(InfosOf(exec::kExecCommands), 2); break;
    case 1: pick(InfosOf(node::kNodeCommands), 4); break;
    default: pick(kRowInfos, 0);
  }
  std::size_t made = 0;
  WithMessage(head, [&]<typename M>() {
    testing::MessageMaker maker(random);
    M message = maker.Make<M>(static_cast<testing::Defect>(random.Below(4)), random.Below(6));
    // Small handles reach the populated table.
    M::ForEachField(message, [&](std::string_view, auto& field) {
      using T = std::remove_cvref_t<decltype(field)>;
      if constexpr (internal::IsHandle<T>::value || std::same_as<T, Drop>) {
        if (!field.handle.null())
          field.handle = {1 + static_cast<U32>(random.Below(20)), 1 + static_cast<U32>(random.Below(8))};
      }
    });
    head.payload_bytes = static_cast<U32>(AnnouncedPayload(message));
    if (EncodedSize(message) + kHeadBytes > max_size) return;
    made = Encode(message, std::as_writable_bytes(std::span(data + kHeadBytes, max_size - kHeadBytes)));
  });
  std::memcpy(data, &head.opcode, 2);
  data[2] = head.which;
  std::memcpy(data + 3, &head.payload_bytes, 4);
  return kHeadBytes + made;
}
