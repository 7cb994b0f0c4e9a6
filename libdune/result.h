// SPDX-License-Identifier: Apache-2.0
//
// result.h - a value or the reason why there is none.
//
// Works without exceptions and without libc, so that it can be used in ring 0 and
// on the host side, where errno must not be touched.
#ifndef LIBDUNE_RESULT_H
#define LIBDUNE_RESULT_H

namespace dune {

// Why something failed.  `code` is an errno value; `what` says cause and cure in
// words and lives for ever (a string literal), or is null when the errno says it all.
struct Error {
  int code = 0;
  const char* what = nullptr;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(static_cast<T&&>(value)) {}
  Result(Error error) : error_(error) {}

  bool ok() const { return error_.code == 0; }
  explicit operator bool() const { return ok(); }

  // Precondition: ok().
  T& value() { return value_; }
  const T& value() const { return value_; }
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

  // code is 0 when ok().
  const Error& error() const { return error_; }

 private:
  T value_{};
  Error error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(error) {}

  bool ok() const { return error_.code == 0; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return error_; }

 private:
  Error error_;
};

}  // namespace dune

#endif
