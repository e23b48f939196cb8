//! How long the tasks of a container have waited for disks: the kernel counts it for each cgroup (`io.pressure`, Linux ≥ 4.20).

use std::cell::{Cell, OnceCell};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use skiff_runtime::cgroup::Layout;

/// One container's. Opened at the first look, since launches wait for nobody's files.
#[derive(Debug, Default)]
pub struct Waits {
    file: OnceCell<Option<File>>,
    last_us: Cell<Option<u64>>,
}

impl Waits {
    /// Looks how long it is by now, µs in which at least one task waited; `pidfd` is of a process in the cgroup. When the cgroup has
    /// gone, it stays what it was at the look before. `None` if nobody counts.
    pub fn look(&self, pidfd: BorrowedFd<'_>) -> Option<u64> {
        let file = self.file.get_or_init(|| open(pidfd)).as_ref()?;
        let mut text = [0; 256];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        if let Some(now) = std::str::from_utf8(&text[..length]).ok().and_then(some_us) {
            self.last_us.set(Some(now));
        }
        self.last_us.get()
    }
}

fn open(pidfd: BorrowedFd<'_>) -> Option<File> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid: u32 = about.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // That of everybody would say nothing.
    let path = Some(path).filter(|path| !path.is_empty())?;
    File::open(Layout::of_host().unified?.join(path).join("io.pressure")).ok()
}

/// The total of the line `some`.
fn some_us(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split(' ').find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_some_tasks_counts() {
        let text = "some avg10=0.00 avg60=0.10 avg300=0.00 total=1234\nfull avg10=0.00 total=7\n";
        assert_eq!(some_us(text), Some(1234));
        assert_eq!(some_us("full avg10=0.00 total=7\n"), None);
        assert_eq!(some_us(""), None);
    }
}
