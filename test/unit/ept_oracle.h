// SPDX-License-Identifier: Apache-2.0
// Two independent views of an EPT, to check kern/ept.c against.
//
// EptWalker reads the tables as the hardware does (SDM vol. 3C, 29.3): one entry per
// level, the permissions of all levels combined, reserved bits checked, A and D bits
// set by compare-and-swap.  EptModel never looks at a table: it is a map of leaves,
// with the few rules that kern/ept.h states.  CheckedEpt drives both, and says in a
// string what is wrong, so that Catch tests and the fuzzer can share it.
#pragma once

#include "alloc.h"

#include <atomic>
#include <compare>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

extern "C" {
#include "../../kern/ept.h"
}

namespace dune::test {

// Guest-physical and host-physical addresses do not mix.
struct Gpa {
  u64 value;
  auto operator<=>(const Gpa&) const = default;
  Gpa operator+(u64 bytes) const { return {value + bytes}; }
};

struct Pa {
  u64 value;
  auto operator<=>(const Pa&) const = default;
};

inline constexpr u64 gpa_end = 1ULL << 48;
inline constexpr u64 pa_end = 1ULL << 52;
inline constexpr unsigned table_entries = 512;

// The bytes that one entry of this level translates.
constexpr u64 span(int level) { return 1ULL << (3 + 9 * level); }

constexpr u64 align_down(u64 address, u64 size) { return address & ~(size - 1); }

struct Leaf {
  Pa pa;
  u64 prot;
  int level;
  bool accessed, dirty;
  bool operator==(const Leaf&) const = default;
};

using Leaves = std::map<Gpa, Leaf>;

// What a CPU would report as an EPT misconfiguration, or worse.
struct EptBroken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string hex_text(const Parts&... parts) {
  std::ostringstream out;
  out << std::hex << std::showbase;
  (out << ... << parts);
  return out.str();
}

class EptWalker {
 public:
  struct Result {
    Pa pa;     // of the byte asked for
    u64 prot;  // of all levels
    int level;
  };
  enum class Mark { nothing, accessed, dirty };

  explicit EptWalker(const dune_ept& ept) : root_(dune_ept_root_pa(&ept)) {}

  // Translates as an access would; mark says which bits it sets on the way.
  // nothing: an EPT violation, the entry is not present.
  std::optional<Result> walk(Gpa gpa, Mark mark = Mark::nothing) const {
    for (;;) {
      auto [done, result] = try_walk(gpa, mark);
      if (done) return result;
    }
  }

  // The 4 KiB leaf entry itself, which must be there.
  u64& leaf_entry(Gpa gpa) const {
    u64 table = root_;
    for (int level = DUNE_EPT_ROOT_LEVEL; level > 1; level--)
      table = entry_at(table, gpa, level) & DUNE_EPT_ADDR_MASK;
    return entry_at(table, gpa, 1);
  }

  // Every leaf and every table, by reading every entry.  For quiet times: unlike
  // walk() it asks whether each table is alive.
  struct Contents {
    Leaves leaves;
    std::size_t tables = 0;
  };
  Contents contents() const {
    Contents all;
    collect(root_, DUNE_EPT_ROOT_LEVEL, Gpa{0}, all);
    return all;
  }

 private:
  static constexpr u64 present_mask = 7, memtype_mask = 7ULL << 3;

  static u64* entries(u64 table_pa) { return reinterpret_cast<u64*>(table_pa); }

  static u64& entry_at(u64 table_pa, Gpa gpa, int level) {
    return entries(table_pa)[gpa.value / span(level) % table_entries];
  }

  static bool is_leaf(u64 entry, int level) { return level == 1 || (entry >> 7 & 1); }

  // The conditions of SDM vol. 3C, 29.3.3.1 for a present entry, plus what this
  // EPT always does: write-back, guest PAT ignored.
  static void check(u64 entry, int level, Gpa gpa) {
    auto bad = [&](const char* why) {
      throw EptBroken(
          hex_text(why, ": entry ", entry, " of level ", level, " for gpa ", gpa.value));
    };
    if ((entry & 3) == 2) bad("writable but not readable");
    if (!(entry & 1)) bad("not readable");
    if (is_leaf(entry, level)) {
      if (level > DUNE_EPT_MAX_LEAF) bad("leaf in the root");
      if ((entry & memtype_mask) >> 3 != 6) bad("memory type is not write-back");
      if (!(entry >> 6 & 1)) bad("guest PAT is not ignored");
      if ((entry & DUNE_EPT_ADDR_MASK) & (span(level) - 1))
        bad("reserved address bits of a large leaf");
      if (level == 1 && (entry >> 7 & 1)) bad("large bit in level 1");
    } else {
      if (entry & 0xf8) bad("reserved bits of a table entry");
      if ((entry & present_mask) != present_mask) bad("a table restricts permissions");
    }
    if (entry & ~(DUNE_EPT_ADDR_MASK | 0x3ff)) bad("bits that nobody asked for");
  }

  std::pair<bool, std::optional<Result>> try_walk(Gpa gpa, Mark mark) const {
    u64 table = root_;
    u64 prot = present_mask;

    for (int level = DUNE_EPT_ROOT_LEVEL;; level--) {
      std::atomic_ref<u64> atomic(entry_at(table, gpa, level));
      u64 entry = atomic.load(std::memory_order_acquire);
      if (!(entry & present_mask)) return {true, std::nullopt};
      check(entry, level, gpa);
      bool leaf = is_leaf(entry, level);
      u64 marked = entry;
      if (mark != Mark::nothing) marked |= DUNE_EPT_ACCESSED;
      if (mark == Mark::dirty && leaf) marked |= DUNE_EPT_DIRTY;
      // An entry that changed meanwhile starts the walk again.
      if (marked != entry && !atomic.compare_exchange_strong(entry, marked))
        return {false, std::nullopt};
      prot &= entry;
      u64 address = entry & DUNE_EPT_ADDR_MASK;
      if (leaf) return {true, Result{Pa{address + gpa.value % span(level)}, prot, level}};
      table = address;
    }
  }

  static void collect(u64 table, int level, Gpa base, Contents& all) {
    if (!is_live_table(entries(table)))
      throw EptBroken(hex_text("table ", table, " for gpa ", base.value, " is not alive"));
    all.tables++;
    for (unsigned i = 0; i < table_entries; i++) {
      u64 entry = entries(table)[i];
      Gpa gpa = base + i * span(level);
      if (!entry) continue;
      if (!(entry & present_mask))
        throw EptBroken(hex_text("garbage ", entry, " for gpa ", gpa.value));
      check(entry, level, gpa);
      u64 address = entry & DUNE_EPT_ADDR_MASK;
      if (is_leaf(entry, level))
        all.leaves[gpa] = Leaf{Pa{address}, entry & present_mask, level,
                               (entry & DUNE_EPT_ACCESSED) != 0, (entry & DUNE_EPT_DIRTY) != 0};
      else
        collect(address, level - 1, gpa, all);
    }
  }

  u64 root_;
};

class EptModel {
 public:
  const Leaves& leaves() const { return leaves_; }
  std::size_t tables() const { return tables_.size() + 1; }

  // The leaf that covers gpa.
  std::optional<std::pair<Gpa, Leaf>> find(Gpa gpa) const {
    auto it = leaves_.upper_bound(gpa);
    if (it == leaves_.begin()) return std::nullopt;
    --it;
    if (gpa.value - it->first.value >= span(it->second.level)) return std::nullopt;
    return *it;
  }

  // True when the caller must invalidate.
  bool map(Gpa gpa, Pa pa, int level, u64 prot) {
    u64 end = gpa.value + span(level);
    auto old = find(gpa);
    bool stale = remove_tables(gpa.value, end, level - 1);
    if (old && old->second.level == level)
      stale |= old->second.pa != pa || (old->second.prot & ~prot);
    else if (old)
      stale = true;
    remove_leaves(gpa.value, end);
    for (int l = level; l < DUNE_EPT_ROOT_LEVEL; l++)
      tables_.insert({l, Gpa{align_down(gpa.value, span(l + 1))}});
    leaves_[gpa] = Leaf{pa, prot, level, false, false};
    return stale;
  }

  // Only where a table of 4 KiB leaves is, and no leaf.
  bool fill(Gpa gpa, Pa pa, u64 prot) {
    if (find(gpa) || !tables_.contains({1, Gpa{align_down(gpa.value, span(2))}})) return false;
    leaves_[gpa] = Leaf{pa, prot, 1, false, false};
    return true;
  }

  unsigned long zap(u64 start, u64 end) {
    if (end > gpa_end) end = gpa_end;
    if (start >= end) return 0;
    remove_tables(start, end, DUNE_EPT_ROOT_LEVEL - 1);
    return remove_leaves(start, end);
  }

  bool young(u64 start, u64 end, bool clear) {
    bool any = false;
    for (auto& [gpa, leaf] : leaves_) {
      if (start >= end || gpa.value >= end || gpa.value + span(leaf.level) <= start) continue;
      any |= leaf.accessed;
      leaf.accessed &= !clear;
    }
    return any;
  }

  void access(Gpa gpa, bool write) {
    auto found = find(gpa);
    if (!found) return;
    Leaf& leaf = leaves_.at(found->first);
    leaf.accessed = true;
    leaf.dirty |= write;
  }

  unsigned long leaves_of(int level) const {
    unsigned long n = 0;
    for (auto& [gpa, leaf] : leaves_) n += leaf.level == level;
    return n;
  }

 private:
  // Removes tables of up to max_level that translate nothing outside the range.
  bool remove_tables(u64 start, u64 end, int max_level) {
    return std::erase_if(tables_, [&](const auto& table) {
             auto [level, base] = table;
             return level <= max_level && start <= base.value &&
                    base.value + span(level + 1) <= end;
           }) != 0;
  }

  unsigned long remove_leaves(u64 start, u64 end) {
    return std::erase_if(leaves_, [&](const auto& entry) {
      auto& [gpa, leaf] = entry;
      return gpa.value < end && start < gpa.value + span(leaf.level);
    });
  }

  Leaves leaves_;
  std::set<std::pair<int, Gpa>> tables_;  // by level of their entries; not the root
};

// A dune_ept and its model, kept in step.  Throws EptBroken when they differ.
class CheckedEpt {
 public:
  CheckedEpt() : tables_before_(live_tables()) {
    if (dune_ept_init(&ept_)) throw EptBroken("dune_ept_init failed");
  }
  ~CheckedEpt() { dune_ept_destroy(&ept_); }
  CheckedEpt(const CheckedEpt&) = delete;
  CheckedEpt& operator=(const CheckedEpt&) = delete;

  dune_ept& raw() { return ept_; }
  const EptModel& model() const { return model_; }
  EptWalker walker() const { return EptWalker(ept_); }

  bool map(Gpa gpa, Pa pa, int level, u64 prot) {
    dune_ept_freelist freed{};
    dune_ept_cache cache{};
    if (dune_ept_cache_fill(&cache)) throw EptBroken("dune_ept_cache_fill failed");
    bool stale = dune_ept_map(&ept_, &cache, gpa.value, pa.value, level, prot, &freed);
    dune_ept_cache_drain(&cache);
    bool any_freed = freed.head;
    release(freed);
    bool expected = model_.map(gpa, pa, level, prot);
    if (stale != expected)
      throw EptBroken(hex_text("map at ", gpa.value, " says ", stale, " for: must invalidate"));
    if (any_freed && !stale) throw EptBroken("tables to free, but no invalidation");
    return stale;
  }

  unsigned long zap(u64 start, u64 end) {
    dune_ept_freelist freed{};
    unsigned long zapped = dune_ept_zap(&ept_, start, end, &freed);
    release(freed);
    unsigned long expected = model_.zap(start, end);
    if (zapped != expected)
      throw EptBroken(
          hex_text("zapped ", zapped, " leaves of ", expected, " in ", start, "-", end));
    return zapped;
  }

  void fill(Gpa gpa, Pa pa, u64 prot) {
    if (dune_ept_fill(&ept_, gpa.value, pa.value, prot) != model_.fill(gpa, pa, prot))
      throw EptBroken(hex_text("fill is wrong at ", gpa.value));
  }

  bool young(u64 start, u64 end, bool clear) {
    bool young = dune_ept_test_young(&ept_, start, end, clear);
    if (young != model_.young(start, end, clear))
      throw EptBroken(hex_text("young is wrong for ", start, "-", end));
    return young;
  }

  void access(Gpa gpa, EptWalker::Mark mark) {
    compare_at(gpa);
    walker().walk(gpa, mark);
    model_.access(gpa, mark == EptWalker::Mark::dirty);
  }

  // One address, by the walk, by the look-up and by the model.
  void compare_at(Gpa gpa) const {
    auto expected = model_.find(gpa);
    auto found = walker().walk(gpa);
    int level = -1;
    u64 entry = dune_ept_lookup(&ept_, gpa.value, &level);
    auto differs = [&](const char* what) {
      throw EptBroken(hex_text(what, " at gpa ", gpa.value));
    };

    if (expected.has_value() != found.has_value())
      differs(found ? "a stale translation" : "a lost translation");
    if (expected.has_value() != (entry != 0)) differs("look-up and model differ");
    if (!expected) return;
    auto& [base, leaf] = *expected;
    if (found->pa.value != leaf.pa.value + (gpa.value - base.value)) differs("wrong address");
    if (found->prot != leaf.prot) differs("wrong permissions");
    if (found->level != leaf.level || level != leaf.level) differs("wrong level");
    if ((entry & DUNE_EPT_ADDR_MASK) != leaf.pa.value || (entry & DUNE_EPT_PROT) != leaf.prot)
      differs("look-up gives another entry");
  }

  // Everything: leaves, tables, counters, and the allocator's view.
  void compare() const {
    auto all = walker().contents();
    if (all.leaves != model_.leaves()) throw EptBroken(difference(all.leaves));
    if (all.tables != model_.tables())
      throw EptBroken(hex_text(all.tables, " tables, not ", model_.tables()));
    if (ept_.nr_tables != all.tables)
      throw EptBroken(hex_text("nr_tables is ", ept_.nr_tables, " of ", all.tables));
    if (live_tables() - tables_before_ != all.tables) throw EptBroken("a table leaked");
    for (int level = 1; level <= DUNE_EPT_MAX_LEAF; level++)
      if (ept_.nr_leaves[level] != model_.leaves_of(level))
        throw EptBroken(hex_text("nr_leaves[", level, "] is ", ept_.nr_leaves[level]));
  }

 private:
  // Checks what a CPU that still walks the freed tables could see; frees them.
  static void release(dune_ept_freelist& freed) {
    std::size_t before = live_tables(), listed = 0;
    for (const u64* table = static_cast<u64*>(freed.head); table;
         table = reinterpret_cast<const u64*>(table[0])) {
      if (!is_live_table(table)) throw EptBroken("a freed table is not alive");
      if (++listed > before) throw EptBroken("the list of freed tables is a circle");
      if (table[0] & 0x407) throw EptBroken("a freed table's link reads as a present entry");
      for (unsigned i = 1; i < table_entries; i++)
        if (table[i]) throw EptBroken("a freed table is not empty");
    }
    dune_ept_free_tables(&freed);
    if (freed.head || before - live_tables() != listed)
      throw EptBroken("dune_ept_free_tables did not free all");
  }

  std::string difference(const Leaves& found) const {
    std::string text = "the leaves differ:";
    auto line = [&](const char* who, const Leaves& has, const Leaves& other) {
      for (auto& [gpa, leaf] : has) {
        auto it = other.find(gpa);
        if (it == other.end() || it->second != leaf)
          text +=
              hex_text("\n  ", who, ": gpa ", gpa.value, " pa ", leaf.pa.value, " prot ", leaf.prot,
                       " level ", leaf.level, " accessed ", leaf.accessed, " dirty ", leaf.dirty);
      }
    };
    line("tables", found, model_.leaves());
    line("model", model_.leaves(), found);
    return text;
  }

  dune_ept ept_;
  EptModel model_;
  std::size_t tables_before_;
};

// Addresses from a small world, so that operations meet: the edges of every level,
// and the lowest and highest addresses there are.  bits are used up from the low end.
inline Gpa gpa_from_bits(u64 bits) {
  static constexpr u64 gib[] = {0, 1, 511, 512, 513, 131071, 262143, 1024};
  static constexpr u64 index[] = {0, 1, 2, 255, 256, 510, 511, 3};
  return Gpa{gib[bits & 7] << 30 | index[bits >> 3 & 7] << 21 | index[bits >> 6 & 7] << 12 |
             (bits >> 9 & 1 ? 0xfff : 0)};
}

// One step of a sequence: whatever the two words are, it is a valid operation.
// Returns a line of text that names it.
inline std::string apply_step(CheckedEpt& ept, u64 what, u64 more) {
  Gpa gpa = gpa_from_bits(what >> 8);
  int level = 1 + static_cast<int>((what >> 32) % DUNE_EPT_MAX_LEAF);
  u64 size = span(level);

  static constexpr u64 prots[] = {1, 3, 5, 7};
  switch (what % 16) {
    default: {  // map
      Gpa base{align_down(gpa.value, size)};
      // Few physical addresses: mapping the same one again must happen.
      u64 pa = align_down((more & 3) == 0 ? pa_end - 1 : (more >> 8 & 3) * 0x1234567890ULL, size);
      u64 prot = prots[what >> 40 & 3];
      ept.map(base, Pa{pa}, level, prot);
      return hex_text("map ", base.value, " to ", pa, " level ", level, " prot ", prot);
    }
    case 7: {
      Gpa base{align_down(gpa.value, span(1))};
      u64 pa = align_down((more >> 8 & 3) * 0x1234567890ULL, span(1));
      ept.fill(base, Pa{pa}, prots[what >> 40 & 3]);
      return hex_text("fill ", base.value, " with ", pa);
    }
    case 8:
    case 9:
    case 10: {  // zap a few entries of some level, aligned or not
      u64 start = (more & 1) ? gpa.value : align_down(gpa.value, size);
      u64 end = start + size * (1 + (more >> 8 & 3)) - (more >> 16 & 1);
      ept.zap(start, end);
      return hex_text("zap ", start, "-", end);
    }
    case 11: {  // zap from anywhere to anywhere, perhaps nothing, perhaps all
      u64 start = gpa.value, end = gpa_from_bits(more).value;
      if ((more >> 32 & 31) == 0) start = 0;
      if ((more >> 40 & 31) == 0) end = ~0ULL;
      ept.zap(start, end);
      return hex_text("zap ", start, "-", end);
    }
    case 12: {
      u64 end = (more >> 32 & 1) ? gpa_from_bits(more).value : gpa.value + size;
      ept.young(gpa.value, end, more >> 40 & 1);
      return hex_text("young ", gpa.value, "-", end, " clear ", more >> 40 & 1);
    }
    case 13:
    case 14:
    case 15: {
      auto mark = (more & 1) ? EptWalker::Mark::dirty : EptWalker::Mark::accessed;
      ept.access(gpa, mark);
      return hex_text("access ", gpa.value);
    }
  }
}

}  // namespace dune::test
