#include "tulle/gpu/softcuda/call_graph.h"

#include <algorithm>
#include <set>
#include <variant>

namespace tulle::gpu::softcuda {

CallGraph::CallGraph(const PtxModule& module) {
  for (const PtxFunction& function : module.functions) {
    const auto [it, is_new] = functions_.emplace(function.name, &function);
    if (!is_new && function.has_body) it->second = &function;  // declared before
  }
  FindPointed(module);
  Node next = 0;
  for (const auto& [signature, functions] : by_signature_) signature_nodes_[signature] = next++;
  for (const auto& [name, function] : functions_)
    nodes_[name] = IsPointed(*function) ? signature_nodes_.at(SignatureOf(*function)) : next++;
  calls_.resize(next);
  for (const auto& [name, function] : functions_) AddCalls(*function);
  FindCycles();
}

const PtxFunction* CallGraph::Find(const std::string& name) const {
  const auto it = functions_.find(name);
  return it == functions_.end() ? nullptr : it->second;
}

const std::vector<const PtxFunction*>& CallGraph::Pointed(const Signature& signature) const {
  static const std::vector<const PtxFunction*> kNone;
  const auto it = by_signature_.find(signature);
  return it == by_signature_.end() ? kNone : it->second;
}

bool CallGraph::IsPointed(const PtxFunction& function) const {
  const auto& alike = Pointed(SignatureOf(function));
  return std::find(alike.begin(), alike.end(), &function) != alike.end();
}

bool CallGraph::MayComeBack(const PtxFunction& caller, const PtxFunction& callee) const {
  return cycle_[NodeOf(caller)] == cycle_[NodeOf(callee)];
}

bool CallGraph::MayComeBack(const PtxFunction& caller, const Signature& signature) const {
  const auto it = signature_nodes_.find(signature);
  return it != signature_nodes_.end() && cycle_[NodeOf(caller)] == cycle_[it->second];
}

void CallGraph::FindPointed(const PtxModule& module) {
  std::set<std::string> names;
  for (const PtxVariable& variable : module.variables) {
    for (const PtxVariable::Address& address : variable.addresses) names.insert(address.name);
  }
  for (const PtxFunction& function : module.functions) {
    for (const PtxStatement& statement : function.body) {
      const auto* const instruction = std::get_if<PtxInstruction>(&statement.what);
      if (instruction == nullptr || instruction->words[0] != "mov" || instruction->operands.size() != 2)
        continue;
      names.insert(instruction->operands[1].name);
    }
  }
  for (const PtxFunction& function : module.functions) {
    if (function.is_entry || Find(function.name) != &function || !function.has_body ||
        !names.contains(function.name))
      continue;
    pointed_.push_back(&function);
    by_signature_[SignatureOf(function)].push_back(&function);
  }
}

void CallGraph::AddCalls(const PtxFunction& function) {
  const Node from = NodeOf(function);
  std::map<std::string, const PtxPrototype*> prototypes;
  for (const PtxStatement& statement : function.body) {
    if (const auto* const prototype = std::get_if<PtxPrototype>(&statement.what))
      prototypes[prototype->name] = prototype;
    const auto* const instruction = std::get_if<PtxInstruction>(&statement.what);
    if (instruction == nullptr || instruction->words[0] != "call") continue;
    for (const PtxOperand& operand : instruction->operands) {
      if (operand.kind != PtxOperand::Kind::kName) continue;
      if (const auto callee = nodes_.find(operand.name); callee != nodes_.end())
        calls_[from].push_back(callee->second);
      if (const auto prototype = prototypes.find(operand.name); prototype != prototypes.end()) {
        const auto alike = signature_nodes_.find(SignatureOf(*prototype->second));
        if (alike != signature_nodes_.end()) calls_[from].push_back(alike->second);
      }
    }
  }
}

// Strongly connected components, after Tarjan, "Depth-first search and linear graph algorithms", SIAM Journal
// on Computing 1 (1972), with a stack of its own: a module may have any number of functions.
void CallGraph::FindCycles() {
  constexpr Node kNone = ~Node{0};
  struct Visit {
    Node node;
    std::size_t next = 0;  // of its calls
  };
  std::vector<Node> order(calls_.size(), 0), lowest(calls_.size(), 0), path;
  std::vector<Visit> visits;
  Node count = 0;
  cycle_.assign(calls_.size(), kNone);
  const auto enter = [&](Node node) {
    order[node] = lowest[node] = ++count;
    path.push_back(node);
    visits.push_back({node});
  };
  for (Node root = 0; root < calls_.size(); ++root) {
    if (order[root] == 0) enter(root);
    while (!visits.empty()) {
      const Node node = visits.back().node;
      if (visits.back().next < calls_[node].size()) {
        const Node to = calls_[node][visits.back().next++];
        if (order[to] == 0) {
          enter(to);
        } else if (cycle_[to] == kNone) {
          lowest[node] = std::min(lowest[node], order[to]);
        }
        continue;
      }
      if (lowest[node] == order[node]) {
        while (cycle_[node] == kNone) {
          cycle_[path.back()] = node;
          path.pop_back();
        }
      }
      visits.pop_back();
      if (!visits.empty()) lowest[visits.back().node] = std::min(lowest[visits.back().node], lowest[node]);
    }
  }
  is_cyclic_.assign(calls_.size(), false);
  for (Node node = 0; node < calls_.size(); ++node) {
    for (const Node to : calls_[node]) {
      if (cycle_[to] == cycle_[node]) is_cyclic_[node] = true;
    }
  }
}

}  // namespace tulle::gpu::softcuda
