// The battery on the null device, and what only the null device has: stepping, injected failures, random
// commands of any kind.
#include "tests/conformance/backend/battery.h"
#include "tests/conformance/backend/direct_subject.h"
#include "tests/wire/random_message.h"
#include "tulle/gpu/api/outcome.h"
#include "tulle/gpu/null/driver.h"

namespace tulle::gpu::conformance {
namespace {

SubjectFactory NullFactory(bool lend_memory) {
  SubjectFactory factory =
      DirectFactory(lend_memory ? "null_lent" : "null_own", null::OpenDriver(), 0, lend_memory);
  factory.checks_programs = false;
  return factory;
}

INSTANTIATE_TEST_SUITE_P(Null, BackendBattery, testing::Values(NullFactory(false), NullFactory(true)),
                         SubjectName);

// Collects what a backend reports, when only counts and order matter.
class Recorder final : public Completions {
 public:
  void Reply(std::uint16_t opcode, std::uint64_t sequence, ByteView body, std::uint64_t) override {
    std::int32_t status = 0;
    std::memcpy(&status, body.data(), sizeof status);
    replies.push_back({opcode, sequence, status});
  }
  void Notice(std::uint16_t opcode, ByteView body) override {
    wire::Arena arena;
    wire::opencl::EventsCompleted notice;
    if (opcode != wire::kOpcodeOf<wire::opencl::EventsCompleted>) {
      ++failures;
    } else if (wire::Decode(body, 0, arena, &notice) == wire::WireResult::kOk) {
      for (const auto& event : notice.events.items) events.push_back(event);
    }
  }
  void PayloadDone(std::uint64_t) override { ++payloads; }

  struct Replied {
    std::uint16_t opcode;
    std::uint64_t sequence;
    std::int32_t status;
  };
  std::vector<Replied> replies;
  std::vector<wire::opencl::EventCompletion> events;
  std::size_t failures = 0;
  std::size_t payloads = 0;
};

template <wire::Message M>
void Submit(Backend& backend, std::uint64_t sequence, const M& message, bool wants_status = false,
            MutableByteView payload = {}) {
  ByteVector body(wire::EncodedSize(message));
  wire::Encode(message, body);
  backend.Submit({wire::kOpcodeOf<M>, wants_status, sequence, body, payload, {}});
}

TEST(NullDevice, RunsWhenStepped) {
  Recorder recorder;
  const auto backend = null::MakeBackend({.stepped = true}, &recorder);
  const Handle context{1, 1}, queue{2, 1}, buffer{3, 1}, first{4, 1}, second{5, 1};
  ByteVector data(64, std::byte{7});
  Submit(*backend, 1, wire::opencl::CreateContext{{context}});
  Submit(*backend, 2, wire::opencl::CreateQueue{{context}, {queue}});
  Submit(*backend, 3, wire::opencl::CreateBuffer{{context}, {buffer}, {1}, 64});
  Submit(*backend, 4, wire::opencl::EnqueueWrite{{queue}, {buffer}, 0, {64}, 0, 0, {}, {first}}, false, data);
  Submit(*backend, 5, wire::opencl::EnqueueSync{{queue}, {}, {}, {second}}, true);
  Submit(*backend, 6, wire::opencl::Finish{{queue}});
  EXPECT_EQ(backend->waiting(), 3u);
  EXPECT_TRUE(recorder.events.empty());
  EXPECT_EQ(recorder.payloads, 0u);
  EXPECT_EQ(recorder.replies.size(), 1u);  // the marker was accepted

  EXPECT_TRUE(backend->Step());
  EXPECT_EQ(recorder.payloads, 1u);
  ASSERT_EQ(recorder.events.size(), 1u);
  EXPECT_EQ(recorder.events[0].event, first);
  EXPECT_TRUE(backend->Step());
  EXPECT_TRUE(backend->Step());
  EXPECT_FALSE(backend->Step());
  EXPECT_EQ(recorder.events.size(), 2u);
  ASSERT_EQ(recorder.replies.size(), 2u);
  EXPECT_EQ(recorder.replies[1].sequence, 6u);
  EXPECT_EQ(recorder.failures, 0u);
}

TEST(NullDevice, HoldsABoundedNumberOfCommands) {
  Recorder recorder;
  const auto backend = null::MakeBackend({.stepped = true}, &recorder);
  Submit(*backend, 1, wire::opencl::CreateContext{{{1, 1}}});
  Submit(*backend, 2, wire::opencl::CreateQueue{{{1, 1}}, {{2, 1}}});
  for (std::uint64_t i = 0; i < null::kMaxWaiting + 10; ++i)
    Submit(*backend, 3 + i, wire::opencl::EnqueueSync{{{2, 1}}});
  EXPECT_EQ(backend->waiting(), null::kMaxWaiting);
  EXPECT_EQ(recorder.failures, 10u);
}

TEST(NullDevice, HasOnlySoMuchMemory) {
  Recorder recorder;
  const auto backend = null::MakeBackend({.memory_bytes = 1'000, .max_allocation_bytes = 600}, &recorder);
  Submit(*backend, 1, wire::opencl::CreateContext{{{1, 1}}});
  const auto create = [&](std::uint32_t slot, std::uint64_t size) {
    Submit(*backend, slot, wire::opencl::CreateBuffer{{{1, 1}}, {{slot, 1}}, {1}, size}, true);
    return recorder.replies.back().status;
  };
  EXPECT_EQ(create(2, 601), cl_status::kInvalidBufferSize);
  EXPECT_EQ(create(3, 600), 0);
  EXPECT_EQ(create(4, 401), cl_status::kMemObjectAllocationFailure);
  EXPECT_EQ(create(5, 400), 0);
  Submit(*backend, 9, wire::DestroyObject{{ObjectKind::kMemory, {3, 1}}}, true);
  EXPECT_EQ(create(6, 600), 0);
}

TEST(NullDevice, InjectsTheSameFailuresForASeed) {
  const auto run = [](std::uint64_t seed) {
    Recorder recorder;
    const auto backend = null::MakeBackend({.failures_per_million = 200'000, .seed = seed}, &recorder);
    for (std::uint32_t i = 1; i <= 200; ++i) {
      Submit(*backend, i, wire::opencl::CreateContext{{{i, 1}}}, true);
    }
    std::string failed;
    for (const auto& reply : recorder.replies) failed += reply.status == 0 ? '.' : 'x';
    return failed;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
  const std::string failed = run(3);
  const auto count = std::count(failed.begin(), failed.end(), 'x');
  EXPECT_GT(count, 5);
  EXPECT_LT(count, 60);
}

// Random commands in a small world of handles, half of them with absurd numbers. DirectSubject checks that
// each is answered as it should be and each payload released once.
class Chaos {
 public:
  Chaos(std::uint64_t seed, Subject& subject) : random_(seed), maker_(random_), subject_(subject) {}

  void Send() {
    std::vector<std::uint16_t> opcodes;
    wire::ForEachRow(wire::kCommands, [&](const auto& row) {
      using R = std::remove_cvref_t<decltype(row)>;
      if (row.place == wire::Place::kDevice && row.mode != wire::Mode::kNotice) opcodes.push_back(R::kOpcode);
    });
    opcodes.push_back(wire::OpcodeIn<wire::exec::LoadProgram>(wire::exec::kExecCommands));
    const std::uint16_t opcode = opcodes[random_.Below(opcodes.size())];
    WithDeviceRow(opcode, [&](const auto& row) {
      using M = typename std::remove_cvref_t<decltype(row)>::Command;
      SendOne<M>(opcode);
    });
  }

 private:
  template <wire::Message M>
  void SendOne(std::uint16_t opcode) {
    M message = maker_.template Make<M>();
    ByteVector payload;
    const bool sane = random_.Below(4) != 0;
    const auto tame = [&](auto& field) {
      using T = std::remove_cvref_t<decltype(field)>;
      if constexpr (std::same_as<T, Handle>) {
        field = {1 + field.slot % kSlots, 1};
      } else if constexpr (wire::internal::IsHandle<T>::value || std::same_as<T, wire::Drop>) {
        if (!field.handle.null()) field.handle = {1 + field.handle.slot % kSlots, 1};
      } else if constexpr (wire::internal::IsPayload<T>::value) {
        field.size_bytes = random_.Below(100);
        payload.resize(field.size_bytes);
      } else if constexpr (wire::internal::IsWanted<T>::value) {
        field.size_bytes = random_.Below(100);
      } else if constexpr (wire::internal::IsList<T>::value) {
        field.items = field.items.first(std::min<std::size_t>(field.items.size(), 2));
        if constexpr (std::same_as<T, wire::WaitList>) {
          waits_.assign(field.items.begin(), field.items.end());
          for (auto& wait : waits_) wait.handle = {1 + wait.handle.slot % kSlots, 1};
          field.items = waits_;
        }
      } else if constexpr (std::unsigned_integral<T>) {
        if (sane) field %= 8;
      } else if constexpr (std::same_as<T, wire::Vec3>) {
        if (sane) {
          for (auto& element : field) element %= 8;
        }
      } else if constexpr (std::same_as<T, wire::opencl::ImageFormat>) {
        if (sane) field = {wire::opencl::kOrderRgba, wire::opencl::kUnsignedInt8};
      }
    };
    M::ForEachField(message, [&](std::string_view, auto& field) { tame(field); });
    if constexpr (requires { message.image, message.region, message.data; }) {
      if (sane) {
        message.data.size_bytes = 4 * message.region[0] * message.region[1] * message.region[2];
        if constexpr (wire::internal::IsPayload<decltype(message.data)>::value)
          payload.resize(message.data.size_bytes);
      }
    }
    ByteVector body(wire::EncodedSize(message));
    wire::Encode(message, body);
    if (random_.Below(50) == 0) body.resize(random_.Below(body.size() + 1));
    subject_.Submit(
        {opcode, random_.Below(2) == 0, ++sequence_, body, payload, wire::WantedPayload(message), 0});
  }

  static constexpr std::uint32_t kSlots = 24;
  SeededRandom random_;
  wire::testing::MessageMaker maker_;
  Subject& subject_;
  std::uint64_t sequence_ = 0;
  std::vector<wire::Ref<ObjectKind::kEvent>> waits_;
};

TEST(NullDevice, TakesAnythingThatDecodes) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const auto driver = null::OpenDriver({.memory_bytes = 64u << 10,
                                          .max_allocation_bytes = 16u << 10,
                                          .failures_per_million = seed % 2 == 0 ? 10'000u : 0u,
                                          .seed = seed});
    const auto subject = MakeDirectSubject(*driver, 0, false);
    Chaos chaos(seed, *subject);
    for (int i = 0; i < 2'000; ++i) chaos.Send();
    Report report;
    while (subject->Receive(Duration(0), &report)) {
    }
  }
}

}  // namespace
}  // namespace tulle::gpu::conformance
