//! What containers may leave behind on the host, and where to look for it.
//!
//! Nothing here compares the host before and after: other containers may come and go meanwhile. Every trace is looked
//! for by the id of a container or by the directory of a test, which is in skiff's environment and in its mounts.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, OnceLock};

static IDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Hierarchies of control groups that are mounted elsewhere: an open directory keeps each.
static HIERARCHIES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// The directory of all tests of this process.
pub(crate) fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| std::env::temp_dir().join(format!("skiff-it.{}", std::process::id())))
}

/// Keeps ids for the search at the very end.
pub(crate) fn remember(ids: Vec<String>) {
    IDS.lock().expect("no holder panics").extend(ids);
}

/// Searches once more when the test program ends: something may have come back, or a guard may have been too early.
pub(crate) fn check_at_exit() {
    static REGISTERED: Once = Once::new();
    // SAFETY: the function lives as long as the program and does not unwind.
    REGISTERED.call_once(|| assert_eq!(unsafe { libc::atexit(final_check) }, 0));
}

extern "C" fn final_check() {
    let ids = IDS.lock().map(|ids| ids.clone()).unwrap_or_default();
    let leaks: Vec<String> = of_containers(&ids).into_iter().chain(of_mounting_directory(base())).collect();
    if mounts_below(base()).is_empty() {
        let _best_effort = fs::remove_dir_all(base());
    }
    if !leaks.is_empty() {
        eprintln!("left behind by {} containers:\n{}", ids.len(), leaks.join("\n"));
        // SAFETY: ends the process at once, which is what the end of an exit handler does anyway.
        unsafe { libc::_exit(101) };
    }
}

/// Control groups and processes of these containers.
pub(crate) fn of_containers(ids: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    if !ids.is_empty() {
        found.extend(groups(ids).into_iter().map(|group| format!("cgroup {}", group.display())));
        let in_group = |pid: &str| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            ids.iter().any(|id| groups.contains(id.as_str()))
        };
        found
            .extend(processes().filter(|pid| in_group(pid)).map(|pid| format!("process {}", describe(&pid))));
    }
    found
}

/// Mounts below a test's directory, in this or any other mount namespace, and processes that belong to it.
pub(crate) fn of_directory(dir: &Path) -> Vec<String> {
    let dir = format!("{}/", dir.display());
    let mentions =
        |file: String| fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&dir));
    let me = std::process::id().to_string();
    let mut found: Vec<String> =
        mounts_below(Path::new(&dir)).into_iter().map(|line| format!("mount {line}")).collect();
    for pid in processes().filter(|pid| *pid != me) {
        if mentions(format!("/proc/{pid}/environ")) || mentions(format!("/proc/{pid}/mountinfo")) {
            found.push(format!("process {}", describe(&pid)));
        }
    }
    found
}

/// As [`of_directory`], for a test that mounts in this mount namespace itself: a copy of the namespace, which anybody may
/// make meanwhile, counts only where the root is in the directory.
pub(crate) fn of_mounting_directory(dir: &Path) -> Vec<String> {
    let dir = format!("{}/", dir.display());
    let mentions = |file: String| {
        let text = fs::read(file).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(&dir)
    };
    let lives_in = |pid: &str| {
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        table.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&dir))
    };
    let me = std::process::id().to_string();
    let mut found: Vec<String> =
        mounts_below(Path::new(&dir)).into_iter().map(|line| format!("mount {line}")).collect();
    for pid in processes().filter(|pid| *pid != me) {
        let named = ["environ", "cmdline"].iter().any(|file| mentions(format!("/proc/{pid}/{file}")));
        if named || lives_in(&pid) {
            found.push(format!("process {}", describe(&pid)));
        }
    }
    found
}

/// Lines of this process's mount table that mention `dir`.
pub(crate) fn mounts_below(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let dir = dir.display().to_string();
    table.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect()
}

/// Files of containers that are no more: in the run directory and in the directory for temporary files.
pub(crate) fn files(run: &Path, temporary: &Path) -> Vec<String> {
    let places = [&run.join("containers"), &run.join("names"), temporary];
    places.into_iter().flat_map(entries).map(|path| format!("file {}", path.display())).collect()
}

/// Writable layers of these containers in a store that others use too.
pub(crate) fn layers(store: &Path, ids: &[String]) -> Vec<String> {
    let layers = entries(store.join("containers")).into_iter().map(|path| path.display().to_string());
    let ours = layers.filter(|path| ids.iter().any(|id| path.contains(id.as_str())));
    ours.map(|path| format!("file {path}")).collect()
}

/// Unfinished work in a store.
pub(crate) fn unfinished(store: &Path) -> Vec<String> {
    let places = [store.join("tmp"), store.join("containers")];
    places.iter().flat_map(entries).map(|path| format!("file {}", path.display())).collect()
}

/// Control groups, in any hierarchy, that are named after one of these containers.
pub(crate) fn groups(ids: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    groups_below(Path::new("/sys/fs/cgroup"), ids, &mut found);
    for hierarchy in HIERARCHIES.lock().expect("no holder panics").iter() {
        groups_below(&path_of(hierarchy), ids, &mut found);
    }
    found
}

/// Keeps the root of a hierarchy that this mount namespace does not have, so that what is left in it is found.
pub(crate) fn keep_hierarchy(root: File) {
    HIERARCHIES.lock().expect("no holder panics").push(root);
}

/// Whether no control group is left below those roots, not even a removed one that the kernel has yet to forget: with the
/// last directory closed the hierarchy then ends, too, and its controller is cgroup2's again.
pub(crate) fn hierarchies_can_end() -> bool {
    let kept = HIERARCHIES.lock().expect("no holder panics");
    let is_used = |root: &File| groups_in(&path_of(root)) > 0;
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let count = |line: &str| line.strip_prefix("hugetlb\t")?.split('\t').nth(1)?.parse().ok();
    let counted: usize = table.lines().find_map(count).unwrap_or(0);
    kept.is_empty() || kept.iter().any(is_used) || counted <= 1
}

fn groups_in(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

fn path_of(open: &File) -> PathBuf {
    format!("/proc/self/fd/{}", open.as_raw_fd()).into()
}

fn groups_below(dir: &Path, ids: &[String], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id.as_str())) {
                found.push(entry.path());
            }
            groups_below(&entry.path(), ids, found);
        }
    }
}

/// All processes but zombies, which only wait for their parent.
fn processes() -> impl Iterator<Item = String> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(|pid| !is_zombie(pid))
}

fn is_zombie(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn describe(pid: &str) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
}

fn entries(dir: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
