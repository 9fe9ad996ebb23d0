//! Who this process is and what its machine offers.

use std::collections::BTreeMap;
use std::fs;

use fracas_dataplane::ring::Features;

use crate::node_registry::NodeIdentity;

/// Names the process `name`; an empty one takes the host's name.
pub fn identity(name: &str, labels: BTreeMap<String, String>) -> NodeIdentity {
    let name = if name.is_empty() { read("/proc/sys/kernel/hostname") } else { name.to_owned() };
    NodeIdentity {
        name,
        uid: read("/proc/sys/kernel/random/uuid"),
        boot_id: boot_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        nofile_limit: open_files_limit(),
        kernel: read("/proc/sys/kernel/osrelease"),
        io_uring: io_uring(),
        labels,
    }
}

/// The machine's boot id; empty where it is hidden.
pub fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

/// How many files this process may have open (RLIMIT_NOFILE).
pub fn open_files_limit() -> u64 {
    nofile_limit(&read("/proc/self/limits"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

/// The soft limit in `/proc/PID/limits`; 0 when it is not there (proc_pid_limits(5)).
fn nofile_limit(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft {
        Some("unlimited") => u64::MAX,
        Some(number) => number.parse().unwrap_or(0),
        None => 0,
    }
}

fn io_uring() -> String {
    match Features::probe() {
        Ok(features) => format!("{features}"),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             1000                 2000                 processes \n\
                      Max open files            20000                40000                files     \n";
        assert_eq!(nofile_limit(limits), 20_000);
        assert_eq!(nofile_limit("Max open files            unlimited unlimited files"), u64::MAX);
        assert_eq!(nofile_limit(""), 0);
    }

    #[test]
    fn a_process_knows_itself() {
        let identity = identity("n", BTreeMap::new());
        assert_eq!(identity.name, "n");
        assert!(!identity.uid.is_empty() && identity.cores > 0 && !identity.kernel.is_empty());
    }
}
