// SPDX-License-Identifier: Apache-2.0
#include "apps/gc-workloads/workloads.h"

#include <expat.h>
#include <gc/gc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr uint64_t kMagic = 0x6f626a6563742121;

// The same numbers in every mode and on every machine.
class Random {
 public:
  uint32_t operator()(uint32_t below) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>((state_ >> 33) % below);
  }

 private:
  uint64_t state_ = 42;
};

template <class T>
T* make() {
  return static_cast<T*>(GC_MALLOC(sizeof(T)));
}

// ---- GCBench (Ellis, Kovac, Boehm): short-lived trees beside a tree and an array that stay ----

struct Tree {
  uint64_t magic;
  Tree *left, *right;
  uint64_t value;
};

Tree* bottom_up(unsigned depth) {
  Tree* t = make<Tree>();
  t->magic = kMagic;
  t->value = depth;
  if (depth) {
    Tree* left = bottom_up(depth - 1);
    t->left = left;
    t->right = bottom_up(depth - 1);
  }
  return t;
}

// Parents before children: each child makes its parent dirty.
void top_down(unsigned depth, Tree* t) {
  t->magic = kMagic;
  t->value = depth;
  if (!depth) return;
  t->left = make<Tree>();
  t->right = make<Tree>();
  top_down(depth - 1, t->left);
  top_down(depth - 1, t->right);
}

void count(const Tree* t, unsigned depth, Outcome& outcome) {
  if (!t || t->magic != kMagic || t->value != depth) {
    outcome.lost++;
    return;
  }
  outcome.sum += depth + 1;
  if (!depth) return;
  count(t->left, depth - 1, outcome);
  count(t->right, depth - 1, outcome);
}

Tree* volatile long_lived;

Outcome gcbench(unsigned size) {
  Outcome outcome;
  Tree* root = make<Tree>();
  long_lived = root;
  top_down(size, root);
  for (unsigned depth = 4; depth <= size; depth += 2)
    for (unsigned n = 0; n < 2u << (size - depth); n++) {
      Tree* t = make<Tree>();
      top_down(depth, t);
      count(t, depth, outcome);
      count(bottom_up(depth), depth, outcome);
    }
  count(long_lived, size, outcome);
  return outcome;
}

// ---- a long list, with nodes replaced at a cursor that wanders along it ----

struct Node {
  uint64_t magic;
  Node* next;
  uint64_t* value;  // an object of its own
  uint64_t number;
};

Node* volatile list;

Node* make_node(uint64_t number, Node* next) {
  Node* n = make<Node>();
  n->magic = kMagic;
  n->number = number;
  n->next = next;
  n->value = static_cast<uint64_t*>(GC_MALLOC_ATOMIC(32));
  *n->value = number * 3;
  return n;
}

Outcome linked_list(unsigned size) {
  Outcome outcome;
  Random random;
  for (unsigned i = 0; i < size; i++) list = make_node(i, list);
  uint64_t expected = uint64_t{size} * (size - 1) / 2 * 4;
  Node* at = list;
  for (unsigned i = 0; i < size * 2; i++) {
    for (unsigned steps = random(16); steps && at->next; steps--) at = at->next;
    Node* old = at->next;
    if (!old || old->magic != kMagic) {
      if (old) outcome.lost++;
      at = list;
      continue;
    }
    // An old node now points to a new one, and to nothing else does.
    at->next = make_node(old->number + i, old->next);
    expected += uint64_t{i} * 4;
    for (int garbage = 0; garbage < 4; garbage++) (void)GC_MALLOC(48);
  }
  unsigned left = size;
  for (Node* n = list; n && left; n = n->next, left--) {
    if (n->magic != kMagic || !n->value || *n->value != n->number * 3) {
      outcome.lost++;
      break;
    }
    outcome.sum += n->number + *n->value;
  }
  outcome.lost += left;
  if (!left && outcome.sum != expected) outcome.lost++;
  return outcome;
}

// ---- a chained hash map whose values come and go ----

struct Entry {
  uint64_t magic;
  Entry* next;
  uint64_t key;
  uint64_t* value;
};

Entry** volatile buckets;

Outcome hash_map(unsigned size) {
  Outcome outcome;
  Random random;
  const unsigned nr_buckets = size / 2 + 1;
  auto* expected = static_cast<uint64_t*>(calloc(size, sizeof(uint64_t)));  // 0: not there
  buckets = static_cast<Entry**>(GC_MALLOC(nr_buckets * sizeof(Entry*)));
  auto find = [&](uint64_t key) {
    Entry** at = &buckets[key % nr_buckets];
    while (*at && (*at)->magic == kMagic && (*at)->key != key) at = &(*at)->next;
    return at;
  };
  for (unsigned i = 0; i < size * 6; i++) {
    const uint64_t key = i < size ? i : random(size);
    Entry** at = find(key);
    if (*at && (*at)->magic != kMagic) {
      outcome.lost++;
      *at = nullptr;
    }
    if (*at && random(8) == 0) {
      *at = (*at)->next;
      expected[key] = 0;
      continue;
    }
    if (!*at) {
      Entry* e = make<Entry>();
      e->magic = kMagic;
      e->key = key;
      *at = e;
    }
    auto* value = static_cast<uint64_t*>(GC_MALLOC_ATOMIC(40));
    *value = expected[key] = i + 1;
    (*at)->value = value;
  }
  for (unsigned key = 0; key < size; key++) {
    Entry* e = *find(key);
    const bool good = e ? e->magic == kMagic && *e->value == expected[key] : expected[key] == 0;
    if (good)
      outcome.sum += expected[key] * (key + 1);
    else
      outcome.lost++;
  }
  free(expected);
  return outcome;
}

// ---- XML documents, parsed by expat into trees; the last few trees are kept ----

struct Element {
  uint64_t magic;
  Element *parent, *first, *last, *next;
  char* name;
  char* text;
  uint64_t number;
};

struct Document {
  Element* root;
  Element* open;
};

constexpr unsigned kKept = 4;
Document* volatile documents[kKept];

void XMLCALL start_element(void* user, const char* name, const char** attributes) {
  auto* document = static_cast<Document*>(user);
  Element* e = make<Element>();
  e->magic = kMagic;
  e->parent = document->open;
  e->name = GC_STRDUP(name);
  if (attributes[0]) e->number = strtoull(attributes[1], nullptr, 10);
  if (!document->open)
    document->root = e;
  else if (!document->open->last)
    document->open->first = document->open->last = e;
  else
    document->open->last = document->open->last->next = e;
  document->open = e;
}

void XMLCALL end_element(void* user, const char*) {
  auto* document = static_cast<Document*>(user);
  document->open = document->open->parent;
}

void XMLCALL text(void* user, const char* s, int length) {
  auto* document = static_cast<Document*>(user);
  auto* copy = static_cast<char*>(GC_MALLOC_ATOMIC(static_cast<size_t>(length) + 1));
  memcpy(copy, s, static_cast<size_t>(length));
  copy[length] = 0;
  document->open->text = copy;
}

std::string xml_source(unsigned items) {
  std::string source = "<list id=\"0\">";
  for (unsigned i = 1; i <= items; i++) {
    const std::string n = std::to_string(i);
    source += "<item id=\"" + n + "\"><name id=\"1\">item " + n + "</name><price id=\"2\">" + n +
              "</price></item>";
  }
  return source + "</list>";
}

void check(const Element* e, Outcome& outcome) {
  for (; e; e = e->next) {
    if (e->magic != kMagic || !e->name) {
      outcome.lost++;
      return;
    }
    outcome.sum += e->number + static_cast<unsigned char>(e->name[0]);
    if (e->text) outcome.sum += strlen(e->text);
    check(e->first, outcome);
  }
}

Outcome xml(unsigned size) {
  constexpr unsigned kDocuments = 12;
  Outcome outcome;
  const std::string source = xml_source(size);
  for (unsigned i = 0; i < kDocuments; i++) {
    auto* document = make<Document>();
    documents[i % kKept] = document;
    XML_Parser parser = XML_ParserCreate(nullptr);
    XML_SetUserData(parser, document);
    XML_SetElementHandler(parser, start_element, end_element);
    XML_SetCharacterDataHandler(parser, text);
    if (XML_Parse(parser, source.data(), static_cast<int>(source.size()), 1) != XML_STATUS_OK)
      outcome.lost++;
    XML_ParserFree(parser);
  }
  for (unsigned i = 0; i < kKept; i++) {
    Outcome one;
    check(documents[i]->root, one);
    outcome.sum += one.sum;
    outcome.lost += one.lost;
    Outcome first;
    check(documents[0]->root, first);
    if (one.sum != first.sum) outcome.lost++;
  }
  return outcome;
}

}  // namespace

const Workload kWorkloads[4] = {
    {"gcbench", 14, gcbench},
    {"linked_list", 40000, linked_list},
    {"hash_map", 20000, hash_map},
    {"xml", 3000, xml},
};
