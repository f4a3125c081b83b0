// Who calls whom in a module, by name and through pointers: what must be known before code is made of any of
// it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tulle/gpu/softcuda/ptx.h"

namespace tulle::gpu::softcuda {

// How many bytes each of a function's results and parameters has.
struct Signature {
  std::vector<std::uint32_t> returns, parameters;
  auto operator<=>(const Signature&) const = default;
};
// Of a function or of a prototype.
template <typename Declaration>
Signature SignatureOf(const Declaration& declaration) {
  Signature signature;
  for (const PtxVariable& result : declaration.returns)
    signature.returns.push_back(static_cast<std::uint32_t>(result.bytes()));
  for (const PtxVariable& parameter : declaration.parameters)
    signature.parameters.push_back(static_cast<std::uint32_t>(parameter.bytes()));
  return signature;
}

// Immutable once made. A pointer is taken to lead to any function of its prototype's signature whose address
// the module takes anywhere.
class CallGraph {
 public:
  // `module` must outlive it.
  explicit CallGraph(const PtxModule& module);

  // With its body where there is one; null: there is none of this name.
  const PtxFunction* Find(const std::string& name) const;
  // Those whose address is taken, as the text orders them; the second: those of a signature.
  const std::vector<const PtxFunction*>& pointed() const { return pointed_; }
  const std::vector<const PtxFunction*>& Pointed(const Signature& signature) const;
  bool IsPointed(const PtxFunction& function) const;

  // Whether it may be called again before it returns.
  bool IsCyclic(const PtxFunction& function) const { return is_cyclic_[NodeOf(function)]; }
  // Whether a call within `caller` to `callee`, or through a pointer, may come to the caller again before it
  // returns, or to another function that a pointer to the caller's signature may lead to.
  bool MayComeBack(const PtxFunction& caller, const PtxFunction& callee) const;
  bool MayComeBack(const PtxFunction& caller, const Signature& signature) const;

 private:
  using Node = std::uint32_t;  // a function, or all pointed ones of a signature

  void FindPointed(const PtxModule& module);
  Node NodeOf(const PtxFunction& function) const { return nodes_.at(function.name); }
  void AddCalls(const PtxFunction& function);
  void FindCycles();

  std::map<std::string, const PtxFunction*> functions_;
  std::vector<const PtxFunction*> pointed_;
  std::map<Signature, std::vector<const PtxFunction*>> by_signature_;
  std::map<std::string, Node> nodes_;
  std::map<Signature, Node> signature_nodes_;
  std::vector<std::vector<Node>> calls_;
  std::vector<Node> cycle_;  // of each node: the same for those that come to each other
  std::vector<bool> is_cyclic_;
};

}  // namespace tulle::gpu::softcuda
