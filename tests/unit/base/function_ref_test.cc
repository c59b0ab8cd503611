#include "quire/base/function_ref.h"

#include <gtest/gtest.h>

#include <memory>

namespace quire {
namespace {

int call(FunctionRef<int(int)> f, int x) { return f(x); }
int twice(int x) { return 2 * x; }

TEST(FunctionRef, CallsLambdasFunctionsAndFunctors) {
  int offset = 5;
  EXPECT_EQ(call([&](int x) { return x + offset++; }, 1), 6);
  EXPECT_EQ(offset, 6);
  EXPECT_EQ(call(twice, 4), 8);
  const auto constant = [](int) { return 9; };
  EXPECT_EQ(call(constant, 0), 9);
}

TEST(FunctionRef, SeesTheObjectItRefersTo) {
  struct Counter {
    int n = 0;
    int operator()(int by) { return n += by; }
  } counter;
  FunctionRef<int(int)> f = counter;
  f(2);
  FunctionRef<int(int)> copy = f;
  copy(3);
  EXPECT_EQ(counter.n, 5);
}

TEST(FunctionRef, MovesArgumentsAndDropsResults) {
  const auto take = [](std::unique_ptr<int> p) { return *p; };
  FunctionRef<int(std::unique_ptr<int>)> f = take;
  EXPECT_EQ(f(std::make_unique<int>(3)), 3);
  int calls = 0;
  const auto count = [&] { return ++calls; };
  FunctionRef<void()> ignore = count;
  ignore();
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace quire
