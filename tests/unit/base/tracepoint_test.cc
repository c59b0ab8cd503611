#include "quire/base/tracepoint.h"

#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

struct Wake {
  static constexpr std::string_view kName = "mm_vmscan_kswapd_wake";
  int nid;
  unsigned order;
  void fields(auto&& f) const {
    f("nid", nid);
    f("order", order);
  }
};

TEST(Tracepoint, BuildsNothingWhenNobodyListens) {
  TraceRegistry registry;
  Tracepoint<Wake> wake{registry};
  int built = 0;
  wake([&] {
    ++built;
    return Wake{-1, 3};
  });
  EXPECT_EQ(built, 0);
}

TEST(Tracepoint, ListenerSeesNamesAndSignedValues) {
  TraceRegistry registry;
  Tracepoint<Wake> wake{registry};
  ASSERT_EQ(registry.find("mm_vmscan_kswapd_wake"), &wake);
  std::string seen;
  wake.listen([&](const EventView& event) {
    seen += event.name();
    event.fields([&](std::string_view name, FieldValue value) {
      seen += ' ';
      seen += name;
      seen += '=';
      seen += std::visit(
          [](auto v) {
            return [](auto x) {
              if constexpr (std::is_integral_v<decltype(x)>)
                return std::to_string(x);
              else
                return std::string(x);
            }(v);
          },
          value);
    });
  });
  wake([] { return Wake{-1, 3}; });
  EXPECT_EQ(seen, "mm_vmscan_kswapd_wake nid=-1 order=3");
  wake.silence();
  EXPECT_FALSE(wake.enabled());
}

}  // namespace
}  // namespace quire
