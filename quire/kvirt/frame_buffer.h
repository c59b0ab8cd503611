// Example device: a frame buffer, plain memory of `width` by `height` pixels of four bytes, which the host may look at.
#pragma once

#include <cstring>
#include <vector>

#include "quire/kvirt/mmio_device.h"

namespace quire::kvirt {

class FrameBuffer final : public MmioDevice {
 public:
  // Its range is bytes() long: whole pages.
  FrameBuffer(unsigned width, unsigned height)
      : width_(width), memory_(align_up(std::uint64_t{width} * height * kPixelBytes, kPageSize)) {}

  [[nodiscard]] std::uint64_t bytes() const override { return memory_.size(); }
  [[nodiscard]] std::uint64_t offset(unsigned x, unsigned y) const { return (std::uint64_t{y} * width_ + x) * kPixelBytes; }
  [[nodiscard]] std::uint32_t pixel(unsigned x, unsigned y) const {
    std::uint32_t value = 0;
    std::memcpy(&value, memory_.data() + offset(x, y), kPixelBytes);
    return value;
  }

  [[nodiscard]] std::string_view name() const override { return "frame buffer"; }
  [[nodiscard]] std::optional<std::uint64_t> read(std::uint64_t offset, unsigned width) override {
    std::uint64_t value = 0;
    std::memcpy(&value, memory_.data() + offset, width);
    return value;
  }
  [[nodiscard]] bool write(std::uint64_t offset, unsigned width, std::uint64_t value) override {
    std::memcpy(memory_.data() + offset, &value, width);
    return true;
  }
  [[nodiscard]] std::byte* memory() override { return memory_.data(); }

 private:
  static constexpr unsigned kPixelBytes = 4;
  unsigned width_;
  std::vector<std::byte> memory_;
};

}  // namespace quire::kvirt
