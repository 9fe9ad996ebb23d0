//! Processes under measurement: where they run, what they cost, and that none is left behind.

use std::fs;
use std::io;
use std::io::{Read, Seek};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fracas_dataplane::clock::Instant;

/// The core of whatever is measured as a proxy or as a server.
pub const SUBJECT_CORE: usize = 0;
/// The core of the driver, of the echo server and of load generators.
pub const DRIVER_CORE: usize = 1;

/// Keeps the calling thread, and the processes it starts, on one core.
///
/// # Errors
/// The machine has no such core, or a cpuset forbids it.
pub fn pin_this_thread(core: usize) -> io::Result<()> {
    pin_this_thread_to(&[core])
}

#[expect(unsafe_code, reason = "sched_setaffinity(2) has no safe wrapper in std")]
fn pin_this_thread_to(cores: &[usize]) -> io::Result<()> {
    // SAFETY: `set` is a plain bit set, valid as zeros; CPU_SET writes within it (it checks nothing, so the
    // assert does), and the call only reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores {
            assert!(core < libc::CPU_SETSIZE as usize, "a core number fits the set");
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process into its own network namespace with loopback up, so that no port is taken and the machine's
/// settings stay as they are.
///
/// # Errors
/// It takes root; without it the machine's own loopback is used.
pub fn enter_private_network() -> io::Result<()> {
    unshare_network()?;
    bring_up_loopback()
}

/// Makes the first of `names` that the kernel allows the default congestion control of this network namespace, for every
/// peer alike; returns it. Outside the first namespace the kernel allows only what `tcp_allowed_congestion_control` lists.
///
/// # Errors
/// None is allowed; the default is left as it is.
pub fn choose_congestion_control(names: &[&'static str]) -> io::Result<&'static str> {
    let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
    for name in names {
        match fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name) {
            Ok(()) => return Ok(name),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[expect(unsafe_code, reason = "unshare(2) has no safe wrapper in std")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointer; it is called before any thread or socket exists.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "SIOCSIFFLAGS has no safe wrapper in std")]
fn bring_up_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a zeroed ifreq is valid, the name is shorter than its field and zero-ended, and the ioctl reads the
    // name and the flags only.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &request)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A server process on a core of its own; it dies with this value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// What it prints, if that is kept.
    stdout: Option<fs::File>,
}

/// How long a server may take to end after SIGTERM before it is killed.
const END_WITHIN: Duration = Duration::from_secs(15);

impl Server {
    /// Starts `command` on `core`, its output thrown away.
    pub fn start(command: &mut Command, core: usize) -> io::Result<Server> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = on_cores(&[core], || command.spawn())?;
        Ok(Server { child, stdout: None })
    }

    /// Starts `command` on `cores` and keeps what it prints for [`Server::terminate`].
    pub fn start_told(command: &mut Command, cores: &[usize]) -> io::Result<Server> {
        let stdout = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(Stdio::null());
        let child = on_cores(cores, || command.spawn())?;
        Ok(Server { child, stdout: Some(stdout) })
    }

    /// Sends SIGTERM, waits for the end, and returns what was printed; after 15 seconds it is killed.
    pub fn terminate(mut self) -> String {
        signal(self.child.id(), libc::SIGTERM);
        let gives_up_at = Instant::now() + END_WITHIN;
        while self.is_alive() && Instant::now() < gives_up_at {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.stdout.take().map(read_from_start).unwrap_or_default()
    }

    /// Resident memory in bytes, files included (`VmRSS` of proc_pid_status(5)).
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        parse_bytes(&status, "VmRSS:").unwrap_or(0)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Processor time so far of the process, its threads and its children.
    pub fn cpu_time(&self) -> Duration {
        let nanos = family(self.child.id())
            .into_iter()
            .flat_map(tasks)
            .filter_map(|task| read_run_time_ns(&task))
            .sum();
        Duration::from_nanos(nanos)
    }

    /// Resident anonymous memory in bytes of the process and its children: heap and stacks, no files.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = |pid| fs::read_to_string(format!("/proc/{pid}/status")).ok();
        family(self.child.id())
            .into_iter()
            .filter_map(status)
            .filter_map(|status| parse_anonymous_bytes(&status))
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that has been waited for has no family, and its number may be another's.
        if self.is_alive() {
            for pid in family(self.child.id()).into_iter().rev() {
                signal(pid, libc::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// A process that ran to its end, and the processor time it took.
pub struct Finished {
    /// What it printed.
    pub stdout: String,
    /// User and system time of it and of the children it waited for.
    pub cpu_time: Duration,
}

/// Runs `command` on `core` to its end.
///
/// # Errors
/// It cannot start, or ends with an error; the message has its last line of output.
pub fn run_to_end(command: &mut Command, core: usize) -> anyhow::Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = on_cores(&[core], || command.spawn())?;
    let mut stdout = String::new();
    child.stdout.take().expect("stdout is piped").read_to_string(&mut stdout)?;
    let (status, cpu_time) = wait(child)?;
    let last_line = stdout.lines().last().unwrap_or_default();
    let has_exited_well = libc::WIFEXITED(status) && matches!(libc::WEXITSTATUS(status), 0 | 99 | 111);
    anyhow::ensure!(has_exited_well, "{:?} failed: {last_line}", command.get_program());
    Ok(Finished { stdout, cpu_time })
}

/// A process that runs to its end while something else is done to it; it dies with this value.
#[derive(Debug)]
pub struct Ongoing {
    child: Child,
    stdout: fs::File,
    stderr: fs::File,
}

impl Ongoing {
    /// Starts `command` on `cores`.
    pub fn start(command: &mut Command, cores: &[usize]) -> io::Result<Ongoing> {
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let child = on_cores(cores, || command.spawn())?;
        Ok(Ongoing { child, stdout, stderr })
    }

    /// Stops it for `time` (SIGSTOP, SIGCONT); returns how long it was stopped for sure and at most.
    pub fn stop_for(&self, time: Duration) -> (Duration, Duration) {
        let asked_at = Instant::now();
        signal(self.child.id(), libc::SIGSTOP);
        let stopped_at = Instant::now();
        std::thread::sleep(time);
        let continued_at = Instant::now();
        signal(self.child.id(), libc::SIGCONT);
        (continued_at - stopped_at, Instant::now() - asked_at)
    }

    /// Waits for its end and returns what it printed to standard output.
    ///
    /// # Errors
    /// It takes longer than `within`, or printed nothing; the message has its last line of errors.
    pub fn finish(mut self, within: Duration) -> anyhow::Result<String> {
        let gives_up_at = Instant::now() + within;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < gives_up_at, "it did not end within {within:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let stdout = read_from_start(self.stdout.try_clone()?);
        if stdout.trim().is_empty() {
            let said = read_from_start(self.stderr.try_clone()?);
            anyhow::bail!("it printed nothing: {}", said.lines().last().unwrap_or("not even an error"));
        }
        Ok(stdout)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_from_start(mut file: fs::File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The first line that `program` prints about its version, or why it cannot be asked.
pub fn version_line(program: &str, argument: &str) -> Result<String, String> {
    let Output { stdout, stderr, .. } = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let text = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown version").trim().to_owned())
}

fn on_cores<T>(cores: &[usize], start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    pin_this_thread_to(cores)?;
    let started = start();
    pin_this_thread(DRIVER_CORE)?;
    started
}

#[expect(unsafe_code, reason = "wait4(2) is the one call that tells a child's own processor time")]
fn wait(child: Child) -> io::Result<(i32, Duration)> {
    // SAFETY: `status` and `usage` are plain numbers, valid as zeros, and outlive the call; the child is ours and
    // was not waited for, and `Child` reaps nothing when dropped.
    let (waited, status, usage) = unsafe {
        let mut status = 0;
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(child.id() as libc::pid_t, &mut status, 0, &mut usage), status, usage)
    };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok((status, time(usage.ru_utime) + time(usage.ru_stime)))
}

#[expect(unsafe_code, reason = "kill(2) for other signals than SIGKILL, and for a server's children")]
fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: takes no pointer; the number is of a process that we started and have not waited for, or of its
    // living child.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The process and its descendants, parents first.
fn family(root: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) =
            fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parse_parent)
        {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(parents.iter().filter(|pair| pair.1 == parent).map(|pair| pair.0));
        next += 1;
    }
    family
}

fn tasks(pid: u32) -> Vec<std::path::PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().map(|task| task.path().join("schedstat")).collect()
}

fn read_run_time_ns(schedstat: &std::path::Path) -> Option<u64> {
    fs::read_to_string(schedstat).ok()?.split_whitespace().next()?.parse().ok()
}

/// Field 4 of `/proc/PID/stat`; the second one, the name, may hold spaces and brackets (proc_pid_stat(5)).
fn parse_parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn parse_anonymous_bytes(status: &str) -> Option<u64> {
    parse_bytes(status, "RssAnon:")
}

fn parse_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_a_name_with_brackets() {
        assert_eq!(parse_parent("77 (a) b) S 42 77 77 0"), Some(42));
        assert_eq!(parse_parent("77"), None);
    }

    #[test]
    fn anonymous_memory_is_read_in_bytes() {
        assert_eq!(parse_anonymous_bytes("VmRSS:\t 9 kB\nRssAnon:\t     120 kB\n"), Some(122_880));
        assert_eq!(parse_anonymous_bytes("Name: x"), None);
    }

    #[test]
    fn a_server_tells_what_it_printed_and_an_ongoing_process_can_be_stopped() {
        let script = "trap 'echo bye; exit' TERM; echo hello; while :; do sleep 0.01; done";
        let server = Server::start_told(Command::new("sh").args(["-c", script]), &[DRIVER_CORE]).unwrap();
        while read_from_start(server.stdout.as_ref().unwrap().try_clone().unwrap()).is_empty() {}
        assert!(server.descriptors() > 0 && server.resident_bytes() > 0);
        assert_eq!(server.terminate(), "hello\nbye\n");

        let mut command = Command::new("sh");
        let ongoing = Ongoing::start(command.args(["-c", "echo done"]), &[DRIVER_CORE]).unwrap();
        let (least, most) = ongoing.stop_for(Duration::from_millis(1));
        assert!(Duration::from_millis(1) <= least && least <= most);
        assert_eq!(ongoing.finish(Duration::from_secs(60)).unwrap(), "done\n");
        let mut command = Command::new("sh");
        let ongoing = Ongoing::start(command.args(["-c", "echo why >&2"]), &[DRIVER_CORE]).unwrap();
        assert!(ongoing.finish(Duration::from_secs(60)).unwrap_err().to_string().contains("why"));
    }

    #[test]
    fn the_family_holds_a_child_and_the_child_has_run() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(family(std::process::id()).contains(&child.id()));
        let run_time_ns: u64 = tasks(child.id()).iter().filter_map(|task| read_run_time_ns(task)).sum();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(run_time_ns > 0);
    }
}
