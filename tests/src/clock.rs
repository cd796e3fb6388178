//! A clock of the day that can be stepped, for one process: a library that is loaded before all others adds what stands
//! in a file. Clocks that only count are as they were, as with a real step.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// C, because the loader and `clock_gettime` are: the offset is one mapped 64-bit number of seconds.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;

__attribute__((constructor)) static void map_offset(void) {
  const char *path = getenv("STEPPED_CLOCK_OFFSET");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(0, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) offset = mapped;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (now) *now = exact.tv_sec;
  return exact.tv_sec;
}
"#;

/// A clock that shows the right time until it is stepped.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
    _folder: TempDir,
}

impl Clock {
    /// Builds it with the C compiler that the project needs anyway.
    pub fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("clock.c");
        let (library, offset) = (folder.path().join("clock.so"), folder.path().join("offset"));
        std::fs::write(&source, LIBRARY).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        assert!(compiler.status().unwrap().success());
        let clock = Self { library, offset, _folder: folder };
        clock.step(0);
        clock
    }

    /// What a process needs in its environment to go by it.
    pub fn environment(&self) -> [(&str, &Path); 2] {
        [("LD_PRELOAD", self.library.as_path()), ("STEPPED_CLOCK_OFFSET", self.offset.as_path())]
    }

    /// Shows so many seconds more, or less, than the right time.
    pub fn step(&self, seconds: i64) {
        // Written over, never replaced: it is mapped.
        let mut open = std::fs::OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(false).open(&self.offset).unwrap();
        std::io::Write::write_all(&mut file, &seconds.to_ne_bytes()).unwrap();
    }
}
