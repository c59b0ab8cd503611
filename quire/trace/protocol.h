// What a recorded process (the plugin inside QEMU) and the collector say to each other.
//
// Each process connects to the collector's abstract SOCK_SEQPACKET socket. A message is a MessageHeader and, for kChunk,
// a buffer of encoded records. Numbers of tasks are the collector's to give (1, 2, 3 … in order of asking), so that two
// recordings agree; the plugin asks with kHello and kNumber and waits for the Reply.
//
// A task's buffer lives in shared memory (a memfd that kTask hands over), so that what a killed process had not sent yet
// is not lost: `written` holds the sequence number and length of the records behind the header; the collector takes them
// when the connection closes and that sequence number has not arrived as a kChunk.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace quire::trace::protocol {

inline constexpr std::uint32_t kMagic = 0x51524531;
inline constexpr std::size_t kBufferBytes = 64 * 1024;

enum class MessageType : std::uint32_t {
  kHello,        // host = getpid(); reply: its number. First message of a process image or a fork child
  kNumber,       // host = pid or tid of a new child or thread, flags = who asks; reply: its number
  kTask,         // pid, tid, host tid; a memfd comes along
  kChunk,        // pid, tid, sequence, flags (wire::kLastOfTask), records
  kThreadGone,   // host tid: may be given to another thread from now on
  kExecuting,    // the process is about to become another program under QEMU
  kNotExecuted,  // that failed: it goes on
};

// Flags of kNumber. A host number names a new task once its old bearer has gone and the same side asks again.
inline constexpr std::uint32_t kAskedByItself = 0;
inline constexpr std::uint32_t kAskedByParent = 1;
inline constexpr std::uint32_t kAskedByWaiter = 2;

// Flag of kHello and kExecuting: only the connection is new, the program and its buffers stay.
inline constexpr std::uint32_t kSameImage = 1;

struct MessageHeader {
  std::uint32_t magic;
  MessageType type;
  std::uint32_t pid;
  std::uint32_t tid;
  std::uint32_t host;
  std::uint32_t sequence;
  std::uint32_t flags;
  std::uint32_t bytes;
};
static_assert(sizeof(MessageHeader) == 32);

struct Reply {
  std::uint32_t magic;
  std::uint32_t number;
};

// The start of a task's shared memory.
struct SharedTask {
  std::uint64_t instructions;          // retired by the task
  std::uint64_t last_record;           // of them, when the last record was written
  std::atomic<std::uint64_t> written;  // sequence << 32 | bytes of records in `data`
  std::uint64_t data_offset;           // of the records, from here
  std::uint64_t reserved[4];
};
static_assert(sizeof(SharedTask) == 64);

}  // namespace quire::trace::protocol
