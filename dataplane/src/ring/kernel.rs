//! What fracas asks of the kernel, how it is found out, and what to say when it is missing.
//!
//! Features are found by trying them, never by a version: distributions patch, sandboxes forbid.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, types};

use super::buffer_ring::{BufferRing, set_credit};
use super::buffers::Pool;
use super::thread::ask_for_short_slices;

/// What this kernel can do for us, as tried once at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Completions run inside our own enter (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1).
    pub defer_taskrun: bool,
    /// One load less per submission (`IORING_SETUP_NO_SQARRAY`, Linux 6.6).
    pub no_sqarray: bool,
    /// A multishot receive ends by itself after so many bytes (`optlen`, Linux 6.17).
    pub receive_credit: bool,
    /// The wait takes an absolute deadline (`IORING_ENTER_ABS_TIMER`, Linux 6.12).
    pub absolute_deadline: bool,
    /// The ring is entered by its registered index (`IORING_REGISTER_RING_FDS`, Linux 5.18).
    pub registered_ring: bool,
}

/// Why no ring can be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system call is not there.
    #[error(
        "io_uring is not there (ENOSYS): the kernel is older than 5.1 or a sandbox hides it; run on Linux 6.1 or newer, outside gVisor or podman's default profile"
    )]
    Absent,
    /// An administrator has switched it off.
    #[error(
        "io_uring is switched off: kernel.io_uring_disabled is {value}; `sysctl kernel.io_uring_disabled=0` allows it"
    )]
    SwitchedOff {
        /// The value of the sysctl found.
        value: String,
    },
    /// A seccomp filter refuses it, as container runtimes do by default.
    #[error(
        "a seccomp filter refuses io_uring (EPERM, seccomp mode {mode}): run the container with a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Seccomp {
        /// The mode in `/proc/self/status`.
        mode: String,
    },
    /// The kernel lacks something that there is no way around.
    #[error("the kernel lacks {feature}; Linux {since} or newer is needed")]
    Feature {
        /// What is missing.
        feature: &'static str,
        /// Where it came in.
        since: &'static str,
    },
    /// Too little memory may be used.
    #[error("no memory for a ring (ENOMEM): raise the memory limit of the cgroup, or `ulimit -l`")]
    Memory,
    /// Anything else.
    #[error("cannot set up io_uring: {0}; `fracas doctor` shows what this machine allows")]
    Other(#[source] io::Error),
}

impl RingError {
    /// Finds the cause of a failed set-up from what the machine says about itself.
    pub(crate) fn from_setup(error: io::Error) -> RingError {
        let sysctl = read_trimmed("/proc/sys/kernel/io_uring_disabled");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        cause(error, sysctl.as_deref(), seccomp_mode(&status))
    }
}

fn cause(error: io::Error, sysctl: Option<&str>, seccomp: Option<&str>) -> RingError {
    match (error.raw_os_error(), sysctl, seccomp) {
        (Some(libc::ENOSYS), ..) => RingError::Absent,
        (Some(libc::ENOMEM), ..) => RingError::Memory,
        (Some(libc::EPERM), Some(value), _) if value != "0" => RingError::SwitchedOff { value: value.into() },
        (Some(libc::EPERM), _, Some(mode)) if mode != "0" => RingError::Seccomp { mode: mode.into() },
        _ => RingError::Other(error),
    }
}

fn seccomp_mode(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim)
}

fn read_trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Builds a ring with the best flags the kernel takes of those asked for; says which it took.
pub(crate) fn build(
    sq_entries: u32,
    cq_entries: u32,
    defer_taskrun: bool,
    no_sqarray: bool,
) -> io::Result<(IoUring, bool, bool)> {
    let attempt = |defer: bool, no_sqarray: bool| {
        let mut builder = IoUring::builder();
        builder.setup_submit_all().setup_cqsize(cq_entries).setup_clamp();
        if defer {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(sq_entries)
    };
    let mut last = None;
    for (defer, no_sqarray) in [(defer_taskrun, no_sqarray), (defer_taskrun, false), (false, false)] {
        match attempt(defer, no_sqarray) {
            Ok(ring) => return Ok((ring, defer, no_sqarray)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("the loop ran"))
}

impl Features {
    /// Tries everything on a ring of its own.
    ///
    /// # Errors
    /// When no ring can be made, or it lacks what there is no way around.
    pub fn probe() -> Result<Features, RingError> {
        // On a thread of its own, whose end frees its place in the thread's table of rings. The kernel
        // interrupts the thread of a ring that it tears down, and a caller's next read would say EINTR.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("fracas-probe".into());
            let probe = thread.spawn_scoped(scope, Features::probe_here).map_err(RingError::Other)?;
            probe.join().expect("the probe does not panic")
        })
    }

    fn probe_here() -> Result<Features, RingError> {
        let (mut ring, defer_taskrun, no_sqarray) =
            build(8, 64, true, true).map_err(RingError::from_setup)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(RingError::Other)?;
        for (code, feature) in [
            (opcode::Accept::CODE, "the accept operation"),
            (opcode::Recv::CODE, "the receive operation"),
            (opcode::SendMsg::CODE, "the sendmsg operation"),
            (opcode::Connect::CODE, "the connect operation"),
            (opcode::AsyncCancel::CODE, "the cancel operation"),
        ] {
            if !probe.is_supported(code) {
                return Err(RingError::Feature { feature, since: "6.1" });
            }
        }
        if !ring.params().is_feature_ext_arg() {
            return Err(RingError::Feature { feature: "a wait with a deadline (EXT_ARG)", since: "5.11" });
        }
        let receive_credit = try_multishot_receive(&mut ring)?;
        let absolute_deadline = try_absolute_deadline(&ring);
        let registered_ring = ring.submitter().register_ring_fd().is_ok();
        Ok(Features { defer_taskrun, no_sqarray, receive_credit, absolute_deadline, registered_ring })
    }
}

/// One line for logs, hellos and reports.
impl std::fmt::Display for Features {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (self.defer_taskrun, "defer-taskrun"),
            (self.no_sqarray, "no-sqarray"),
            (self.receive_credit, "receive-credit"),
            (self.absolute_deadline, "absolute-deadline"),
            (self.registered_ring, "registered-ring"),
        ];
        formatter.write_str("multishot, buffer-rings")?;
        names.iter().try_for_each(|(has, name)| if *has { write!(formatter, ", {name}") } else { Ok(()) })
    }
}

/// Receives 12 of 16 waiting bytes by an 8-byte credit and 4-byte buffers, if the kernel counts credit.
fn try_multishot_receive(ring: &mut IoUring) -> Result<bool, RingError> {
    const MULTISHOT: RingError = RingError::Feature { feature: "multishot receive", since: "6.0" };
    let (ours, mut theirs) = UnixStream::pair().map_err(RingError::Other)?;
    theirs.write_all(&[7; 16]).map_err(RingError::Other)?;
    let pool = Pool::new(8, 4);
    let mut buffers = BufferRing::register(&ring.submitter(), pool, 0, 8)
        .map_err(|_| RingError::Feature { feature: "buffer rings", since: "5.19" })?;
    buffers.publish();
    let mut outcome = Err(MULTISHOT);
    for credit in [8, 0] {
        let mut entry = opcode::RecvMulti::new(types::Fd(ours.as_raw_fd()), 0).build().user_data(1);
        set_credit(&mut entry, credit);
        // SAFETY: the descriptor and the buffers live until the completions below have come.
        unsafe { ring.submission().push(&entry) }.expect("the queue is empty");
        ring.submit_and_wait(1).map_err(RingError::Other)?;
        let mut bytes = 0;
        let mut armed = true;
        while let Some(cqe) = ring.completion().next() {
            if cqe.result() == -libc::EINVAL {
                armed = false;
                break;
            }
            bytes += cqe.result().max(0);
            armed = cqueue::more(cqe.flags());
        }
        match (credit, bytes, armed) {
            // It stopped by itself before the end: credit is counted.
            (8, 8..16, false) => return Ok(true),
            (_, 1.., _) => outcome = Ok(false),
            _ => continue,
        }
        break;
    }
    // End a receive that is still armed, so that nothing points at the buffers when they go.
    drop(theirs);
    drop(ours);
    let _ = ring.submitter().register_sync_cancel(None, types::CancelBuilder::any());
    let _ = ring.submitter().unregister_buf_ring(0);
    outcome
}

/// An absolute deadline in the past comes back at once with ETIME; a kernel without it says EINVAL.
fn try_absolute_deadline(ring: &IoUring) -> bool {
    let past = types::Timespec::new().sec(1);
    let arguments = types::SubmitArgs::new().timespec(&past);
    let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | EnterFlags::ABS_TIMER;
    // SAFETY: the arguments live across the call and are of the type that EXT_ARG says.
    let result = unsafe { ring.submitter().enter(0, 1, flags.bits(), Some(&arguments)) };
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::ETIME))
}

/// Raises the soft limit on open files to the hard one; returns the limit now in force.
///
/// # Errors
/// Those of getrlimit(2) and setrlimit(2).
pub fn raise_open_files_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the length of the calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Descriptors that this process has open now, counted in `/proc/self/fd`; the one that counts is not counted.
pub fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64)
}

/// One line of `fracas doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// Whether it is as fracas wants it.
    pub health: Health,
    /// What it means, or what to do about it.
    pub advice: &'static str,
}

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As wanted.
    Good,
    /// fracas works, with a limit that the advice names.
    Limited,
    /// fracas does not work.
    Missing,
}

/// Looks at everything about this machine that decides what fracas can do on it.
pub fn examine() -> Vec<Finding> {
    let setting = |path: &str| read_trimmed(path).unwrap_or_else(|| "unknown".into());
    let mut findings = vec![finding(
        "kernel",
        setting("/proc/sys/kernel/osrelease"),
        Health::Good,
        "6.1 or newer is needed, 6.17 gives credit-based back-pressure",
    )];
    match Features::probe() {
        Ok(features) => {
            findings.push(finding(
                "io_uring",
                "usable".into(),
                Health::Good,
                "multishot receive and buffer rings work",
            ));
            for (what, has, advice) in [
                (
                    "  DEFER_TASKRUN",
                    features.defer_taskrun,
                    "Linux 6.1: completions run in batches inside our own call; without it COOP_TASKRUN is used",
                ),
                ("  NO_SQARRAY", features.no_sqarray, "Linux 6.6: one load less per submission"),
                (
                    "  receive credit",
                    features.receive_credit,
                    "Linux 6.17: back-pressure without a cancel; without it receives are cancelled at the high-water mark",
                ),
                (
                    "  absolute deadline",
                    features.absolute_deadline,
                    "Linux 6.12: deadlines without reading the clock first",
                ),
                ("  registered ring", features.registered_ring, "Linux 5.18: one look-up less per call"),
            ] {
                let (found, health) = if has { ("yes", Health::Good) } else { ("no", Health::Limited) };
                findings.push(finding(what, found.into(), health, advice));
            }
        }
        Err(error) => {
            findings.push(finding("io_uring", error.to_string(), Health::Missing, "fracas cannot run here"))
        }
    }
    // On a thread of its own: the caller's slices are its own affair.
    let short = std::thread::spawn(ask_for_short_slices).join().unwrap_or(false);
    let (found, health) = if short { ("yes", Health::Good) } else { ("no", Health::Limited) };
    findings.push(finding(
        "short time slices",
        found.into(),
        health,
        "Linux 6.12: a data thread that wakes does not wait for the slice of another to end",
    ));
    let disabled = setting("/proc/sys/kernel/io_uring_disabled");
    let health = if disabled == "0" { Health::Good } else { Health::Limited };
    findings.push(finding(
        "kernel.io_uring_disabled",
        disabled,
        health,
        "0 lets everybody use io_uring, 1 the group in kernel.io_uring_group, 2 nobody",
    ));
    let files = raise_open_files_limit().unwrap_or(0);
    let health = if files >= 65_536 { Health::Good } else { Health::Limited };
    findings.push(finding("open files", files.to_string(), health, "a proxied connection takes 2, a load connection 1; raise the hard limit with `ulimit -Hn` or LimitNOFILE="));
    let ports = setting("/proc/sys/net/ipv4/ip_local_port_range").replace('\t', "–");
    findings.push(finding(
        "local ports",
        ports,
        Health::Good,
        "connections per source address and target; give more source addresses for more",
    ));
    findings.push(finding(
        "net.core.somaxconn",
        setting("/proc/sys/net/core/somaxconn"),
        Health::Good,
        "connects beyond the backlog wait a second for their SYN to be sent again; loads pace their connects",
    ));
    let congestion = setting("/proc/sys/net/ipv4/tcp_congestion_control");
    let health = if congestion == "bbr" { Health::Limited } else { Health::Good };
    findings.push(finding(
        "congestion control",
        congestion,
        health,
        "bbr paces sends by timers, on loopback too; compare peers under the same one, such as cubic",
    ));
    let clock = setting("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let health = if matches!(clock.as_str(), "tsc" | "kvm-clock" | "arch_sys_counter") {
        Health::Good
    } else {
        Health::Limited
    };
    findings.push(finding(
        "clock source",
        clock,
        health,
        "tsc, kvm-clock or arch_sys_counter are read without a system call",
    ));
    findings
}

fn finding(what: &'static str, found: String, health: Health, advice: &'static str) -> Finding {
    Finding { what, found, health, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_named_from_facts_not_guessed() {
        let eperm = || io::Error::from_raw_os_error(libc::EPERM);
        let text = |error: RingError| error.to_string();
        assert!(text(cause(eperm(), Some("2"), Some("2"))).contains("kernel.io_uring_disabled is 2"));
        assert!(text(cause(eperm(), Some("0"), Some("2"))).contains("seccomp mode 2"));
        assert!(text(cause(eperm(), None, Some("0"))).contains("fracas doctor"));
        assert!(text(cause(io::Error::from_raw_os_error(libc::ENOSYS), Some("0"), None)).contains("ENOSYS"));
        assert!(text(cause(io::Error::from_raw_os_error(libc::ENOMEM), None, None)).contains("ENOMEM"));
    }

    #[test]
    fn the_seccomp_mode_is_read_from_the_status_file() {
        assert_eq!(seccomp_mode("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"), Some("2"));
        assert_eq!(seccomp_mode("Name:\tx\n"), None);
    }

    #[test]
    fn this_machine_has_what_is_needed() {
        let features = Features::probe().expect("tests need io_uring");
        assert!(examine().iter().all(|finding| finding.health != Health::Missing), "{features}");
    }
}
