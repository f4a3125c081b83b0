// Runs kernels: blocks over threads of the host, in a block its warps in turn, in a warp its splits.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "tulle/gpu/softcuda/module.h"

namespace tulle::gpu::softcuda {
namespace {

constexpr std::int32_t kNoBarrier = -1;
constexpr std::int32_t kWarpBarrier = -2;
constexpr std::uint32_t kStepsBetweenLooks = 1 << 14;  // at whether to stop

// Mostly all of a warp.
std::uint32_t Count(std::uint32_t lanes) {
  return lanes == kAllLanes ? kLanes : static_cast<std::uint32_t>(std::popcount(lanes));
}

// Memory of zeros; where it is sparse, pages that nobody writes are in no memory.
struct Release {
  std::size_t mapped = 0;
  void operator()(std::byte* memory) const {
    mapped != 0 ? static_cast<void>(munmap(memory, mapped)) : operator delete[](memory, std::align_val_t(64));
  }
};
using Memory = std::unique_ptr<std::byte, Release>;
Memory Zeroed(std::size_t bytes, bool is_sparse = false) {
  if (!is_sparse) return Memory(new (std::align_val_t(64)) std::byte[bytes + 1]());
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), Release{bytes}};
}

// Where one thread of the host runs its blocks; used again for each.
class BlockRunner {
 public:
  BlockRunner(const Program& program, DeviceMemory& memory, const Launch& launch)
      : program_(program),
        launch_(launch),
        threads_(static_cast<std::uint32_t>(launch.block.all())),
        warps_((threads_ + kLanes - 1) / kLanes),
        registers_(Zeroed(std::size_t{program.register_bytes} * warps_.size())),
        local_(Zeroed(std::size_t{program.local_bytes} * kLanes * warps_.size(),
                      program.local_bytes != program.stack_at)),
        shared_(Zeroed(SharedBytes())) {
    block_ = {.print = launch.print,
              .program = &program,
              .memory = &memory,
              .parameters = launch.parameters.data(),
              .shared = shared_.get(),
              .shared_bytes = SharedBytes()};
    for (std::uint32_t w = 0; w < warps_.size(); ++w) {
      Warp& warp = warps_[w];
      warp.registers = registers_.get() + std::size_t{program.register_bytes} * w;
      warp.local = local_.get() + std::size_t{program.local_bytes} * kLanes * w;
      warp.number = w;
      warp.block = &block_;
      for (const Program::Constant& constant : program.constants) {
        for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
          if (constant.wide) {
            warp.Reg<std::uint64_t>(constant.at)[lane] = constant.bits;
          } else {
            warp.Reg<std::uint32_t>(constant.at)[lane] = static_cast<std::uint32_t>(constant.bits);
          }
        }
      }
      for (const Program::ParameterConstant& constant : program.parameter_constants) {
        const std::byte* const from = launch.parameters.data() + constant.offset;
        for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
          if (constant.wide) {
            std::memcpy(&warp.Reg<std::uint64_t>(constant.at)[lane], from, sizeof(std::uint64_t));
          } else {
            std::memcpy(&warp.Reg<std::uint32_t>(constant.at)[lane], from, sizeof(std::uint32_t));
          }
        }
      }
      // What is the same in all blocks.
      const Dim3& block = launch.block;
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        const std::uint32_t thread = w * kLanes + lane;
        const std::uint32_t below = (std::uint32_t{1} << lane) - 1;
        const std::uint32_t values[] = {thread % block.x,
                                        thread / block.x % block.y,
                                        thread / (block.x * block.y),
                                        block.x,
                                        block.y,
                                        block.z,
                                        0,
                                        0,
                                        0,
                                        launch.grid.x,
                                        launch.grid.y,
                                        launch.grid.z,
                                        lane,
                                        w,
                                        static_cast<std::uint32_t>(warps_.size()),
                                        std::uint32_t{1} << lane,
                                        below,
                                        below | std::uint32_t{1} << lane,
                                        ~(below | std::uint32_t{1} << lane),
                                        ~below};
        for (std::size_t i = 0; i < std::size(values); ++i) {
          if (program.specials[i] != 0) warp.Reg<std::uint32_t>(program.specials[i])[lane] = values[i];
        }
      }
    }
  }
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  LaunchEnd Run(std::uint64_t number) {
    const std::uint32_t at[] = {
        static_cast<std::uint32_t>(number % launch_.grid.x),
        static_cast<std::uint32_t>(number / launch_.grid.x % launch_.grid.y),
        static_cast<std::uint32_t>(number / (std::uint64_t{launch_.grid.x} * launch_.grid.y))};
    block_.index = {at[0], at[1], at[2]};
    for (Warp& warp : warps_) {
      const std::uint32_t left = threads_ - warp.number * kLanes;
      warp.alive = left >= kLanes ? kAllLanes : (std::uint32_t{1} << left) - 1;
      // A program may have functions with a stack and no call that saves anything.
      warp.stack_tops.fill(program_.stack_at);
      if (!program_.frames.empty()) {
        for (std::vector<std::byte>& stack : warp.stacks) stack.clear();
      }
      warp.splits.assign(1, {.pc = program_.start, .mask = warp.alive, .barrier = kNoBarrier});
      for (std::size_t i = 0; i < 3; ++i) {
        if (program_.specials[6 + i] == 0) continue;
        std::fill_n(warp.Reg<std::uint32_t>(program_.specials[6 + i]), kLanes, at[i]);
      }
    }
    arrived_.fill(0);
    expected_.fill(0);
    for (bool runs = true; runs && block_.fault == Fault::kNone;) {
      runs = false;
      bool any_left = false;
      for (Warp& warp : warps_) {
        runs |= RunWarp(warp);
        any_left |= warp.alive != 0;
        if (block_.fault != Fault::kNone) break;
      }
      if (!runs && any_left && block_.fault == Fault::kNone) block_.Stop(Fault::kDeadlock, 0, 0);
      runs = runs && any_left;
    }
    return {block_.fault, block_.fault_address, block_.fault_line};
  }

 private:
  std::uint32_t SharedBytes() const { return program_.dynamic_shared_at + launch_.dynamic_shared_bytes; }

  std::uint32_t Alive() const {
    std::uint32_t alive = 0;
    for (const Warp& warp : warps_) alive += Count(warp.alive);
    return alive;
  }

  // Lets go who waits at a barrier at which all have arrived.
  void CheckBarriers() {
    const std::uint32_t alive = Alive();
    for (std::uint32_t id = 0; id < kBarriers; ++id) {
      if (arrived_[id] == 0) continue;
      const std::uint32_t expected = expected_[id] == 0 ? alive : std::min(expected_[id], alive);
      if (arrived_[id] < expected) continue;
      arrived_[id] = expected_[id] = 0;
      for (Warp& warp : warps_) {
        for (Split& split : warp.splits) {
          if (split.barrier == static_cast<std::int32_t>(id)) split.barrier = kNoBarrier;
        }
      }
    }
  }

  // The split that goes on: the one furthest behind of those that do not wait.
  static Split* Next(Warp& warp) {
    Split* next = nullptr;
    for (Split& split : warp.splits) {
      if (split.barrier == kNoBarrier && (next == nullptr || split.pc < next->pc)) next = &split;
    }
    return next;
  }

  // Splits at the same instruction become one.
  static void Merge(Warp& warp) {
    for (std::size_t i = 0; i < warp.splits.size(); ++i) {
      for (std::size_t k = warp.splits.size() - 1; k > i; --k) {
        Split& one = warp.splits[i];
        const Split& other = warp.splits[k];
        if (one.pc != other.pc || one.barrier != kNoBarrier || other.barrier != kNoBarrier) continue;
        one.mask |= other.mask;
        warp.splits.erase(warp.splits.begin() + static_cast<std::ptrdiff_t>(k));
      }
    }
  }

  // Until all of its lanes wait or have ended. Whether it did anything.
  bool RunWarp(Warp& warp) {
    bool did = false;
    while (block_.fault == Fault::kNone) {
      if (warp.splits.size() > 1) Merge(warp);
      Split* split = Next(warp);
      if (split == nullptr) {
        // Where nobody else of the warp can come any more, who waits for the warp goes on.
        bool any = false;
        for (Split& waiting : warp.splits)
          any |=
              std::exchange(waiting.barrier,
                            waiting.barrier == kWarpBarrier ? kNoBarrier : waiting.barrier) == kWarpBarrier;
        if (!any) return did;
        continue;
      }
      did = true;
      // Up to where the next one waits for it, if there is one ahead.
      std::uint32_t until = ~0u;
      for (const Split& other : warp.splits) {
        if (&other != split && other.barrier == kNoBarrier) until = std::min(until, other.pc);
      }
      RunSplit(warp, static_cast<std::size_t>(split - warp.splits.data()), until);
    }
    return did;
  }

  // Where a lane goes on; nothing, with a fault: nowhere.
  std::optional<std::uint32_t> Target(Warp& warp, const Inst& inst, int lane) {
    if (inst.flow == Flow::kReturn) return warp.Reg<std::uint32_t>(inst.dst)[lane];
    if (inst.flow == Flow::kTable) {
      const std::vector<std::uint32_t>& table = program_.tables[inst.target];
      const std::uint32_t which = warp.Reg<std::uint32_t>(inst.a)[lane];
      if (which < table.size()) return table[which];
      block_.Stop(Fault::kTrap, 0, inst.line);
      return std::nullopt;
    }
    const auto& functions = program_.pointed[inst.target];
    const std::uint64_t address = warp.Reg<std::uint64_t>(inst.a)[lane];
    const auto it =
        std::lower_bound(functions.begin(), functions.end(), std::pair(address, std::uint32_t{0}));
    if (it != functions.end() && it->first == address) return it->second;
    block_.Stop(Fault::kInvalidPc, address, inst.line);
    return std::nullopt;
  }

  std::byte* Own(const Warp& warp, int lane) const {
    return warp.local + std::size_t{program_.local_bytes} * static_cast<std::uint32_t>(lane);
  }

  // Puts what the lane has of a function on its stack, as the function may be called before it goes on.
  void Save(Warp& warp, const Inst& inst, int lane) {
    const Program::Frame& frame = program_.frames[inst.target];
    std::vector<std::byte>& stack = warp.stacks[static_cast<std::size_t>(lane)];
    if (stack.size() + frame.bytes > kMaxLocalBytes) return block_.Stop(Fault::kStackOverflow, 0, inst.line);
    stack.resize(stack.size() + frame.bytes);
    std::byte* to = stack.data() + stack.size() - frame.bytes;
    for (const Program::Frame::Register& held : frame.registers) {
      if (held.bytes == 0) {
        *to++ = static_cast<std::byte>(*warp.Reg<std::uint32_t>(held.at) >> lane & 1);
      } else {
        std::memcpy(to, warp.registers + held.at + held.bytes * static_cast<std::uint32_t>(lane), held.bytes);
        to += held.bytes;
      }
    }
    for (const Program::Frame::Local& held : frame.local) {
      std::memcpy(to, Own(warp, lane) + held.at, held.bytes);
      to += held.bytes;
    }
  }
  // And back, but for the `b` bytes at `a` of its own memory, which hold what was returned.
  void Restore(Warp& warp, const Inst& inst, int lane) {
    const Program::Frame& frame = program_.frames[inst.target];
    std::vector<std::byte>& stack = warp.stacks[static_cast<std::size_t>(lane)];
    const std::byte* from = stack.data() + stack.size() - frame.bytes;
    for (const Program::Frame::Register& held : frame.registers) {
      if (held.bytes == 0) {
        std::uint32_t& lanes = *warp.Reg<std::uint32_t>(held.at);
        lanes = (lanes & ~(1u << lane)) | static_cast<std::uint32_t>(*from++) << lane;
      } else {
        std::memcpy(warp.registers + held.at + held.bytes * static_cast<std::uint32_t>(lane), from,
                    held.bytes);
        from += held.bytes;
      }
    }
    std::byte* const own = Own(warp, lane);
    for (const Program::Frame::Local& held : frame.local) {
      const std::uint32_t end = held.at + held.bytes;
      const std::uint32_t before = std::clamp(inst.a, held.at, end),
                          after = std::clamp(inst.a + inst.b, held.at, end);
      std::memcpy(own + held.at, from, before - held.at);
      std::memcpy(own + after, from + (after - held.at), end - after);
      from += held.bytes;
    }
    stack.resize(stack.size() - frame.bytes);
  }

  // `number` of the warp's splits, until it waits, ends, divides, or reaches `until`.
  void RunSplit(Warp& warp, std::size_t number, std::uint32_t until) {
    const Inst* const code = program_.code.data();
    std::uint32_t pc = warp.splits[number].pc;
    std::uint32_t mask = warp.splits[number].mask;
    const auto leave = [&] {
      warp.splits[number].pc = pc;
      warp.splits[number].mask = mask;
      if (mask == 0) warp.splits.erase(warp.splits.begin() + static_cast<std::ptrdiff_t>(number));
    };
    for (bool first = true; first || pc < until; first = false) {
      const Inst& inst = code[pc];
      if (++steps_ >= look_at_) {
        look_at_ = steps_ + kStepsBetweenLooks;
        if (launch_.stop != nullptr && launch_.stop->load(std::memory_order_relaxed))
          block_.Stop(Fault::kStopped, 0, inst.line);
      }
      if (block_.fault != Fault::kNone) return leave();
      if (inst.straight != 0) {
        const std::uint32_t end = std::max(std::min(pc + inst.straight, until), pc + 1);
        warp.active = mask;
        steps_ += end - pc;
        const Inst* next = &inst;
        do {
          next->run(warp, *next);
          ++next;
        } while (next != code + end && block_.fault == Fault::kNone);
        pc = static_cast<std::uint32_t>(next - code);
        continue;
      }
      std::uint32_t active = mask;
      if (inst.guard != ~0u) {
        const std::uint32_t bits = *warp.Reg<std::uint32_t>(inst.guard);
        active &= inst.guard_negated ? ~bits : bits;
      }
      switch (inst.flow) {
        case Flow::kNext:
          if (active != 0) {
            warp.active = active;
            inst.run(warp, inst);
          }
          ++pc;
          continue;
        case Flow::kBranch:
        case Flow::kCall:
          if (inst.flow == Flow::kCall) {
            for (std::uint32_t rest = active; rest != 0; rest &= rest - 1)
              warp.Reg<std::uint32_t>(inst.dst)[std::countr_zero(rest)] = pc + 1;
          }
          if (active == mask) {
            pc = inst.target;
          } else if (active == 0) {
            ++pc;
          } else {
            warp.splits.push_back({inst.target, active, kNoBarrier});
            mask &= ~active;
            ++pc;
            return leave();
          }
          continue;
        case Flow::kTable:
        case Flow::kReturn:
        case Flow::kCallPointer:
          // Each lane goes where its register says.
          for (std::uint32_t rest = active; rest != 0;) {
            const std::optional<std::uint32_t> to = Target(warp, inst, std::countr_zero(rest));
            if (!to) return leave();
            std::uint32_t same = 0;
            for (std::uint32_t lanes = rest; lanes != 0; lanes &= lanes - 1) {
              if (Target(warp, inst, std::countr_zero(lanes)) == to) same |= lanes & (0 - lanes);
            }
            if (block_.fault != Fault::kNone) return leave();
            rest &= ~same;
            warp.splits.push_back({*to, same, kNoBarrier});
          }
          if (inst.flow == Flow::kCallPointer) {
            for (std::uint32_t rest = active; rest != 0; rest &= rest - 1)
              warp.Reg<std::uint32_t>(inst.dst)[std::countr_zero(rest)] = pc + 1;
          }
          mask &= ~active;
          ++pc;
          return leave();
        case Flow::kEnter:
          for (std::uint32_t rest = active; rest != 0; rest &= rest - 1) {
            const int lane = std::countr_zero(rest);
            std::uint32_t& top = warp.stack_tops[static_cast<std::size_t>(lane)];
            if (inst.b > program_.local_bytes - top) {
              block_.Stop(Fault::kStackOverflow, 0, inst.line);
              break;
            }
            warp.Reg<std::uint64_t>(inst.dst)[lane] = top;
            top += inst.b;
          }
          ++pc;
          continue;
        case Flow::kLeave:
          for (std::uint32_t rest = active; rest != 0; rest &= rest - 1) {
            const int lane = std::countr_zero(rest);
            warp.stack_tops[static_cast<std::size_t>(lane)] =
                static_cast<std::uint32_t>(warp.Reg<std::uint64_t>(inst.a)[lane]);
          }
          ++pc;
          continue;
        case Flow::kSave:
        case Flow::kRestore:
          for (std::uint32_t rest = active; rest != 0 && block_.fault == Fault::kNone; rest &= rest - 1)
            inst.flow == Flow::kSave ? Save(warp, inst, std::countr_zero(rest))
                                     : Restore(warp, inst, std::countr_zero(rest));
          ++pc;
          continue;
        case Flow::kBarrier: {
          if (active == 0) {
            ++pc;
            continue;
          }
          Split waiting{pc + 1, active, kWarpBarrier};
          if (inst.mode != 1) {
            const int lowest = std::countr_zero(active);
            const std::uint32_t id = warp.Reg<std::uint32_t>(inst.a)[lowest];
            if (id >= kBarriers) {
              block_.Stop(Fault::kTrap, 0, inst.line);
              return leave();
            }
            waiting.barrier = static_cast<std::int32_t>(id);
            arrived_[id] += Count(active);
            if (inst.b != 0) expected_[id] = warp.Reg<std::uint32_t>(inst.b)[lowest];
          }
          mask &= ~active;
          ++pc;
          leave();
          warp.splits.push_back(waiting);
          if (inst.mode != 1) CheckBarriers();
          return;
        }
        case Flow::kExit:
          warp.alive &= ~active;
          mask &= ~active;
          ++pc;
          if (active == 0) continue;
          leave();
          CheckBarriers();
          return;
        case Flow::kTrap:
          if (active == 0) {
            ++pc;
            continue;
          }
          block_.Stop(Fault::kTrap, 0, inst.line);
          return leave();
      }
    }
    leave();
  }

  const Program& program_;
  const Launch& launch_;
  const std::uint32_t threads_;
  std::vector<Warp> warps_;
  const Memory registers_, local_, shared_;
  Block block_;
  std::array<std::uint32_t, kBarriers> arrived_{}, expected_{};
  std::uint64_t steps_ = 0, look_at_ = kStepsBetweenLooks;
};

}  // namespace

Result<LaunchEnd> RunKernel(const Program& program, DeviceMemory& memory, const Launch& launch) {
  const auto invalid = [](const std::string& what) {
    return Error{.code = Code::kInvalidArgument, .message = what};
  };
  const std::uint64_t blocks = launch.grid.all();
  if (blocks == 0 || launch.block.all() == 0) return invalid("a dimension of the grid or of the block is 0");
  if (launch.grid.x > 0x7fff'ffff || launch.grid.y > 0xffff || launch.grid.z > 0xffff)
    return invalid("the grid is too large");
  if (launch.block.all() > program.max_threads || launch.block.x > 1024 || launch.block.y > 1024 ||
      launch.block.z > 64) {
    return invalid("a block of " + std::to_string(launch.block.all()) +
                   " threads is larger than this kernel may have, " + std::to_string(program.max_threads));
  }
  if (std::uint64_t{program.dynamic_shared_at} + launch.dynamic_shared_bytes > kMaxSharedBytes) {
    return invalid("a block would have " +
                   FormatSize(std::uint64_t{program.dynamic_shared_at} + launch.dynamic_shared_bytes) +
                   " of shared memory, at most " + FormatSize(kMaxSharedBytes));
  }
  if (launch.parameters.size() != program.parameter_bytes) {
    return invalid("the parameters have " + std::to_string(launch.parameters.size()) +
                   " bytes, the kernel takes " + std::to_string(program.parameter_bytes));
  }
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  LaunchEnd end;
  const auto work = [&] {
    BlockRunner runner(program, memory, launch);
    for (std::uint64_t number = 0;
         !failed.load(std::memory_order_relaxed) && (number = next.fetch_add(1)) < blocks;) {
      const LaunchEnd of_block = runner.Run(number);
      if (of_block.fault == Fault::kNone) continue;
      failed = true;
      const std::lock_guard lock(mutex);
      if (end.fault == Fault::kNone) end = of_block;
    }
  };
  if (launch.threads == nullptr) {
    work();
  } else {
    launch.threads->Run(blocks, work);
  }
  return end;
}

}  // namespace tulle::gpu::softcuda
