// Example device: sixteen bytes of registers of four bytes each, which do something when they are touched.
//
//   0x00  ID       read only   what was given at its making
//   0x04  STATUS   write one to clear: bits that the device has raised stand until software writes them back
//   0x08  CONTROL  read and write
//   0x0c  COUNTER  each read gives one more than the last; a write of any value starts again at 0
#pragma once

#include "quire/kvirt/mmio_device.h"

namespace quire::kvirt {

class RegisterFile final : public MmioDevice {
 public:
  static constexpr std::uint64_t kId = 0x00;
  static constexpr std::uint64_t kStatus = 0x04;
  static constexpr std::uint64_t kControl = 0x08;
  static constexpr std::uint64_t kCounter = 0x0c;
  static constexpr std::uint64_t kBytes = 0x10;

  explicit RegisterFile(std::uint32_t id) : id_(id) {}

  // The device's side: something happened.
  void raise(std::uint32_t bits) { status_ |= bits; }
  [[nodiscard]] std::uint32_t control() const { return control_; }

  [[nodiscard]] std::string_view name() const override { return "register file"; }
  [[nodiscard]] std::uint64_t bytes() const override { return kBytes; }
  [[nodiscard]] std::optional<std::uint64_t> read(std::uint64_t offset, unsigned width) override {
    if (width != 4) return std::nullopt;
    switch (offset) {
      case kId: return id_;
      case kStatus: return status_;
      case kControl: return control_;
      case kCounter: return counter_++;
      default: return std::nullopt;
    }
  }
  [[nodiscard]] bool write(std::uint64_t offset, unsigned width, std::uint64_t value) override {
    if (width != 4) return false;
    const auto word = static_cast<std::uint32_t>(value);
    switch (offset) {
      case kId: return true;  // ignored, as hardware does
      case kStatus: status_ &= ~word; return true;
      case kControl: control_ = word; return true;
      case kCounter: counter_ = 0; return true;
      default: return false;
    }
  }

 private:
  std::uint32_t id_;
  std::uint32_t status_ = 0;
  std::uint32_t control_ = 0;
  std::uint32_t counter_ = 0;
};

}  // namespace quire::kvirt
