//! The file tree: the root, what is mounted into it by default and by flags, devices, kernel parameters.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::harness::{Case, fixture, need};

/// The mount at exactly this target.
fn mount_at<'a>(seen: &'a Value, target: &str) -> &'a Value {
    let mounts = seen["mounts"].as_array().expect("mounts");
    mounts
        .iter()
        .rev()
        .find(|mount| mount["target"] == target)
        .unwrap_or_else(|| panic!("nothing mounted at {target}: {mounts:#?}"))
}

#[track_caller]
fn has_options(mount: &Value, wanted: &[&str]) {
    let all =
        format!("{},{}", mount["options"].as_str().unwrap_or(""), mount["super"].as_str().unwrap_or(""));
    let all: Vec<&str> = all.split(',').collect();
    assert!(wanted.iter().all(|option| all.contains(option)), "{wanted:?} not all in {mount}");
}

#[test]
fn default_mounts_are_dockers() {
    let case = Case::new();
    let seen = case.see(&[]);
    let expected: [(&str, &str, &[&str]); 7] = [
        ("/", "overlay", &["rw"]),
        ("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"]),
        ("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", &["nosuid", "noexec", "gid=5", "mode=620", "ptmxmode=666"]),
        ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec", "size=65536k"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
        ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
    ];
    for (target, kind, options) in expected {
        let mount = mount_at(&seen, target);
        assert_eq!(mount["type"], kind, "{target}");
        has_options(mount, options);
    }
    let shared = |mount: &&Value| mount["tags"].as_str().is_some_and(|tags| tags.contains("shared:"));
    let propagating = seen["mounts"].as_array().expect("mounts").iter().find(shared);
    assert!(propagating.is_none(), "propagates to the host: {propagating:?}");
}

#[test]
fn the_default_devices_are_dockers() {
    let case = Case::new();
    let seen = case.see(&[]);
    let mut expected = vec![
        ("/dev/null", "c 1:3 0666"),
        ("/dev/zero", "c 1:5 0666"),
        ("/dev/full", "c 1:7 0666"),
        ("/dev/random", "c 1:8 0666"),
        ("/dev/urandom", "c 1:9 0666"),
        ("/dev/tty", "c 5:0 0666"),
        ("/dev/ptmx", "l pts/ptmx"),
        ("/dev/fd", "l /proc/self/fd"),
        ("/dev/stdin", "l /proc/self/fd/0"),
        ("/dev/stdout", "l /proc/self/fd/1"),
        ("/dev/stderr", "l /proc/self/fd/2"),
        ("/dev/pts", "d 0755"),
        ("/dev/pts/ptmx", "c 5:2 0666"),
        ("/dev/shm", "d 1777"),
        ("/dev/mqueue", "d 1777"),
    ];
    if Path::new("/proc/kcore").exists() {
        expected.push(("/dev/core", "l /proc/kcore"));
    }
    for (path, what) in &expected {
        assert_eq!(seen["dev"][path], *what, "{path}");
    }
    assert_eq!(seen["dev"].as_object().map(serde_json::Map::len), Some(expected.len()), "{:#}", seen["dev"]);
}

#[test]
fn the_root_is_writable_and_forgotten() {
    let case = Case::new();
    let script = "echo new > /etc/new && rm /etc/plain && echo more >> /etc/passwd && ls /etc/new";
    assert_eq!(case.run(&[], &["sh", "-c", script]).ok(), "/etc/new\n");
    let root = fixture::small_root_dir();
    assert!(!root.join("etc/new").exists() && root.join("etc/plain").exists());
    assert!(!fs::read_to_string(root.join("etc/passwd")).expect("users").contains("more"));
    assert_eq!(case.attempt(&[], &["read", "/etc/new"]), ["ENOENT"]);
}

#[test]
fn a_read_only_root_refuses_writes_but_not_in_mounts() {
    let case = Case::new();
    let data = case.subdir("data");
    let operations = [
        "create",
        "/x",
        "create",
        "/etc/x",
        "create",
        "/dev/shm/x",
        "create",
        "/t/x",
        "create",
        "/v/x",
        "remount-rw",
        "/",
    ];
    let verdicts = case.attempt(&["--read-only", "--tmpfs", "/t", "-v", &format!("{data}:/v")], &operations);
    assert_eq!(verdicts, ["EROFS", "EROFS", "ok", "ok", "ok", "EPERM"]);
}

#[test]
fn a_bind_mount_goes_both_ways() {
    let case = Case::new();
    let dir = case.subdir("data");
    fs::write(case.dir.join("data/in"), "from host").expect("a file");
    let script = "cat /mnt/data/in; echo out > /mnt/data/out";
    assert_eq!(case.run(&["-v", &format!("{dir}:/mnt/data")], &["sh", "-c", script]).ok(), "from host");
    assert_eq!(fs::read_to_string(case.dir.join("data/out")).expect("written inside"), "out\n");
    assert!(!fixture::small_root_dir().join("mnt").exists());
}

#[test]
fn a_read_only_bind_mount_stays_so() {
    let case = Case::new();
    let dir = case.subdir("data");
    let verdicts =
        case.attempt(&["-v", &format!("{dir}:/data:ro")], &["create", "/data/x", "remount-rw", "/data"]);
    assert_eq!(verdicts, ["EROFS", "EPERM"]);
    let mount = format!("type=bind,source={dir},target=/data,readonly");
    assert_eq!(case.attempt(&["--mount", &mount], &["create", "/data/x"]), ["EROFS"]);
    let mount = format!("type=bind,src={dir},dst=/data");
    assert_eq!(case.attempt(&["--mount", &mount], &["create", "/data/x"]), ["ok"]);
}

#[test]
fn read_only_covers_mounts_below_the_source() {
    let case = Case::new();
    let (dir, below) = (case.subdir("data"), case.subdir("data/below"));
    // In a mount namespace of its own, so that the host keeps none of it however the test ends.
    let script = format!("mount -t tmpfs none {below} && touch {below}/inner && exec \"$@\"");
    let flags = format!("{dir}:/data:ro");
    let command = case.command(
        &["-v", &flags],
        &["probe", "try", "open-r", "/data/below/inner", "create", "/data/below/x"],
    );
    let output = command.through(&["unshare", "-m", "sh", "-c", &script, "sh"]).output();
    assert_eq!(output.ok(), "ok\nEROFS\n");
}

#[test]
fn a_single_file_can_be_mounted() {
    let case = Case::new();
    let file = case.file("one", "content");
    assert_eq!(case.run(&["-v", &format!("{file}:/etc/plain:ro")], &["cat", "/etc/plain"]).ok(), "content");
    assert_eq!(case.run(&["-v", &format!("{file}:/new/place")], &["cat", "/new/place"]).ok(), "content");
}

#[test]
fn a_missing_source_is_made_by_v_and_refused_by_mount() {
    let case = Case::new();
    let missing = case.dir.join("made/by/v").display().to_string();
    case.run(&["-v", &format!("{missing}:/data")], &["true"]).ok();
    assert!(fs::metadata(&missing).expect("made").is_dir());
    case.run(&["--mount", "type=bind,source=/no/such/source,target=/data"], &["true"])
        .fails(125, "/no/such/source");
}

#[test]
fn mounts_that_make_no_sense_are_refused() {
    let case = Case::new();
    case.run(&["-v", "/tmp:relative"], &["true"]).fails(125, "relative");
    case.run(&["-v", "/tmp:/x:purple"], &["true"]).fails(125, "purple");
    case.run(&["--mount", "type=npipe,source=/a,target=/b"], &["true"]).fails(125, "npipe");
    case.run(&["--mount", "type=bind,source=/tmp"], &["true"]).fails(125, "target");
    case.run(&["--mount", "type=bind,source=/tmp,target=/x,wings=2"], &["true"]).fails(125, "wings");
    case.run(&["-v", "/tmp:/"], &["true"]).fails(125, "/");
}

#[test]
fn propagation_is_as_asked_for() {
    let case = Case::new();
    let dir = case.subdir("data");
    let tags = |mode: &str| {
        let seen = case.see(&["-v", &format!("{dir}:/data:{mode}")]);
        mount_at(&seen, "/data")["tags"].as_str().expect("text").to_owned()
    };
    assert_eq!(tags("rprivate"), "");
    // A slave or shared mount needs a shared source: made in a namespace of its own.
    let command = case.command(&["-v", &format!("{dir}:/data:rslave")], &["probe", "see"]);
    let script = format!("mount --bind {dir} {dir} && mount --make-shared {dir} && exec \"$@\"");
    let output = command.through(&["unshare", "-m", "sh", "-c", &script, "sh"]).output().ok();
    let seen = crate::harness::parse(&output);
    assert!(
        mount_at(&seen, "/data")["tags"].as_str().is_some_and(|tags| tags.starts_with("master:")),
        "{seen}"
    );
}

#[test]
fn tmpfs_is_empty_and_as_big_as_asked_for() {
    let case = Case::new();
    let seen = case.see(&["--tmpfs", "/var/log"]);
    has_options(mount_at(&seen, "/var/log"), &["rw", "nosuid", "nodev", "noexec"]);
    assert_eq!(case.run(&["--tmpfs", "/var/log"], &["ls", "/var/log"]).ok(), "");
    let flags = ["--tmpfs", "/scratch:rw,exec,size=2m,mode=700"];
    assert_eq!(case.run(&flags, &["probe", "fill", "/scratch/x", "3"]).ok(), "ENOSPC\n");
    assert_eq!(case.run(&flags, &["stat", "-c", "%a", "/scratch"]).ok(), "700\n");
    let flags = ["--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m,tmpfs-mode=1770"];
    assert_eq!(case.run(&flags, &["probe", "fill", "/scratch/x", "2"]).ok(), "ENOSPC\n");
    assert_eq!(case.run(&flags, &["stat", "-c", "%a", "/scratch"]).ok(), "1770\n");
    case.run(&["--tmpfs", "/x:purple"], &["true"]).fails(125, "purple");
}

#[test]
fn an_anonymous_volume_starts_with_what_the_image_has_there() {
    let case = Case::new();
    let script = "cat /var/log/seed && echo new > /var/log/new && cat /var/log/new";
    assert_eq!(case.run(&["-v", "/var/log"], &["sh", "-c", script]).ok(), "seed\nnew\n");
    assert_eq!(
        case.run(&["--read-only", "-v", "/var/log"], &["probe", "try", "create", "/var/log/x"]).ok(),
        "ok\n"
    );
    case.run(&["-v", "some-name:/data"], &["true"]).fails(125, "some-name");
}

#[test]
fn later_mounts_may_lie_in_earlier_ones() {
    let case = Case::new();
    let (outer, inner) = (case.subdir("outer"), case.file("inner", "inner"));
    let flags = ["-v", &format!("{inner}:/a/b/c"), "-v", &format!("{outer}:/a")];
    // Shallow targets come first whatever the order on the command line.
    assert_eq!(case.run(&flags, &["cat", "/a/b/c"]).ok(), "inner");
}

#[test]
fn etc_files_are_made() {
    let case = Case::new();
    let hosts = case.run(&["-h", "ship"], &["cat", "/etc/hosts"]).ok();
    assert!(hosts.lines().any(|line| line.starts_with("127.0.0.1\tlocalhost")), "{hosts}");
    // The container's own name resolves, as everywhere.
    assert!(hosts.lines().any(|line| line.split_whitespace().any(|word| word == "ship")), "{hosts}");
    assert!(hosts.lines().any(|line| line.starts_with("::1") && line.contains("localhost")), "{hosts}");
    let inside = case.run(&["--network", "host"], &["cat", "/etc/resolv.conf"]).ok();
    let servers = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("nameserver")).map(str::to_owned).collect()
    };
    assert_eq!(servers(&inside), servers(&fs::read_to_string("/etc/resolv.conf").expect("the host's")));
    let modes =
        case.run(&[], &["stat", "-c", "%a %u", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]).ok();
    assert_eq!(modes, "644 0\n644 0\n644 0\n");
    assert_eq!(case.attempt(&[], &["open-w", "/etc/hosts"]), ["ok"]);
}

#[test]
fn a_bind_mount_replaces_an_etc_file() {
    let case = Case::new();
    let file = case.file("hosts", "mine\n");
    assert_eq!(case.run(&["-v", &format!("{file}:/etc/hosts")], &["cat", "/etc/hosts"]).ok(), "mine\n");
}

#[test]
fn a_device_is_given_with_the_rights_asked_for() {
    let case = Case::new();
    let kmsg = fs::metadata("/dev/kmsg").map(|meta| meta.rdev());
    need!(kmsg.is_ok(), "/dev/kmsg");
    let node = ["open-w", "/dev/kmsg", "node", "/tmp/k", "c", "1", "11", "open-w", "/tmp/k"];
    assert_eq!(case.attempt(&[], &node), ["ENOENT", "ok", "EPERM"]);
    // To read the kernel's log takes a capability besides.
    let flags = ["--cap-add", "SYSLOG", "--device", "/dev/kmsg"];
    assert_eq!(case.attempt(&flags, &["open-r", "/dev/kmsg", "open-w", "/dev/kmsg"]), ["ok", "ok"]);
    let flags = ["--cap-add", "SYSLOG", "--device", "/dev/kmsg:/dev/log/kernel:r"];
    let verdicts = case.attempt(&flags, &["open-r", "/dev/log/kernel", "open-w", "/dev/log/kernel"]);
    assert_eq!(verdicts, ["ok", "EPERM"]);
    case.run(&["--device", "/dev/no-such-device"], &["true"]).fails(125, "/dev/no-such-device");
    case.run(&["--device", "/dev/kmsg:/dev/kmsg:q"], &["true"]).fails(125, "q");
    case.run(&["--device", "/etc/passwd"], &["true"]).fails(125, "/etc/passwd");
}

#[test]
fn sysctls_of_the_containers_namespaces_are_set() {
    let case = Case::new();
    let flags = [
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl=kernel.shm_rmid_forced=1",
        "--sysctl",
        "fs.mqueue.msg_max=11",
    ];
    let read = [
        "read",
        "/proc/sys/net/ipv4/ip_forward",
        "read",
        "/proc/sys/kernel/shm_rmid_forced",
        "read",
        "/proc/sys/fs/mqueue/msg_max",
    ];
    assert_eq!(case.attempt(&flags, &read), ["1", "1", "11"]);
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let case = Case::new();
    case.run(&["--sysctl", "kernel.panic=1"], &["true"]).fails(125, "kernel.panic");
    case.run(&["--sysctl", "vm.swappiness=1"], &["true"]).fails(125, "vm.swappiness");
    case.run(&["--network=host", "--sysctl", "net.ipv4.ip_forward=1"], &["true"])
        .fails(125, "net.ipv4.ip_forward");
    case.run(&["--ipc=host", "--sysctl", "kernel.shm_rmid_forced=1"], &["true"])
        .fails(125, "kernel.shm_rmid_forced");
    case.run(&["--sysctl", "net.no.such=1"], &["true"]).fails(125, "net.no.such");
    case.run(&["--sysctl", "net.ipv4.ip_forward"], &["true"]).fails(125, "net.ipv4.ip_forward");
}

#[test]
fn a_symlink_in_the_path_of_a_source_is_followed_on_the_host() {
    let case = Case::new();
    let dir = case.subdir("data");
    fs::write(case.dir.join("data/file"), "there").expect("a file");
    let link = case.dir.join("link");
    symlink(&dir, &link).expect("a link");
    assert_eq!(case.run(&["-v", &format!("{}:/data", link.display())], &["cat", "/data/file"]).ok(), "there");
}
