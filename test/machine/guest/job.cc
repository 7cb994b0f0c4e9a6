// SPDX-License-Identifier: Apache-2.0
#include "job.h"

#include "channel.h"
#include "setup.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace machine {
namespace {

constexpr int64_t second = 1'000'000'000;
constexpr int64_t grace = 10 * second;  // for a killed process to disappear

int64_t now() {
  timespec ts = {};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * second + ts.tv_nsec;
}

[[noreturn]] void exec_job(const Job& job, int out, int err) {
  setsid();
  int in = open(job.terminal.empty() ? "/dev/null" : job.terminal.c_str(), O_RDWR);
  if (!job.terminal.empty()) {
    ioctl(in, TIOCSCTTY, 1);
    out = err = in;
  }
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  if (in > 2) close(in);
  if (chdir(job.directory.c_str()) != 0) chdir("/");
  std::vector<char*> argv;
  for (const std::string& word : job.argv) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execvp(argv[0], argv.data());
  int error = errno;
  dprintf(2, "%s: %s\n", argv[0], strerror(error));
  _exit(error == ENOENT ? 127 : 126);
}

// Passes on up to a pipe full; false at the end of the file.
bool pass_on(int fd, char letter) {
  static char buffer[65536];
  ssize_t length = read(fd, buffer, sizeof(buffer));
  if (length > 0) channel_send(letter, {buffer, static_cast<size_t>(length)});
  return length > 0 || (length < 0 && errno == EAGAIN);
}

class Run {
 public:
  explicit Run(const Job& job) : job_(job) {}
  void start();
  void watch();
  void finish();

 private:
  bool reap();
  void poll_output(int milliseconds);

  const Job& job_;
  pid_t child_ = -1;
  int output_[2] = {-1, -1};  // out, err
  int64_t started_ = 0;
  int64_t ended_ = 0;
  int status_ = 0;
  bool over_ = false;  // the child was reaped; status_ and ended_ are valid
  bool timed_out_ = false;
};

void Run::start() {
  channel_send('j', job_.index);
  kernel_log("job " + job_.index + " starts");
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) channel_fail("pipe", errno);
  started_ = now();
  child_ = fork();
  if (child_ < 0) channel_fail("fork", errno);
  if (child_ == 0) exec_job(job_, out[1], err[1]);
  close(out[1]);
  close(err[1]);
  fcntl(out[0], F_SETFL, O_NONBLOCK);
  fcntl(err[0], F_SETFL, O_NONBLOCK);
  output_[0] = out[0];
  output_[1] = err[0];
}

// Reaps the child and whatever was orphaned to PID 1; false when no process is left.
bool Run::reap() {
  int status = 0;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != child_) continue;
    over_ = true;
    status_ = status;
    ended_ = now();
  }
  return pid == 0;
}

void Run::poll_output(int milliseconds) {
  pollfd files[2] = {{output_[0], POLLIN, 0}, {output_[1], POLLIN, 0}};
  timespec timeout = {milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  sigset_t none;
  sigemptyset(&none);
  if (ppoll(files, 2, &timeout, &none) <= 0)  // SIGCHLD is blocked but for here
    return;
  for (int i = 0; i < 2; i++)
    if (files[i].revents && !pass_on(output_[i], i == 0 ? 'o' : 'e')) {
      close(output_[i]);
      output_[i] = -1;  // poll() skips it
    }
}

// Until the child is gone or its time is up.
void Run::watch() {
  int64_t beat = started_;
  while (!over_) {
    poll_output(1000);  // SIGCHLD ends the wait
    reap();
    int64_t time = now();
    if (time - beat >= second) {
      channel_send('h');
      beat = time;
    }
    if (!over_ && job_.seconds > 0 && time - started_ >= job_.seconds * second) {
      timed_out_ = true;
      break;
    }
  }
}

// Kills what is left, passes on the rest of the output and reports the end.
void Run::finish() {
  int64_t limit = now() + grace;
  bool gone = false;
  while (!gone && now() < limit) {
    kill(-1, SIGKILL);
    gone = !reap();
    poll_output(gone ? 0 : 10);
  }
  for (int i = 0; i < 2; i++)
    if (output_[i] >= 0) {
      pass_on(output_[i], i == 0 ? 'o' : 'e');
      close(output_[i]);
    }
  const char* kind = "exit";
  int number = 0;
  if (!gone)
    kind = "stuck";
  else if (timed_out_)
    kind = "timeout";
  else if (WIFSIGNALED(status_))
    kind = "signal", number = WTERMSIG(status_);
  else
    number = WEXITSTATUS(status_);
  kernel_log("job " + job_.index + " ends");
  if (!over_) ended_ = now();
  channel_send('d', job_.index + " " + kind + " " + std::to_string(number) + " " +
                        std::to_string(ended_ - started_));
}

}  // namespace

void job_run(const Job& job) {
  report_modules();
  Run run(job);
  run.start();
  run.watch();
  run.finish();
}

}  // namespace machine
