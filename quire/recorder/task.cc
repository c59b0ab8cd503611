// A thread's records: from the filter into the buffer, from the buffer to the collector, and the end of a thread or process.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

#include "quire/recorder/process.h"
#include "quire/trace/wire.h"

namespace quire::recorder {

void forget_current();

namespace {

using trace::protocol::kBufferBytes;
using trace::protocol::MessageType;

Vcpu* map_vcpu(int& memfd) {
  memfd = static_cast<int>(syscall(SYS_memfd_create, "quire-task", 1u /* MFD_CLOEXEC */));
  if (memfd >= 0 && ftruncate(memfd, sizeof(Vcpu)) == 0) {
    void* const at = mmap(nullptr, sizeof(Vcpu), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (at != MAP_FAILED) return static_cast<Vcpu*>(at);
  }
  void* const at = mmap(nullptr, sizeof(Vcpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<Vcpu*>(at);
}

void flush_locked(Vcpu& v) {
  const std::uint32_t used = v.used();
  if (used == 0) return;
  const std::uint32_t sequence = v.sequence();
  if (v.stopped == 0) send_chunk(v, v.data, used, sequence, 0);
  v.publish(sequence + 1, 0);
  v.encoder.reset();
}

void make_room(Vcpu& v, std::size_t bytes) {
  if (v.used() + bytes > kBufferBytes) flush(v);
}

// The filter's last word: has the page been recorded in this epoch? Remembers it if not.
bool seen(Vcpu& v, std::uint64_t tag) {
  const std::uint64_t hash = (tag & ((std::uint64_t{1} << kTagEpochShift) - 1)) * 0x9e37'79b9'7f4a'7c15u;
  std::size_t slot = hash >> 50;
  static_assert(kSeenSlots == std::size_t{1} << 14);
  const std::uint64_t epoch = tag >> kTagEpochShift;
  for (unsigned probe = 0; probe < kSeenProbes; ++probe, slot = (slot + 1) % kSeenSlots) {
    if (v.seen[slot] == tag) return true;
    if (v.seen[slot] >> kTagEpochShift != epoch) break;
  }
  v.seen[slot] = tag;
  return false;
}

}  // namespace

Vcpu& make_vcpu() {
  Process& p = process();
  if (p.fd < 0 && !p.silent) {
    connect_collector();
    p.number = ask_number(MessageType::kHello, static_cast<std::uint32_t>(p.host_pid));
  }
  int memfd = -1;
  Vcpu* const v = map_vcpu(memfd);
  if (v == nullptr) _exit(127);
  v->host_tid = static_cast<std::uint32_t>(syscall(SYS_gettid));
  v->id.pid = p.number;
  v->id.tid = v->host_tid == static_cast<std::uint32_t>(p.host_pid) ? p.number : ask_number(MessageType::kNumber, v->host_tid);
  v->shared.data_offset = offsetof(Vcpu, data);
  pthread_mutex_init(&v->flush_lock, nullptr);
  v->start_epoch(p.window);
  send_task(*v, memfd);
  if (memfd >= 0) close(memfd);
  {
    Lock hold(p.lock);
    v->next = p.vcpus;
    p.vcpus = v;
  }
  if (p.announced == Announced::kNo) {
    p.announced = Announced::kYes;
    announce_image(*v);
  }
  return *v;
}

void flush(Vcpu& v) {
  Lock hold(v.flush_lock);
  flush_locked(v);
}

void write_record(Vcpu& v, Record record, std::string_view path, std::string_view path2) {
  make_room(v, trace::kMaxRecordBytes);
  record.instructions = v.shared.instructions - v.shared.last_record;
  v.shared.last_record = v.shared.instructions;
  const std::uint8_t* const end = v.encoder.record(v.data + v.used(), record, path, path2);
  v.publish(v.sequence(), static_cast<std::uint32_t>(end - v.data));
}

void write_access(Vcpu& v, std::uint64_t page, AccessKind kind, std::uint64_t at) {
  const std::uint64_t address = page << 12;
  if (address < v.known_begin || address >= v.known_end) [[unlikely]]
    discover_area(v, address);
  order_here(v);
  make_room(v, trace::kMaxAccessBytes);
  const std::uint64_t delta = at > v.shared.last_record ? at - v.shared.last_record : 0;
  v.shared.last_record += delta;
  const std::uint8_t* const end = v.encoder.access(v.data + v.used(), page, kind, delta);
  v.publish(v.sequence(), static_cast<std::uint32_t>(end - v.data));
}

void filtered_access(Vcpu& v, std::uint64_t page, AccessKind kind, std::uint64_t at) {
  if (process().window == 0) {
    write_access(v, page, kind, at);
    return;
  }
  const std::uint64_t low = page & kTagPageMask;
  const std::size_t slot = page % kFastSlots;
  switch (kind) {
    case AccessKind::kRead:
      if (!seen(v, v.read_base | low)) write_access(v, page, kind, at);
      v.read_tags[slot] = v.read_base | low;
      return;
    case AccessKind::kWrite:
      if (!seen(v, v.write_base | low)) write_access(v, page, kind, at);
      v.write_tags[slot] = v.write_base | low;
      static_cast<void>(seen(v, v.read_base | low));
      v.read_tags[slot] = v.read_base | low;
      return;
    case AccessKind::kExec:
      if (!seen(v, v.exec_base | low)) write_access(v, page, kind, at);
      v.exec_tags[page % kFastExecSlots] = v.exec_base | low;
      return;
  }
}

void touch(Vcpu& v, std::uint64_t address, std::uint64_t bytes, AccessKind kind) {
  if (bytes == 0 || address == 0) return;
  const std::uint64_t last = (address + bytes - 1) >> 12;
  for (std::uint64_t page = address >> 12; page <= last; ++page) filtered_access(v, page, kind, v.shared.instructions);
}

void start_new_epochs() {
  Process& p = process();
  Lock hold(p.lock);
  for (Vcpu* v = p.vcpus; v != nullptr; v = v->next) __atomic_store_n(&v->epoch_end, 0, __ATOMIC_RELAXED);
}

void end_task(Vcpu& v, int status, Reach reach) {
  Record exit;
  exit.kind = RecordKind::kExit;
  exit.status = status;
  exit.flags = reach == Reach::kProcess ? trace::kExitGroup : 0;
  exit.instructions = v.shared.instructions - v.shared.last_record;
  Lock hold(v.flush_lock);
  if (v.stopped != 0) return;
  flush_locked(v);
  v.stopped = 1;
  std::uint8_t buffer[trace::kMaxRecordBytes];
  const std::uint8_t* const end = v.encoder.record(buffer, exit);
  send_chunk(v, buffer, static_cast<std::uint32_t>(end - buffer), v.sequence(), trace::wire::kLastOfTask);
}

void thread_exits(Vcpu& v, int status) {
  order_call(v);  // before the kernel wakes who waits for the thread's end
  Process& p = process();
  {
    Lock hold(p.lock);
    Vcpu** link = &p.vcpus;
    while (*link != &v) link = &(*link)->next;
    *link = v.next;
  }
  end_task(v, status, p.vcpus == nullptr ? Reach::kProcess : Reach::kThread);
  send_note(MessageType::kThreadGone, v.host_tid);
  forget_current();
  munmap(&v, sizeof(Vcpu));
}

void process_exits(int status) {
  std::vector<Vcpu*> all;
  {
    Lock hold(process().lock);
    for (Vcpu* v = process().vcpus; v != nullptr; v = v->next) all.push_back(v);
  }
  for (Vcpu* v : all) end_task(*v, status, Reach::kProcess);
}

void end_other_threads(Vcpu& survivor) {
  std::vector<Vcpu*> others;
  {
    Lock hold(process().lock);
    for (Vcpu* v = process().vcpus; v != nullptr; v = v->next) {
      if (v != &survivor) others.push_back(v);
    }
  }
  for (Vcpu* v : others) {
    if (v->id.pid == v->id.tid) {
      flush(*v);  // the program that follows goes on in the first thread's stream
    } else {
      end_task(*v, 0, Reach::kThread);
    }
  }
}

void forget_parent() {
  Process& p = process();
  for (Vcpu* v = p.vcpus; v != nullptr;) {
    Vcpu* const next = v->next;
    munmap(v, sizeof(Vcpu));
    v = next;
  }
  p.vcpus = nullptr;
  if (p.fd >= 0) close(p.fd);
  p.fd = -1;
  p.host_pid = getpid();
  p.numbers.clear();
  p.threaded = false;
  p.completed_calls = 0;
  forget_current();
}

}  // namespace quire::recorder
