// SPDX-License-Identifier: Apache-2.0
#include "apps/gc-workloads/workloads.h"

#include <expat.h>
#include <gc/gc.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "apps/gc-workloads/objects.h"

namespace {

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
double* volatile long_lived_array;

// As the original with its depths 18, 16, 4 and 16, where size is 16.
Outcome gcbench(unsigned size) {
  const auto nodes = [](unsigned depth) { return (2u << depth) - 1; };
  const unsigned stretch = size + 2, array = 8u << size;
  Outcome outcome;
  count(bottom_up(stretch), stretch, outcome);
  Tree* root = make<Tree>();
  long_lived = root;
  top_down(size, root);
  long_lived_array = static_cast<double*>(GC_MALLOC_ATOMIC(array * sizeof(double)));
  for (unsigned i = 1; i < array / 2; i++) long_lived_array[i] = 1.0 / i;
  for (unsigned depth = 4; depth <= size; depth += 2) {
    const unsigned times = 2 * nodes(stretch) / nodes(depth);
    for (unsigned n = 0; n < times; n++) {
      Tree* t = make<Tree>();
      top_down(depth, t);
      count(t, depth, outcome);
    }
    for (unsigned n = 0; n < times; n++) count(bottom_up(depth), depth, outcome);
  }
  count(long_lived, size, outcome);
  if (long_lived_array[1000 % (array / 2)] != 1.0 / (1000 % (array / 2))) outcome.lost++;
  return outcome;
}

// ---- a long list that stays; each update of it makes a short one that does not ----

struct Node {
  uint64_t magic;
  Node* next;
  uint64_t* value;  // an object of its own
  uint64_t number;
};

Node* volatile list;

Node* make_node(uint64_t number, uint64_t value, Node* next) {
  Node* n = make<Node>();
  n->magic = kMagic;
  n->number = number;
  n->next = next;
  n->value = static_cast<uint64_t*>(GC_MALLOC_ATOMIC(32));
  *n->value = value;
  return n;
}

Outcome linked_list(unsigned size) {
  constexpr unsigned kTemporary = 32;
  Outcome outcome;
  Random random;
  auto* expected = static_cast<uint64_t*>(calloc(size, sizeof(uint64_t)));
  for (unsigned i = 0; i < size; i++) list = make_node(i, 0, list);
  Node* at = list;
  for (unsigned i = 1; i <= size / 8; i++) {
    for (unsigned steps = random(16); steps; steps--) at = at->next ? at->next : list;
    Node* temporary = nullptr;
    for (unsigned n = 0; n < kTemporary; n++) temporary = make_node(n, i, temporary);
    // To this object an old one points, and nothing else does.
    at->value = temporary->value;
    expected[at->number] = i;
  }
  unsigned left = size;
  for (Node* n = list; n; n = n->next, left--) {
    if (n->magic != kMagic || n->number >= size) break;
    if (*n->value != expected[n->number]) outcome.lost++;
    outcome.sum += n->number * 3 + *n->value;
  }
  outcome.lost += left;
  free(expected);
  return outcome;
}

// ---- a chained hash map by strings, which is read more often than written ----

struct Entry {
  uint64_t magic;
  Entry* next;
  char* key;
  uint64_t* value;
};

Entry** volatile buckets;

// A key is a string of its own each time that it is asked for.
char* key_of(unsigned number) {
  auto* text = static_cast<char*>(GC_MALLOC_ATOMIC(16));
  char* end = text;
  for (unsigned n = number; end == text || n; n /= 10) *end++ = static_cast<char>('0' + n % 10);
  *end = 0;
  return text;
}

unsigned hash_of(const char* text) {
  unsigned hash = 2166136261;
  for (; *text; text++) hash = (hash ^ static_cast<unsigned char>(*text)) * 16777619;
  return hash;
}

Outcome hash_map(unsigned size) {
  constexpr unsigned kWrites = 128;  // one in so many, in the second part
  Outcome outcome;
  Random random;
  auto* expected = static_cast<uint64_t*>(calloc(size, sizeof(uint64_t)));  // 0: not there
  buckets = static_cast<Entry**>(GC_MALLOC(size * sizeof(Entry*)));
  auto find = [&](const char* key) {
    Entry** at = &buckets[hash_of(key) % size];
    while (*at && (*at)->magic == kMagic && strcmp((*at)->key, key) != 0) at = &(*at)->next;
    return at;
  };
  for (unsigned i = 0; i < size * 24; i++) {
    const unsigned number = i < size ? i : random(size);
    char* key = key_of(number);
    Entry** at = find(key);
    if (*at && (*at)->magic != kMagic) {
      outcome.lost++;
      *at = nullptr;
    }
    if (i >= size && random(kWrites) != 0) {
      if ((*at ? *(*at)->value : 0) != expected[number]) outcome.lost++;
      continue;
    }
    if (*at && random(8) == 0) {
      *at = (*at)->next;
      expected[number] = 0;
      continue;
    }
    if (!*at) {
      Entry* e = make<Entry>();
      e->magic = kMagic;
      e->key = key;
      *at = e;
    }
    auto* value = static_cast<uint64_t*>(GC_MALLOC_ATOMIC(40));
    *value = expected[number] = i + 1;
    (*at)->value = value;
  }
  for (unsigned number = 0; number < size; number++) {
    Entry* e = *find(key_of(number));
    const bool good = e ? e->magic == kMagic && *e->value == expected[number] : !expected[number];
    if (good)
      outcome.sum += expected[number] * (number + 1);
    else
      outcome.lost++;
  }
  free(expected);
  return outcome;
}

// ---- XML, parsed by expat into trees: a large document stays, small ones come and go ----

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

Document* volatile kept;

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

Document* parse(const std::string& source, Outcome& outcome) {
  auto* document = make<Document>();
  XML_Parser parser = XML_ParserCreate(nullptr);
  XML_SetUserData(parser, document);
  XML_SetElementHandler(parser, start_element, end_element);
  XML_SetCharacterDataHandler(parser, text);
  if (XML_Parse(parser, source.data(), static_cast<int>(source.size()), 1) != XML_STATUS_OK)
    outcome.lost++;
  XML_ParserFree(parser);
  return document;
}

Outcome xml(unsigned size) {
  constexpr unsigned kMessages = 100;
  Outcome outcome;
  kept = parse(xml_source(size), outcome);
  const std::string message = xml_source(size / 50);
  for (unsigned i = 0; i < kMessages; i++) {
    Document* document = parse(message, outcome);
    check(document->root, outcome);
    // One item of each is added to the document that stays.
    Element* item = document->root->last;
    item->parent = kept->root;
    kept->root->last = kept->root->last->next = item;
  }
  check(kept->root, outcome);
  return outcome;
}

}  // namespace

const Workload kWorkloads[5] = {
    {"gcbench", 13, gcbench},      {"linked_list", 150000, linked_list},
    {"hash_map", 40000, hash_map}, {"xml", 10000, xml},
    {"threads", 4, threads},
};
