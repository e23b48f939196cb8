//! The processes of a container, as the host knows them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::counted::members;
use crate::failure::Failure;
use crate::profile::plain;
use crate::target;
use crate::values::cause;

/// So many processes are listed of one container at most.
const MOST: usize = 512;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Its name, without control characters.
    pub(super) name: String,
    /// `R`, `S`, `D`, …
    pub(super) state: char,
    /// Time on a CPU so far, ticks.
    pub(super) ticks: u64,
    pub(super) threads: u64,
    /// Pages in memory.
    pub(super) pages: u64,
}

/// What the host's ps(1) says, with `options`, of the processes of `container`.
///
/// Like docker: everything is listed, and lines whose PID is not the container's are dropped.
pub(super) fn list(container: &str, options: &[String]) -> Result<String, Failure> {
    let target = target::find(container)?;
    let members: BTreeSet<i32> = members(&target.directory, MOST).into_iter().collect();
    let options = if options.is_empty() { &["-ef".to_owned()] } else { options };
    let ps = Command::new("ps").args(options).output();
    let output = ps.map_err(|error| Failure::engine(format!("run ps: {}", cause(&error))))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.trim().lines().next().unwrap_or("no reason given").to_owned();
        return Err(Failure::engine(format!("ps {}: {why}", options.join(" "))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    of_members(&text, &members)
        .ok_or_else(|| Failure::engine(format!("ps {}: no column PID", options.join(" "))))
}

/// The heading, and the lines of `members`.
fn of_members(table: &str, members: &BTreeSet<i32>) -> Option<String> {
    let mut lines = table.lines();
    let heading = lines.next()?;
    let column = heading.split_whitespace().position(|word| word == "PID")?;
    let is_member = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| members.contains(&pid))
    };
    let shown = std::iter::once(heading).chain(lines.filter(is_member));
    Some(shown.map(|line| plain(line) + "\n").collect())
}

/// The processes in the cgroup `directory`, those with the most CPU time first.
pub(super) fn of_cgroup(directory: &Path) -> Vec<Process> {
    let mut found: Vec<Process> = members(directory, MOST).into_iter().take(MOST).filter_map(read).collect();
    found.sort_by_key(|process| (std::cmp::Reverse(process.ticks), process.pid));
    found
}

/// Asks procfs; none if it has ended. proc_pid_stat(5).
fn read(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// A name may contain anything, brackets included: what follows the last one is counted.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (begin, rest) = stat.rsplit_once(')')?;
    let name = plain(begin.split_once('(')?.1);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| words.get(index)?.parse::<u64>().ok();
    Some(Process {
        pid,
        name,
        state: words.first()?.chars().next()?,
        ticks: number(11)? + number(12)?,
        threads: number(17)?,
        pages: number(21).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_others_are_dropped() {
        let table = "UID          PID    PPID CMD\nroot           1       0 init 7\nroot           7       1 sh -c '\u{1b}'\n";
        let members = BTreeSet::from([7]);
        let expected = "UID          PID    PPID CMD\nroot           7       1 sh -c '\\u{1b}'\n";
        assert_eq!(of_members(table, &members).as_deref(), Some(expected));
        assert_eq!(of_members("USER CMD\nroot x\n", &members), None);
        assert_eq!(of_members("", &members), None);
    }

    #[test]
    fn a_name_may_contain_brackets() {
        let stat = "7 (a) R (b)) S 1 7 7 0 -1 4194560 100 0 0 0 25 17 0 0 20 0 3 0 100 1000 42 0";
        let process = parse(7, stat).expect("a process");
        assert_eq!((process.name.as_str(), process.state), ("a) R (b)", 'S'));
        assert_eq!((process.ticks, process.threads, process.pages), (42, 3, 42));
        assert_eq!(parse(7, "7 (x"), None);
    }
}
