// The recording side that is not recorded: takes the messages of the recorded processes (protocol.h), numbers the tasks,
// and writes their chunks. Ends when the program and every process it left behind have gone.
//
// A process that is killed cannot say goodbye: what stood in its shared buffers is written then, and an exit record with
// the signal, as far as /proc tells it.
//
// One thread. Not the owner of the writer.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "quire/trace/protocol.h"
#include "quire/trace/writer.h"

namespace quire::trace {

class Collector {
 public:
  explicit Collector(TraceWriter& writer);
  ~Collector();
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  Outcome listen();
  // The name recorded processes connect to.
  [[nodiscard]] const std::string& socket_name() const { return socket_name_; }

  struct Ending {
    int wait_status = 0;  // of the program
    int stopped_by = 0;   // the stop signal, 0 = none
  };
  std::expected<Ending, std::string> run(pid_t program, const std::atomic<int>* stop_signal);

 private:
  struct LiveTask;
  struct Connection;
  struct Bearer {  // of a host number
    std::uint32_t number = 0;
    bool asked_itself = false, asked_parent = false, gone = false;
  };
  using Tasks = std::map<TaskId, std::unique_ptr<LiveTask>>;

  void accept_connection();
  enum class Received : std::uint8_t { kMessage, kNothing, kEnd };
  Received receive(Connection& c);
  void receive_all(Connection& c);
  void handle(Connection& c, const protocol::MessageHeader& header, int passed_fd);
  void hello(Connection& c, const protocol::MessageHeader& header);
  void add_task(Connection& c, const protocol::MessageHeader& header, int memfd);
  void add_chunk(Connection& c, const protocol::MessageHeader& header);
  void reply(Connection& c, std::uint32_t number);
  std::uint32_t number_of(std::uint32_t host, std::uint32_t asked_by);
  void close_connection(Connection& c);
  void bury(pid_t host, Tasks& tasks);
  [[nodiscard]] bool expects_more();
  void keep(Outcome outcome);
  void signal_everything(pid_t program, int signal);
  void enforce_stop(pid_t program, int signal);

  TraceWriter& writer_;
  std::string socket_name_;
  int listen_fd_ = -1;
  int epoll_fd_ = -1;
  std::map<int, std::unique_ptr<Connection>> connections_;
  std::map<pid_t, Tasks> parked_;  // of processes between two programs
  std::map<std::uint32_t, Bearer> bearers_;
  std::set<std::uint32_t> expected_;  // numbered by their parents, not heard of yet
  std::uint32_t next_number_ = 1;
  std::vector<std::uint8_t> message_;
  Outcome failure_{};
  int patience_ = 0;
};

}  // namespace quire::trace
