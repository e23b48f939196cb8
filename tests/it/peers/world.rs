//! A world for daemons: mount, PID and network namespaces of their own, in which everything ends with the first process.
//!
//! The first process is `probe hold`: it ends when this program does, however that ends, and the kernel then kills
//! whatever daemon, shim or container is left. What lies outside of the namespaces is control groups, all below one
//! that is named after the world; they are removed at the end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Live, Skiff, leak, programs};

/// The ordinary user of every world, who has subordinate ids there and exists nowhere else.
pub(crate) const USER: u32 = 54321;

/// Where the user lives.
pub(crate) const HOME: &str = "/run/home";

/// Where the runtime under test is in every world, for anyone to run.
pub(crate) const RUNTIME: &str = "/run/bin/skiff-runtime";

/// Where cgroup v1's hugetlb is mounted.
const HUGETLB: &str = "/sys/fs/cgroup/hugetlb";

/// What is different inside: cgroup v1's hugetlb is mounted where the others are (some versions of crun do not start
/// without), mounts propagate among themselves and `/dev/shm` has the flags as on a machine that systemd has booted, `/run` is
/// empty, and nobody else's programs are pinned.
///
/// Where podman has been used beside cgroup v1, it has switched hugetlb on in cgroup2. There the mount fails (`EBUSY`) while
/// any cgroup is left that has it, also a removed one for a moment; the mount would switch it off itself otherwise.
const SETUP: &str = r#"
if [ -e /sys/fs/cgroup/memory/tasks ] && [ ! -e /sys/fs/cgroup/hugetlb/tasks ] && grep -q ^hugetlb /proc/cgroups; then
    mount -t tmpfs -o mode=755 cgroup /mnt
    for group in /sys/fs/cgroup/*; do
        if [ -L $group ]; then cp -P $group /mnt; else mkdir /mnt/${group##*/}; mount --bind $group /mnt/${group##*/}; fi
    done
    mkdir -p /mnt/hugetlb
    for try in 1 2 3 4 5 6 7 8 9 10; do
        find /sys/fs/cgroup/unified -depth -name cgroup.subtree_control -exec grep -qs hugetlb {} ';' -print |
            while read -r control; do echo -hugetlb > $control || :; done
        if mount -t cgroup -o hugetlb cgroup /mnt/hugetlb; then break; fi
        sleep 0.5
    done
    test -e /mnt/hugetlb/tasks
    umount -l -R /sys/fs/cgroup
    mount --move /mnt /sys/fs/cgroup
fi
while umount /sys/fs/bpf 2> /dev/null; do :; done
if grep -q ' /dev/shm ' /proc/self/mounts; then mount -o remount,bind,nosuid,nodev /dev/shm; fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/bin /run/home/.run /run/etc.work /run/etc
for file in passwd group subuid subgid; do
    if [ -e /etc/$file ]; then cp /etc/$file /run/etc; fi
done
echo sailor:x:$2:$2::/run/home:/bin/sh >> /run/etc/passwd
echo sailor:x:$2: >> /run/etc/group
echo sailor:200000:65536 >> /run/etc/subuid
echo sailor:200000:65536 >> /run/etc/subgid
chown -R $2:$2 /run/home
chmod 700 /run/home/.run
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work overlay /etc
mount --make-rshared /
ip link set lo up
exec "$1" hold
"#;

/// A running world.
#[derive(Debug)]
pub(crate) struct World {
    /// The path of the control group that all of its containers are below, and its name.
    pub(crate) parent: String,
    pub(crate) name: String,
    /// Its first process, as this program sees it.
    init: u32,
}

impl World {
    /// Makes one. It ends when this program ends.
    pub(crate) fn start(peer: &str) -> Self {
        end_at_exit();
        let name = format!("skiff-it-{}-{peer}", std::process::id());
        let (probe, user) = (programs::probe().display().to_string(), USER.to_string());
        let namespaces = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let words =
            [&["unshare"], &namespaces[..], &["--propagation=private", "sh", "-ec", SETUP, "sh"]].concat();
        let mut first = Skiff::tool(&[&words[..], &[&probe, &user]].concat()).stdin_open().start();
        first.until("ready");
        let init = child_of(first.pid().as_raw());
        ALL.lock().expect("no holder panics").push((first, name.clone()));
        let world = Self { parent: format!("/{name}"), name, init };
        if !Path::new(HUGETLB).exists() {
            // On cgroup2 alone there is none.
            File::open(world.path(HUGETLB)).map(leak::keep_hierarchy).ok();
        }
        world.bring(programs::runtime(), RUNTIME);
        world
    }

    /// Copies a file of the host into the world.
    pub(crate) fn bring(&self, file: &Path, inside: &str) {
        fs::copy(file, self.path(inside)).unwrap_or_else(|e| panic!("copy {}: {e}", file.display()));
    }

    /// A command in this world, as root.
    pub(crate) fn command(&self, words: &[&str]) -> Skiff {
        self.enter(&["env", "-i", PATH, "HOME=/run/root", "TERM=xterm"], words)
    }

    /// A command in this world, as the ordinary user.
    pub(crate) fn users_command(&self, words: &[&str]) -> Skiff {
        let (uid, gid) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        let home = format!("HOME={HOME}");
        let runtime_dir = format!("XDG_RUNTIME_DIR={HOME}/.run");
        let become_user = ["setpriv", &uid, &gid, "--clear-groups"];
        self.enter(
            &[&become_user[..], &["env", "-i", PATH, &home, &runtime_dir, "TERM=xterm"]].concat(),
            words,
        )
    }

    /// Starts a daemon in this world that outlives the command, and waits for its socket.
    pub(crate) fn daemon(&self, log: &str, socket: &str, words: &[&str]) {
        let line = format!("setsid \"$@\" > {log} 2>&1 < /dev/null &");
        self.command(&[&["sh", "-ec", &line, "sh"], words].concat()).output().ok();
        let is_there = || self.path(socket).exists();
        assert!(
            eventually(is_there),
            "no {socket}:\n{}",
            fs::read_to_string(self.path(log)).unwrap_or_default()
        );
    }

    /// Where a file of this world is for this program.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// What a control group of the process says: the file of the v1 controller, or that of v2. `None` where the group
    /// has no such file.
    pub(crate) fn control(&self, pid: &str, controller: &str, v1: &str, v2: &str) -> Option<String> {
        let table =
            fs::read_to_string(self.path(&format!("/proc/{pid}/cgroup"))).expect("its control groups");
        let group = |is: &dyn Fn(&str) -> bool| {
            let mut lines = table.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            lines.find(|(names, _)| is(names)).map(|(_, path)| path.to_owned())
        };
        let old = Path::new("/sys/fs/cgroup").join(controller);
        let file = match group(&|names| names.split(',').any(|name| name == controller)) {
            Some(path) if old.join("tasks").exists() => format!("{}{path}/{v1}", old.display()),
            _ => format!("/sys/fs/cgroup{}/{v2}", group(&str::is_empty)?),
        };
        fs::read_to_string(self.path(&file)).ok().map(|text| text.trim_end().to_owned())
    }

    fn enter(&self, before: &[&str], words: &[&str]) -> Skiff {
        let target = format!("--target={}", self.init);
        let enter = ["nsenter", &target, "--mount", "--pid", "--net", "--"];
        Skiff::tool(&[&enter[..], before, words].concat())
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All worlds, to be ended at exit: statics are not dropped.
static ALL: Mutex<Vec<(Live, String)>> = Mutex::new(Vec::new());

/// Tries until it holds, half a minute at most: where each try is a command of an engine's, and machines are emulated, there
/// are few of them.
pub(crate) fn eventually(holds: impl Fn() -> bool) -> bool {
    within(Duration::from_secs(30) * crate::harness::patience(), holds)
}

/// Tries for as long as it takes to be fairly sure that it does not hold.
pub(crate) fn soon(holds: impl Fn() -> bool) -> bool {
    within(Duration::from_millis(200), holds)
}

fn within(time: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The search for leaks runs after this, for it is registered before.
fn end_at_exit() {
    static REGISTERED: Once = Once::new();
    leak::check_at_exit();
    // SAFETY: the function lives as long as the program and does not unwind.
    REGISTERED.call_once(|| assert_eq!(unsafe { libc::atexit(end_all) }, 0));
}

extern "C" fn end_all() {
    let worlds = ALL.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
    let names: Vec<String> = worlds.iter().map(|(_, name)| name.clone()).collect();
    // Kills the first processes, and with them the worlds.
    drop(worlds);
    eventually(|| leak::groups(&names).iter().all(|group| remove_group(group)));
    eventually(leak::hierarchies_can_end);
    leak::remember(names);
}

/// Removes a control group and those below it; false if something still runs there.
fn remove_group(group: &Path) -> bool {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let empty = below.filter(|entry| !remove_group(&entry.path())).count() == 0;
    // It may be gone already.
    empty && (fs::remove_dir(group).is_ok() || !group.exists())
}

fn child_of(pid: i32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.trim().parse().unwrap_or_else(|_| panic!("{pid} has the children {children:?}"))
}
