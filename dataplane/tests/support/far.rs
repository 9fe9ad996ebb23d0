//! The other side of a test in a process of its own, which may have few files: the same test, run again, sees by
//! [`upstream`] that it is the far side, says lines that begin with `@ `, and ends with its standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Tells the child what it is, and what to connect to.
const UPSTREAM: &str = "FRACAS_TEST_UPSTREAM";

/// Where to connect to, in the far process; `None` in the test's own.
pub fn upstream() -> Option<SocketAddr> {
    std::env::var(UPSTREAM).ok().map(|address| address.parse().unwrap())
}

/// The far process.
pub struct Far {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Far {
    /// Runs `test` again with so many open files; returns what it says first, too.
    pub fn start(test: &str, open_files: u64, upstream: SocketAddr) -> (Far, Vec<String>) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("ulimit -n {open_files} && exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(UPSTREAM, upstream.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut far = Far { child, said };
        let words = far.words();
        (far, words)
    }

    /// Says a line to it and returns the words that it answers.
    pub fn ask(&mut self, line: &str) -> Vec<String> {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        self.words()
    }

    /// The figures that it answers when asked to tell.
    pub fn told<const COUNT: usize>(&mut self) -> [u64; COUNT] {
        let words: Vec<u64> = self.ask("tell").iter().map(|word| word.parse().unwrap()).collect();
        words.try_into().unwrap()
    }

    /// Ends it, and checks that it was content.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// The next line that is meant for us.
    fn words(&mut self) -> Vec<String> {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the far process has ended");
            if let Some((_, words)) = line.split_once("@ ") {
                return words.split_whitespace().map(str::to_owned).collect();
            }
        }
    }
}

/// Asks until it is so.
pub fn wait_until<T: std::fmt::Debug>(mut tell: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    for _ in 0..3000 {
        let told = tell();
        if is_so(&told) {
            return told;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never comes: {:?}", tell());
}
