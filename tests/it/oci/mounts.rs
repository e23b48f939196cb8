//! config.md: the root, and what is mounted in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use super::Bundle;
use super::hosting;
use super::hosting::{claimed, claims, features};

/// A tmpfs on the host, below a bundle's directory; unmounted when it is dropped.
#[derive(Debug)]
struct HostMount(PathBuf);

impl HostMount {
    fn new(path: PathBuf, flags: MsFlags) -> Self {
        fs::create_dir_all(&path).expect("a mount point");
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("mode=755")).expect("mount a tmpfs");
        Self(path)
    }

    fn propagation(self, flags: MsFlags) -> Self {
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).expect("set the propagation");
        self
    }

    /// The peer group of the mount, as the host numbers it.
    fn peers(&self) -> String {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("our mounts");
        let line =
            table.lines().find(|line| line.split(' ').nth(4) == self.0.to_str()).expect("it is mounted");
        line.split(' ').find(|word| word.starts_with("shared:")).unwrap_or_default().to_owned()
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _best_effort = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// What is mounted at `target`, on top if there are several.
#[track_caller]
fn mount_at<'a>(seen: &'a Value, target: &str) -> &'a Value {
    let mounts = seen["mounts"].as_array().expect("a list");
    mounts
        .iter()
        .rfind(|it| it["target"] == target)
        .unwrap_or_else(|| panic!("nothing at {target}: {mounts:?}"))
}

fn has(mount: &Value, field: &str, option: &str) -> bool {
    mount[field].as_str().unwrap_or_default().split([',', ' ']).any(|it| it == option)
}

fn tmpfs(options: &[&str]) -> Value {
    json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options })
}

fn bind(source: &Path, options: &[&str]) -> Value {
    json!({ "destination": "/mnt", "type": "none", "source": source, "options": options })
}

/// What the program sees at `/mnt` if a tmpfs is mounted there with these options.
#[track_caller]
fn seen_tmpfs(options: &[&str]) -> Value {
    let mut bundle = Bundle::new();
    let seen = bundle.mount(tmpfs(options)).see();
    let mount = mount_at(&seen, "/mnt").clone();
    assert_eq!(mount["type"], "tmpfs");
    mount
}

/// Asserts that these options are accepted and make a tmpfs with, and without, what the kernel calls these.
#[track_caller]
fn check(options: &[&str], with: &[&str], without: &[&str]) {
    let mount = seen_tmpfs(options);
    let shown = |option: &str| has(&mount, "options", option) || has(&mount, "super", option);
    for option in with {
        assert!(shown(option), "{option} is missing: {mount}");
    }
    for option in without {
        assert!(!shown(option), "{option} is there: {mount}");
    }
}

/// Options that stand for something the kernel shows in its table of mounts.
macro_rules! options {
    ($($name:ident: $options:expr => $with:expr, $without:expr;)*) => {
        $(#[test]
        fn $name() {
            check(&$options, &$with, &$without);
        })*
    };
}

options! {
    option_async: ["async"] => [], ["sync"];
    option_atime: ["atime"] => [], ["noatime"];
    option_defaults: ["defaults"] => ["rw"], ["nosuid", "nodev", "noexec", "sync"];
    option_dev: ["dev"] => [], ["nodev"];
    option_diratime: ["diratime"] => [], ["nodiratime"];
    option_dirsync: ["dirsync"] => ["dirsync"], [];
    option_exec: ["exec"] => [], ["noexec"];
    option_iversion: ["iversion"] => [], [];
    option_lazytime: ["lazytime"] => ["lazytime"], [];
    option_loud: ["loud"] => [], [];
    option_noatime: ["noatime"] => ["noatime"], ["relatime"];
    option_nodev: ["nodev"] => ["nodev"], [];
    option_nodiratime: ["nodiratime"] => ["nodiratime"], [];
    option_noexec: ["noexec"] => ["noexec"], [];
    option_noiversion: ["noiversion"] => [], [];
    option_nolazytime: ["nolazytime"] => [], ["lazytime"];
    option_norelatime: ["norelatime"] => [], [];
    option_nostrictatime: ["nostrictatime"] => [], [];
    option_nosuid: ["nosuid"] => ["nosuid"], [];
    option_relatime: ["relatime"] => ["relatime"], ["noatime"];
    option_ro: ["ro"] => ["ro"], [];
    option_rw: ["rw"] => ["rw"], ["ro"];
    option_silent: ["silent"] => [], [];
    option_strictatime: ["strictatime"] => [], ["relatime", "noatime"];
    option_suid: ["suid"] => [], ["nosuid"];
    option_sync: ["sync"] => ["sync"], [];
    several_options_at_once: ["nosuid", "noexec", "nodev", "ro", "noatime"] =>
        ["nosuid", "noexec", "nodev", "ro", "noatime"], [];
    options_of_the_file_system: ["size=1024k", "nr_inodes=77", "mode=0700"] =>
        ["size=1024k", "nr_inodes=77", "mode=700"], [];
}

#[test]
fn an_option_that_the_file_system_does_not_know_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.mount(tmpfs(&["no_such_option=1"])).create_fails();
}

/// A mount on the host with another below it, bound with `options`: what the container sees of the two.
#[track_caller]
fn seen_bound(flags: MsFlags, options: &[&str]) -> [Value; 2] {
    let mut bundle = Bundle::new();
    let top = HostMount::new(bundle.dir.join("source"), MsFlags::empty());
    let below = HostMount::new(top.0.join("below"), MsFlags::empty());
    for it in [&top, &below] {
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(None::<&str>, &it.0, None::<&str>, flags, None::<&str>).expect("set flags");
    }
    let seen = bundle.mount(bind(&top.0, options)).see();
    drop(below);
    [mount_at(&seen, "/mnt").clone(), mount_at(&seen, "/mnt/below").clone()]
}

/// Recursive attributes: SHOULD.
#[track_caller]
fn check_recursive(before: MsFlags, option: &str, kernel: &str, expected: bool) {
    let mounts = seen_bound(before, &["rbind", option]);
    for mount in mounts {
        assert_eq!(has(&mount, "options", kernel), expected, "{option}: {mount}");
    }
}

macro_rules! recursive {
    ($($name:ident: $option:expr, $before:ident => $kernel:expr, $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            claimed!(claims("/mountOptions", $option), $option);
            check_recursive(MsFlags::$before, $option, $kernel, $expected);
        })*
    };
}

recursive! {
    recursive_rro: "rro", MS_NODEV => "ro", true;
    recursive_rrw: "rrw", MS_RDONLY => "ro", false;
    recursive_rnosuid: "rnosuid", MS_NODEV => "nosuid", true;
    recursive_rsuid: "rsuid", MS_NOSUID => "nosuid", false;
    recursive_rnodev: "rnodev", MS_NOSUID => "nodev", true;
    recursive_rdev: "rdev", MS_NODEV => "nodev", false;
    recursive_rnoexec: "rnoexec", MS_NODEV => "noexec", true;
    recursive_rexec: "rexec", MS_NOEXEC => "noexec", false;
    recursive_rnodiratime: "rnodiratime", MS_NODEV => "nodiratime", true;
    recursive_rdiratime: "rdiratime", MS_NODIRATIME => "nodiratime", false;
    recursive_rnoatime: "rnoatime", MS_NODEV => "noatime", true;
    recursive_ratime: "ratime", MS_NOATIME => "noatime", false;
    recursive_rrelatime: "rrelatime", MS_NOATIME => "relatime", true;
    recursive_rstrictatime: "rstrictatime", MS_NODEV => "relatime", false;
    recursive_rnostrictatime: "rnostrictatime", MS_STRICTATIME => "relatime", true;
}

#[test]
fn option_ro_makes_a_bind_mount_read_only() {
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    bundle.mount(bind(&source, &["bind", "ro"]));
    assert_eq!(bundle.attempt(&["create", "/mnt/x", "create", "/tmp/x"]), ["EROFS", "ok"]);
}

#[test]
fn option_noexec_hinders_programs_of_a_bind_mount() {
    let mut bundle = Bundle::new();
    let source = bundle.inside("/bin");
    bundle.mount(bind(&source, &["bind", "noexec"]));
    assert_eq!(bundle.attempt(&["access-x", "/mnt/probe", "access-x", "/bin/probe"]), ["EACCES", "ok"]);
}

#[test]
fn option_nodev_hinders_devices_of_a_bind_mount() {
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    let null = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::mknod(&source.join("null"), nix::sys::stat::SFlag::S_IFCHR, mode, null).expect("mknod");
    bundle.mount(bind(&source, &["bind", "nodev"]));
    assert_eq!(bundle.attempt(&["open-r", "/mnt/null", "open-r", "/dev/null"]), ["EACCES", "ok"]);
}

#[test]
fn option_nosymfollow_hinders_links() {
    claimed!(claims("/mountOptions", "nosymfollow"), "nosymfollow");
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    fs::write(source.join("file"), "text").expect("a file");
    symlink("file", source.join("link")).expect("a link");
    bundle.mount(bind(&source, &["bind", "nosymfollow"]));
    assert_eq!(bundle.attempt(&["read", "/mnt/file", "read", "/mnt/link"]), ["text", "ELOOP"]);
}

#[test]
fn option_bind_leaves_out_what_is_mounted_below() {
    let mut bundle = Bundle::new();
    let top = HostMount::new(bundle.dir.join("source"), MsFlags::empty());
    let below = HostMount::new(top.0.join("below"), MsFlags::empty());
    fs::write(below.0.join("file"), "text").expect("a file");
    bundle.mount(bind(&top.0, &["bind"]));
    assert_eq!(bundle.attempt(&["read", "/mnt/below/file"]), ["ENOENT"]);
}

#[test]
fn option_rbind_takes_what_is_mounted_below() {
    let mut bundle = Bundle::new();
    let top = HostMount::new(bundle.dir.join("source"), MsFlags::empty());
    let below = HostMount::new(top.0.join("below"), MsFlags::empty());
    fs::write(below.0.join("file"), "text").expect("a file");
    bundle.mount(bind(&top.0, &["rbind"]));
    assert_eq!(bundle.attempt(&["read", "/mnt/below/file"]), ["text"]);
}

#[test]
fn option_ro_with_rbind_is_for_the_top_alone() {
    let [top, below] = seen_bound(MsFlags::empty(), &["rbind", "ro"]);
    assert!(has(&top, "options", "ro") && has(&below, "options", "rw"), "{top} {below}");
}

/// Of a source with these flags.
const RESTRICTED: MsFlags =
    MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NOATIME);

#[test]
fn an_option_of_a_bind_mount_replaces_the_flags_of_its_source() {
    for (options, with, without) in [
        (["rbind", "ro"], "ro", ["nosuid", "nodev", "noexec"]),
        (["bind", "nosuid"], "nosuid", ["nodev", "noexec", "ro"]),
        (["bind", "relatime"], "relatime", ["nosuid", "nodev", "noexec"]),
    ] {
        let mut bundle = Bundle::new();
        let source = HostMount::new(bundle.dir.join("source"), RESTRICTED);
        let seen = bundle.mount(bind(&source.0, &options)).see();
        let mount = mount_at(&seen, "/mnt");
        assert!(has(mount, "options", with), "{options:?}: {mount}");
        assert!(!without.iter().any(|flag| has(mount, "options", flag)), "{options:?}: {mount}");
        assert_eq!(has(mount, "options", "noatime"), with != "relatime", "{options:?}: {mount}");
    }
}

#[test]
fn option_remount_changes_a_mount() {
    let mut bundle = Bundle::new();
    bundle.mount(tmpfs(&[])).mount(tmpfs(&["remount", "ro"]));
    let seen = bundle.see();
    assert!(has(mount_at(&seen, "/mnt"), "options", "ro"), "{}", mount_at(&seen, "/mnt"));
    let count = seen["mounts"].as_array().expect("a list").iter().filter(|it| it["target"] == "/mnt").count();
    assert_eq!(count, 1, "it was mounted again");
}

/// A shared mount on the host, bound with `option` below a root that is `root`: the propagation that the container sees at
/// the top and below, and the peers on the host.
#[track_caller]
fn propagation(root: &str, option: &str) -> ([String; 2], String) {
    let mut bundle = Bundle::with([("/linux/rootfsPropagation", json!(root))]);
    let top = HostMount::new(bundle.dir.join("source"), MsFlags::empty()).propagation(MsFlags::MS_SHARED);
    let below = HostMount::new(top.0.join("below"), MsFlags::empty()).propagation(MsFlags::MS_SHARED);
    let seen = bundle.mount(bind(&top.0, &["rbind", option])).see();
    let tags = |target| mount_at(&seen, target)["tags"].as_str().unwrap_or_default().to_owned();
    let peers = top.peers();
    drop(below);
    ([tags("/mnt"), tags("/mnt/below")], peers)
}

#[test]
fn option_private_ends_propagation() {
    assert_eq!(propagation("private", "private").0[0], "");
}

#[test]
fn option_rprivate_ends_propagation_below_too() {
    assert_eq!(propagation("private", "rprivate").0, ["", ""]);
}

#[test]
fn option_shared_keeps_the_peers_of_the_host() {
    let ([top, _], peers) = propagation("shared", "shared");
    assert!(top.split(' ').any(|tag| tag == peers), "{top}, not {peers}");
}

#[test]
fn option_rshared_keeps_the_peers_of_the_host_below_too() {
    let ([top, below], peers) = propagation("shared", "rshared");
    assert!(top.split(' ').any(|tag| tag == peers), "{top}, not {peers}");
    assert!(below.starts_with("shared:"), "{below}");
}

#[test]
fn option_slave_receives_from_the_host() {
    let ([top, _], peers) = propagation("slave", "slave");
    assert!(
        top.contains(&peers.replace("shared", "master")) && !top.contains("shared:"),
        "{top}, not of {peers}"
    );
}

#[test]
fn option_rslave_receives_from_the_host_below_too() {
    let ([top, below], _) = propagation("slave", "rslave");
    assert!(top.starts_with("master:") && below.starts_with("master:"), "{top} {below}");
}

#[test]
fn option_unbindable_marks_the_mount() {
    assert_eq!(propagation("private", "unbindable").0[0], "unbindable");
}

#[test]
fn option_runbindable_marks_what_is_below_too() {
    assert_eq!(propagation("private", "runbindable").0, ["unbindable", "unbindable"]);
}

#[test]
fn a_mount_on_the_host_reaches_a_running_container_that_is_its_slave() {
    let mut bundle = Bundle::with([("/linux/rootfsPropagation", json!("slave"))]);
    let top = HostMount::new(bundle.dir.join("source"), MsFlags::empty()).propagation(MsFlags::MS_SHARED);
    bundle.mount(bind(&top.0, &["rbind", "rslave"]));
    let pid = bundle.wait_ready(&["/bin/sh", "-c", "probe trap; cat /mnt/later/file"]);
    let later = HostMount::new(top.0.join("later"), MsFlags::empty());
    fs::write(later.0.join("file"), "arrived").expect("a file");
    // The shell is process 1 and stays; its child gets the signal.
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    let child: i32 = children.trim().parse().expect("one child");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGTERM)
        .expect("kill");
    assert_eq!(bundle.rest(), "SIGTERM\narrived");
    bundle.wait(pid);
    bundle.delete();
}

#[test]
fn the_root_is_writable() {
    assert_eq!(Bundle::new().attempt(&["create", "/new"]), ["ok"]);
}

#[test]
fn a_read_only_root_is_read_only() {
    let mut bundle = Bundle::new();
    bundle.set_root("readonly", true);
    assert_eq!(
        bundle.attempt(&["create", "/new", "mkdir", "/etc/new", "create", "/dev/shm/x"]),
        ["EROFS", "EROFS", "ok"]
    );
    assert!(!bundle.inside("/new").exists());
}

#[test]
fn the_root_may_be_given_by_an_absolute_path() {
    let mut bundle = Bundle::new();
    let root = bundle.inside("/");
    bundle.set_root("path", json!(root)).args(&["/bin/echo", "alive"]);
    assert_eq!(bundle.run(), "alive\n");
}

#[test]
fn the_root_may_have_another_name() {
    let mut bundle = Bundle::new();
    bundle.set_root("path", "another/name");
    fs::create_dir(bundle.dir.join("another")).expect("a directory");
    fs::rename(bundle.dir.join("rootfs"), bundle.dir.join("another/name")).expect("rename the root");
    assert_eq!(bundle.args(&["/bin/echo", "alive"]).run(), "alive\n");
}

#[test]
fn a_missing_root_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.config.as_object_mut().expect("an object").remove("root");
    bundle.create_fails();
}

#[test]
fn a_root_that_is_no_directory_is_an_error() {
    let mut bundle = Bundle::new();
    let file = bundle.file("plain", "");
    bundle.set_root("path", json!(file)).create_fails();
}

#[test]
fn mounts_are_made_in_the_listed_order() {
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    fs::write(source.join("file"), "text").expect("a file");
    let below = json!({ "destination": "/mnt/below", "type": "none", "source": source, "options": ["bind"] });
    bundle.mount(tmpfs(&[])).mount(below);
    assert_eq!(bundle.attempt(&["read", "/mnt/below/file"]), ["text"]);
}

#[test]
fn a_later_mount_hides_what_is_mounted_below() {
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    fs::write(source.join("file"), "text").expect("a file");
    let below = json!({ "destination": "/mnt/below", "type": "none", "source": source, "options": ["bind"] });
    bundle.mount(below).mount(tmpfs(&[]));
    assert_eq!(bundle.attempt(&["read", "/mnt/below/file", "names", "/mnt"]), ["ENOENT", ""]);
}

#[test]
fn a_later_mount_in_the_same_place_is_on_top() {
    let mut bundle = Bundle::new();
    for name in ["one", "two"] {
        let source = bundle.subdir(name);
        fs::write(source.join("file"), name).expect("a file");
        bundle.mount(bind(&source, &["bind"]));
    }
    assert_eq!(bundle.attempt(&["read", "/mnt/file"]), ["two"]);
}

#[test]
fn a_file_can_be_bound() {
    let mut bundle = Bundle::new();
    let source = bundle.file("source", "from outside");
    bundle
        .mount(json!({ "destination": "/etc/plain", "type": "bind", "source": source, "options": ["bind"] }));
    bundle.mount(
        json!({ "destination": "/not/yet/there", "type": "bind", "source": source, "options": ["rbind"] }),
    );
    assert_eq!(bundle.attempt(&["read", "/etc/plain", "read", "/not/yet/there"]), ["from outside"; 2]);
}

#[test]
fn what_is_written_to_a_bind_mount_is_in_its_source() {
    let mut bundle = Bundle::new();
    let source = bundle.subdir("source");
    bundle.mount(bind(&source, &["rbind", "rw"]));
    bundle.args(&["/bin/sh", "-c", "echo inside > /mnt/file"]).run();
    assert_eq!(fs::read_to_string(source.join("file")).expect("it is there"), "inside\n");
}

#[test]
fn a_relative_source_is_relative_to_the_bundle() {
    let mut bundle = Bundle::new();
    bundle.file("below/source", "of the bundle");
    bundle.mount(
        json!({ "destination": "/mnt/x", "type": "none", "source": "below/source", "options": ["bind"] }),
    );
    assert_eq!(bundle.attempt(&["read", "/mnt/x"]), ["of the bundle"]);
}

#[test]
fn a_bind_mount_needs_no_type() {
    let mut bundle = Bundle::new();
    let source = bundle.file("source", "text");
    bundle.mount(json!({ "destination": "/mnt/x", "source": source, "options": ["rbind"] }));
    assert_eq!(bundle.attempt(&["read", "/mnt/x"]), ["text"]);
}

#[test]
fn a_relative_destination_is_relative_to_the_root() {
    let mut bundle = Bundle::new();
    let source = bundle.file("source", "text");
    bundle.mount(json!({ "destination": "mnt/x", "type": "none", "source": source, "options": ["bind"] }));
    bundle.set("/process/cwd", json!("/tmp"));
    assert_eq!(bundle.attempt(&["read", "/mnt/x"]), ["text"]);
}

#[test]
fn a_missing_source_is_an_error() {
    let mut bundle = Bundle::new();
    bundle.mount(bind(Path::new("/no/such/source"), &["bind"])).create_fails();
}

#[test]
fn a_destination_is_resolved_inside_the_root() {
    let mut bundle = Bundle::new();
    let (outside, source) = (bundle.subdir("outside"), bundle.file("source", "text"));
    symlink(&outside, bundle.inside("/link")).expect("a link");
    fs::create_dir_all(bundle.inside(outside.to_str().expect("a path"))).expect("the same directory inside");
    bundle.mount(json!({ "destination": "/link/x", "type": "none", "source": source, "options": ["bind"] }));
    assert_eq!(bundle.attempt(&["read", "/link/x"]), ["text"]);
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0, "something was made outside");
}

#[test]
fn other_file_systems_can_be_mounted() {
    let mut bundle = Bundle::new();
    bundle.mount(json!({ "destination": "/p", "type": "proc", "source": "proc" }));
    bundle.mount(json!({ "destination": "/r", "type": "ramfs", "source": "ramfs" }));
    let seen = bundle.see();
    assert_eq!([&mount_at(&seen, "/p")["type"], &mount_at(&seen, "/r")["type"]], ["proc", "ramfs"]);
}

#[test]
fn the_mode_of_a_tmpfs_is_what_is_asked_for() {
    let mut bundle = Bundle::new();
    bundle.mount(tmpfs(&["mode=1750", "uid=7", "gid=8"]));
    assert_eq!(bundle.attempt(&["stat", "/mnt"]), ["d 1750 7:8"]);
}

/// MAY.
#[test]
fn option_tmpcopyup_copies_what_was_there() {
    claimed!(claims("/mountOptions", "tmpcopyup"), "tmpcopyup");
    let mut bundle = Bundle::new();
    fs::create_dir_all(bundle.inside("/mnt/deep")).expect("a directory");
    fs::write(bundle.inside("/mnt/deep/file"), "text").expect("a file");
    fs::set_permissions(bundle.inside("/mnt/deep/file"), fs::Permissions::from_mode(0o640)).expect("chmod");
    chown(bundle.inside("/mnt/deep/file"), Some(7), Some(8)).expect("chown");
    symlink("deep/file", bundle.inside("/mnt/link")).expect("a link");
    bundle.mount(tmpfs(&["tmpcopyup"]));
    let seen = bundle.attempt(&[
        "read",
        "/mnt/link",
        "stat",
        "/mnt/deep/file",
        "stat",
        "/mnt/link",
        "create",
        "/mnt/x",
    ]);
    assert_eq!(seen, ["text", "- 0640 7:8", "l deep/file", "ok"]);
    assert!(!bundle.inside("/mnt/x").exists(), "the original was written to");
}

/// Whether ID-mapped mounts, a SHOULD, are claimed.
fn maps_ids() -> bool {
    features()["linux"]["mountExtensions"]["idmap"]["enabled"] == true
}

/// A directory with a file of user 5 and group 6, bound with these options and mappings of the ids from 0 to 100.
fn mapped(bundle: &mut Bundle, options: &[&str], to: [u32; 2]) {
    let source = bundle.subdir("source");
    fs::write(source.join("file"), "text").expect("a file");
    chown(source.join("file"), Some(5), Some(6)).expect("chown");
    let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 100 }]);
    bundle.mount(json!({
        "destination": "/mnt", "type": "none", "source": source, "options": options,
        "uidMappings": map(to[0]), "gidMappings": map(to[1]),
    }));
}

#[test]
fn option_idmap_maps_owners() {
    claimed!(maps_ids(), "ID-mapped mounts");
    if !hosting::files_can_be_mapped() {
        return hosting::lacks("a file system with ID-mapped mounts");
    }
    let mut bundle = Bundle::new();
    mapped(&mut bundle, &["bind", "idmap"], [1000, 2000]);
    assert_eq!(bundle.attempt(&["stat", "/mnt/file"]), ["- 0644 1005:2006"]);
}

#[test]
fn mappings_of_a_mount_count_without_the_option_too() {
    claimed!(maps_ids(), "ID-mapped mounts");
    if !hosting::files_can_be_mapped() {
        return hosting::lacks("a file system with ID-mapped mounts");
    }
    let mut bundle = Bundle::new();
    mapped(&mut bundle, &["bind"], [1000, 2000]);
    assert_eq!(bundle.attempt(&["stat", "/mnt/file"]), ["- 0644 1005:2006"]);
}

#[test]
fn option_ridmap_maps_what_is_mounted_below_too() {
    claimed!(maps_ids(), "ID-mapped mounts");
    if !hosting::files_can_be_mapped() || !hosting::memory_can_be_mapped() {
        return hosting::lacks("file systems with ID-mapped mounts");
    }
    let mut bundle = Bundle::new();
    let below = HostMount::new(bundle.dir.join("source/below"), MsFlags::empty());
    fs::write(below.0.join("file"), "text").expect("a file");
    mapped(&mut bundle, &["rbind", "ridmap"], [1000, 2000]);
    assert_eq!(
        bundle.attempt(&["stat", "/mnt/file", "stat", "/mnt/below/file"]),
        ["- 0644 1005:2006", "- 0644 1000:2000"]
    );
}

#[test]
fn option_idmap_without_mappings_and_user_namespace_is_an_error() {
    claimed!(maps_ids(), "ID-mapped mounts");
    for option in ["idmap", "ridmap"] {
        let mut bundle = Bundle::new();
        let source = bundle.subdir("source");
        bundle.mount(bind(&source, &["bind", option])).create_fails();
    }
}

#[test]
fn mappings_of_users_without_those_of_groups_are_an_error() {
    claimed!(maps_ids(), "ID-mapped mounts");
    let mut bundle = Bundle::new();
    mapped(&mut bundle, &["bind", "idmap"], [1000, 2000]);
    let last = bundle.config["mounts"].as_array().expect("a list").len() - 1;
    bundle.config["mounts"][last].as_object_mut().expect("an object").remove("gidMappings");
    bundle.create_fails();
}
