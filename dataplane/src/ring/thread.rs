//! What the scheduler does to a thread, and what a thread asks of it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The shortest slice that may be asked for, in nanoseconds (`clamp_t` in kernel/sched/syscalls.c).
const SLICE_NS: u64 = 100_000;

/// Asks that the calling thread need not wait, when it wakes, until the time slice of a thread with longer ones has ended:
/// what it has to do is short, and somebody waits for it. It takes no more of the processor for that, and no right is needed
/// (`sched_runtime` of sched_setattr(2) for `SCHED_OTHER` and `SCHED_BATCH`, Linux 6.12). Returns whether the kernel does so.
pub fn ask_for_short_slices() -> bool {
    let Some(attributes) = scheduling() else { return false };
    if !matches!(attributes.sched_policy as i32, libc::SCHED_OTHER | libc::SCHED_BATCH) {
        // Whoever chose another policy knows better.
        return false;
    }
    let asked = libc::sched_attr { sched_runtime: SLICE_NS, ..attributes };
    // SAFETY: the attributes are valid for the length of the call, and say their own size.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const asked, 0) };
    scheduling().is_some_and(|attributes| attributes.sched_runtime == SLICE_NS)
}

/// How the calling thread is scheduled now.
fn scheduling() -> Option<libc::sched_attr> {
    // SAFETY: all-zero attributes are valid, and are valid for the length of the call with the size that is said.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        let size = size_of::<libc::sched_attr>();
        let result = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0);
        (result == 0).then_some(attributes)
    }
}

/// CPU time that the calling thread has used, user and system, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the length of the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every thread has a CPU clock on Linux");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// The CPU time of a thread, for other threads to read while it works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(Option<libc::clockid_t>);

impl CpuClock {
    /// That of the calling thread.
    pub(crate) fn of_this_thread() -> CpuClock {
        let mut clock: libc::clockid_t = 0;
        // SAFETY: the calling thread lives, and `clock` is valid for the length of the call.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        CpuClock((result == 0).then_some(clock))
    }

    /// CPU time used so far, user and system, in nanoseconds; 0 once the thread has ended.
    pub(crate) fn read_ns(self) -> u64 {
        let Some(clock) = self.0 else { return 0 };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec for the length of the call; the clock of a thread that has ended is
        // refused (clock_gettime(2), EINVAL).
        match unsafe { libc::clock_gettime(clock, &raw mut time) } {
            0 => time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs(),
            _ => 0,
        }
    }
}

/// What the scheduler has done to a thread since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadRuns {
    /// It could run and had no core, in nanoseconds.
    pub run_delay_ns: u64,
    /// How often it was given a core.
    pub runs: u64,
    /// How often a core was taken from it (`ru_nivcsw` of getrusage(2)).
    pub preemptions: u64,
}

/// Reads [`ThreadRuns`] of one thread: the one that opened it. Takes one descriptor.
#[derive(Debug)]
pub struct ThreadClock(Option<File>);

impl ThreadClock {
    /// Of the calling thread. A kernel without `CONFIG_SCHED_INFO` says nothing of its runs; they stay 0.
    pub fn open() -> ThreadClock {
        ThreadClock(File::open("/proc/thread-self/schedstat").ok())
    }

    /// Reads; allocates nothing. To be called by the thread that opened it.
    pub fn read(&self) -> ThreadRuns {
        let mut text = [0; 128];
        let bytes = self.0.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or_default();
        let (run_delay_ns, runs) = schedstat(&text[..bytes]).unwrap_or_default();
        // SAFETY: an all-zero rusage is a valid one, and it is valid for the length of the call.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage
        };
        ThreadRuns { run_delay_ns, runs, preemptions: u64::try_from(usage.ru_nivcsw).unwrap_or_default() }
    }
}

/// `RUNNING WAITING TIMES`: the second and third number of `/proc/PID/schedstat` (proc(5),
/// Documentation/scheduler/sched-stats.rst).
fn schedstat(text: &[u8]) -> Option<(u64, u64)> {
    let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().skip(1);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_slices_leave_all_else_as_it_was() {
        std::thread::spawn(|| {
            let before = scheduling().expect("sched_getattr is as old as Linux 3.14");
            let is_short = ask_for_short_slices();
            let after = scheduling().expect("it still is");
            assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
            assert_eq!(after.sched_runtime == SLICE_NS, is_short);
        })
        .join()
        .expect("the thread does not panic");
    }

    #[test]
    fn the_scheduler_says_how_long_a_thread_waited_for_a_core() {
        assert_eq!(schedstat(b"123456 7890 12\n"), Some((7890, 12)));
        for damaged in [&b""[..], b"1 2", b"1 x 3", b"\xff 1 2"] {
            assert_eq!(schedstat(damaged), None);
        }
        let clock = ThreadClock::open();
        let before = clock.read();
        std::thread::yield_now();
        let after = clock.read();
        assert!(after.runs >= before.runs && after.run_delay_ns >= before.run_delay_ns);
    }
}
