//! Attacks on the file tree that the OCI runtime puts together: by what an image holds, by what a configuration makes of
//! it, and by another container that changes a directory which both have, while the launch is under way. Each has to
//! fail closed: no container, or one that is as it should be.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use serde_json::{Value, json};

use crate::harness::live::{Live, Output};
use crate::harness::{parse, programs};
use crate::oci::Bundle;

/// How often a race is run.
const RUNS: usize = 40;

/// A directory of the host with one file that containers must never reach.
pub(crate) fn treasure(bundle: &Bundle) -> PathBuf {
    bundle.file("treasure/gold", "gold").parent().expect("a directory").to_owned()
}

#[track_caller]
pub(crate) fn is_untouched(treasure: &Path) {
    let names: Vec<_> =
        fs::read_dir(treasure).expect("the treasure").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["gold"], "something was put there");
    assert_eq!(fs::read_to_string(treasure.join("gold")).expect("gold"), "gold");
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    let options = [&["bind"], options].concat();
    json!({ "destination": destination, "source": source, "options": options })
}

/// Takes the usual mount at `destination` out of the configuration.
pub(crate) fn without(bundle: &mut Bundle, destination: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| !mount["destination"].as_str().unwrap_or_default().starts_with(destination));
}

/// Creates and runs the container; what it printed, or why there is none.
fn try_run(bundle: &Bundle, flags: &[&str]) -> Result<String, Output> {
    let created = bundle.try_create(flags);
    if created.code != 0 {
        return Err(created);
    }
    let pid = bundle.pid();
    let started = bundle.runtime(&["start", &bundle.id]);
    let text = bundle.rest();
    bundle.wait(pid);
    bundle.delete();
    if started.code == 0 { Ok(text) } else { Err(started) }
}

/// Runs the container again and again while another thread does `disturb` without end.
fn race(bundle: &Bundle, disturb: impl Fn() + Sync) -> Vec<Result<String, Output>> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                disturb();
            }
        });
        let found = (0..RUNS).map(|_| try_run(bundle, &[])).collect();
        // Before anything is judged: a failure must not leave the thread behind.
        is_over.store(true, Ordering::Relaxed);
        found
    })
}

/// Runs a shell script on the host, in a mount namespace where it may mount: its arguments are the bundle's directory, the
/// runtime, and the id of the container.
fn apart(bundle: &Bundle, script: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(&bundle.dir).arg(programs::runtime()).arg(&bundle.id);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Live::spawn(command, None, Duration::from_secs(60)).finish().stdout
}

/// rename(2), `RENAME_EXCHANGE`.
fn exchange(a: &Path, b: &Path) {
    let [a, b] = [a, b].map(|path| CString::new(path.as_os_str().as_bytes()).expect("a path"));
    let (here, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both are terminated texts that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_renameat2, here, a.as_ptr(), here, b.as_ptr(), flags) };
    assert_eq!(done, 0, "exchange two names: {}", io::Error::last_os_error());
}

#[test]
fn a_fake_null_device_in_the_image_is_no_device() {
    let mut bundle = Bundle::new();
    without(&mut bundle, "/dev");
    fs::create_dir_all(bundle.inside("/dev")).expect("a directory");
    fs::write(bundle.inside("/dev/null"), "fake").expect("a file");
    bundle.create_fails();
    assert_eq!(fs::read_to_string(bundle.inside("/dev/null")).expect("the file"), "fake");
}

#[test]
fn a_fake_null_device_does_not_hide_anything() {
    let mut bundle = Bundle::new();
    without(&mut bundle, "/dev");
    let fake = bundle.file("dev/null", "fake").parent().expect("a directory").to_owned();
    fs::write(bundle.inside("/secret"), "secret").expect("a file");
    bundle.mount(bind(&fake, "/dev", &[])).set("/linux/maskedPaths", json!(["/secret", "/proc/timer_list"]));
    bundle.args(&["/bin/sh", "-c", "stat -c %t:%T /secret /proc/timer_list; cat /secret"]);
    assert_eq!(bundle.run(), "1:3\n1:3\n");
    assert_eq!(fs::read_to_string(fake.join("null")).expect("the file"), "fake");
}

#[test]
fn a_fake_null_device_of_the_host_is_not_used() {
    let mut bundle = Bundle::new();
    bundle.file("fake", "fake");
    fs::write(bundle.inside("/secret"), "secret").expect("a file");
    bundle.set("/linux/maskedPaths", json!(["/secret"])).args(&["/bin/cat", "/secret"]).write();
    let script = "mount --bind $1/fake /dev/null; $2 --root $1/state run --bundle $1 $3 2>&1 < /dev/zero";
    assert_eq!(apart(&bundle, script), "skiff-runtime: /dev/null is not the null device\n");
    assert_eq!(fs::read_to_string(bundle.dir.join("fake")).expect("the file"), "fake");
}

#[test]
fn symlinks_of_the_image_in_the_place_of_kernel_files_are_refused() {
    for name in ["proc", "sys", "dev"] {
        for target in ["treasure", "bin", "/", "nowhere"] {
            let bundle = Bundle::new();
            let treasure = treasure(&bundle);
            let place = bundle.inside(name);
            let _absent = fs::remove_dir_all(&place);
            let target = if target == "treasure" { treasure.as_path() } else { Path::new(target) };
            symlink(target, &place).expect("a link");
            bundle.create_fails();
            is_untouched(&treasure);
        }
    }
}

#[test]
fn a_directory_on_the_way_that_becomes_a_link_leads_nowhere() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let (shared, data) = (bundle.subdir("shared"), bundle.subdir("data"));
    fs::create_dir(shared.join("point")).expect("a directory");
    let links =
        [treasure.as_path(), Path::new("/proc/sys"), Path::new("../../../../../.."), Path::new("/dev")];
    for (number, link) in links.iter().enumerate() {
        symlink(link, shared.join(format!("link{number}"))).expect("a link");
    }
    bundle.mount(bind(&shared, "/a", &[])).mount(bind(&data, "/a/point/made", &[]));
    bundle.set("/linux/readonlyPaths", json!(["/proc/sys"]));
    let script = "grep -c ' /proc/.*/made \\| /dev/made ' /proc/self/mountinfo; probe try open-w /proc/sys/kernel/core_pattern";
    bundle.args(&["/bin/sh", "-c", script]);
    let runs = race(&bundle, || {
        for number in 0..links.len() {
            exchange(&shared.join("point"), &shared.join(format!("link{number}")));
        }
    });
    for text in runs.iter().flatten() {
        assert!(["0\nEROFS\n", "1\nEROFS\n"].contains(&text.as_str()), "{text}");
        assert!(!text.starts_with('1') || links[3] == Path::new("/dev"), "{text}");
    }
    is_untouched(&treasure);
    assert!(!Path::new("/made").exists());
}

#[test]
fn a_link_into_proc_is_no_place_for_a_mount() {
    for (link, destination) in
        [("/proc/self/attr", "/way"), ("proc", "/way/sys"), ("/proc/self/fd", "/way"), ("proc/1", "/way/cwd")]
    {
        let mut bundle = Bundle::new();
        symlink(link, bundle.inside("/way")).expect("a link");
        bundle.mount(json!({ "destination": destination, "type": "tmpfs" })).create_fails();
    }
}

#[test]
fn nothing_but_procfs_is_mounted_on_proc() {
    let mut bundle = Bundle::new();
    let data = bundle.subdir("data");
    bundle.mount(bind(&data, "/proc", &[])).create_fails();
    for mount in [
        json!({ "destination": "/proc", "type": "tmpfs" }),
        json!({ "destination": "/proc/sys", "type": "tmpfs" }),
        json!({ "destination": "/etc/../proc/self/attr", "type": "tmpfs" }),
        bind(&data, "/proc/1", &[]),
        bind(&data, "/proc/sys/net", &[]),
    ] {
        Bundle::with([("/mounts/-", mount)]).create_fails();
    }
}

#[test]
fn stand_ins_for_files_of_proc_can_be_mounted() {
    let mut bundle = Bundle::new();
    let stand_in = bundle.file("uptime", "1.0 1.0\n");
    bundle.mount(bind(&stand_in, "/proc/uptime", &[])).args(&["/bin/cat", "/proc/uptime"]);
    assert_eq!(bundle.run(), "1.0 1.0\n");
}

#[test]
fn kernel_parameters_do_not_go_where_the_bundle_has_put_another_procfs() {
    let mut bundle = Bundle::new();
    without(&mut bundle, "/proc");
    // The host's, in which this process has another number.
    bundle.mount(json!({ "destination": "/proc", "source": "/proc", "options": ["rbind"] }));
    bundle.set("/linux/sysctl", json!({ "net.ipv4.ip_default_ttl": "77" }));
    bundle.set("/process/oomScoreAdj", json!(321));
    bundle.args(&["/bin/sleep", "1000"]);
    let score = || fs::read_to_string("/proc/1/oom_score_adj").expect("the first process");
    let before = score();
    let pid = bundle.create().pid();
    let own = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("the container's process");
    let after = score();
    bundle.end();
    assert_eq!((own.as_str(), after), ("321\n", before));
}

#[test]
fn what_lies_over_files_of_the_hosts_procfs_is_not_written_to() {
    let mut bundle = Bundle::new();
    bundle.file("gold", "gold");
    bundle.set("/process/oomScoreAdj", json!(321)).args(&["/bin/true"]).write();
    let script =
        "mount --bind $1/gold /proc/$$/oom_score_adj; exec $2 --root $1/state run --bundle $1 $3 2>&1";
    let refusal = "skiff-runtime: set oom_score_adj to 321: Invalid cross-device link\n";
    assert_eq!(apart(&bundle, script), refusal);
    assert_eq!(fs::read_to_string(bundle.dir.join("gold")).expect("the file"), "gold");
}

#[test]
fn kernel_parameters_are_set_without_a_procfs_in_the_bundle() {
    let mut bundle = Bundle::new();
    without(&mut bundle, "/proc");
    bundle.set("/linux/sysctl", json!({ "kernel.msgmax": "4097" })).args(&["/bin/sleep", "1000"]);
    let pid = bundle.create().pid();
    let namespace = format!("--ipc=/proc/{pid}/ns/ipc");
    let seen = std::process::Command::new("nsenter")
        .args([&namespace, "cat", "/proc/sys/kernel/msgmax"])
        .output()
        .expect("nsenter");
    bundle.end();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "4097\n");
}

#[test]
fn a_masked_file_that_is_swapped_meanwhile_is_masked_or_nothing_runs() {
    let mut bundle = Bundle::new();
    let shared = bundle.subdir("shared");
    for name in ["a", "b"] {
        bundle.file(&format!("shared/{name}/secret"), "secret\n");
    }
    bundle.mount(bind(&shared, "/a", &[])).set("/linux/maskedPaths", json!(["/a/a/secret"]));
    bundle.args(&["/bin/cat", "/a/a/secret"]);
    let mut refused = 0;
    // One of the two has been at that place when it was masked. Where the other was seen there afterwards, nothing runs:
    // sooner or later it is, where the two programs run at the same time.
    let at_once = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    for _ in 0..if at_once { 20 } else { 1 } {
        for run in race(&bundle, || exchange(&shared.join("a"), &shared.join("b"))) {
            match run {
                Ok(text) => assert!(["", "secret\n"].contains(&text.as_str()), "{text}"),
                Err(output) => {
                    assert!(output.stderr.contains("mask /a/a/secret"), "{output}");
                    refused += u32::from(output.stderr.contains("Stale file handle"));
                }
            }
        }
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0 || !at_once, "what was masked was never looked at again");
    // Undisturbed it is hidden indeed.
    assert_eq!(bundle.run(), "");
}

#[test]
fn a_masked_link_hides_nothing_of_the_host() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    symlink("../treasure/gold", bundle.inside("/way")).expect("a link");
    symlink("secret", bundle.inside("/inner")).expect("a link");
    fs::write(bundle.inside("/secret"), "secret").expect("a file");
    bundle.set("/linux/maskedPaths", json!(["/way", "/inner", "/absent/file", "/secret/below"]));
    bundle.args(&["/bin/cat", "/secret"]);
    // What the link leads to within the root is what is meant.
    assert_eq!(bundle.run(), "");
    is_untouched(&treasure);
}

#[test]
fn a_path_is_read_only_wherever_it_lies() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.inside("/kept")).expect("a directory");
    bundle.set("/linux/readonlyPaths", json!(["/kept", "/absent", "/bin"]));
    let verdicts = bundle.attempt(&["create", "/kept/a", "create", "/bin/a", "create", "/free"]);
    assert_eq!(verdicts, ["EROFS", "EROFS", "ok"]);
}

#[test]
fn a_source_that_is_swapped_meanwhile_is_one_or_the_other() {
    let mut bundle = Bundle::new();
    let (one, other) = (bundle.file("one/name", "one"), bundle.file("other", "other"));
    let one = one.parent().expect("a directory").to_owned();
    let place = bundle.dir.join("place");
    symlink(&one, &place).expect("a link");
    let second = bundle.dir.join("second");
    symlink(&other, &second).expect("a link");
    bundle.mount(bind(&place, "/bound", &[]));
    bundle.args(&["/bin/sh", "-c", "if test -d /bound; then cat /bound/name; else cat /bound; fi"]);
    let mut texts = std::collections::BTreeSet::new();
    for run in race(&bundle, || exchange(&place, &second)) {
        match run {
            Ok(text) => drop(texts.insert(text)),
            // The mount point is there from an earlier run, and of the other kind.
            Err(output) => assert!(output.stderr.contains("bind "), "{output}"),
        }
    }
    assert!(texts.iter().all(|text| ["one", "other"].contains(&text.as_str())), "{texts:?}");
}

#[test]
fn what_a_tmpfs_covers_is_copied_as_it_is() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let up = bundle.inside("/up");
    fs::create_dir_all(up.join("deep/er")).expect("directories");
    fs::write(up.join("deep/er/file"), "text").expect("a file");
    symlink("../../treasure/gold", up.join("link")).expect("a link");
    symlink(treasure.join("gold"), up.join("far")).expect("a link");
    std::os::unix::fs::chown(up.join("deep"), Some(3), Some(4)).expect("chown");
    nix::unistd::mkfifo(&up.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o640)).expect("a pipe");
    let options = ["tmpcopyup", "nosuid"];
    bundle.mount(json!({ "destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": options }));
    let script =
        "cd /up; cat deep/er/file; echo; readlink link; stat -c '%u %g %F' deep pipe; rm -r deep; cat far";
    bundle.args(&["/bin/sh", "-c", script]);
    assert_eq!(bundle.run(), "text\n../../treasure/gold\n3 4 directory\n0 0 fifo\n");
    assert!(up.join("deep/er/file").exists(), "the original is gone");
    is_untouched(&treasure);
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers_unless_one_is_given() {
    let mut bundle = Bundle::new();
    for name in ["a", "b"] {
        fs::create_dir(bundle.inside(name)).expect("a directory");
        fs::set_permissions(bundle.inside(name), fs::Permissions::from_mode(0o2750)).expect("chmod");
    }
    for (destination, options) in [("/a", vec!["nosuid"]), ("/b", vec!["mode=711"]), ("/new", vec![])] {
        let mount =
            json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options });
        bundle.mount(mount);
    }
    bundle.args(&["/bin/stat", "-c", "%a", "/a", "/b", "/new"]);
    assert_eq!(bundle.run(), "2750\n711\n1777\n");
}

#[test]
fn a_moved_root_has_no_way_to_the_host() {
    let mut bundle = Bundle::new();
    let treasure = treasure(&bundle);
    let up = "../../../../../../../../..";
    let gold = format!("{}/gold", treasure.display());
    let operations = ["chroot", "/tmp", "chdir", up, "chroot", ".", "read", &gold, "read", &gold[1..]];
    bundle.args(&[&["/bin/probe", "try"][..], &operations].concat());
    fs::create_dir_all(bundle.inside("/tmp")).expect("a directory");
    let text = try_run(&bundle, &["--no-pivot"]).expect("a container");
    assert_eq!(text, "ok\nok\nok\nENOENT\nENOENT\n");
    bundle.args(&["/bin/sh", "-c", "cut -d ' ' -f 5 /proc/self/mountinfo | sort"]);
    let moved = try_run(&bundle, &["--no-pivot"]).expect("a container");
    assert_eq!(moved, bundle.run(), "other mounts than with a pivot");
}

#[test]
fn who_uncovers_the_hosts_root_finds_none_of_its_mounts() {
    let mut bundle = Bundle::new();
    bundle.capable(&["CAP_SYS_ADMIN"]).args(&["/bin/sh", "-c", "umount -l / && exec probe wait"]);
    assert_eq!(bundle.try_create(&["--no-pivot"]).code, 0, "{}", bundle.errors());
    bundle.start();
    assert_eq!(bundle.line(), "ready", "{}", bundle.errors());
    let namespace = format!("--mount=/proc/{}/ns/mnt", bundle.pid());
    let look = "test -e /proc/self || echo nothing; test -e /sys/fs || echo nothing; echo root";
    let found = Command::new("nsenter").args([&namespace, "sh", "-c", look]).output().expect("nsenter");
    bundle.end();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "nothing\nnothing\nroot\n");
}

#[test]
fn what_a_hook_mounts_in_the_root_is_the_containers() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.inside("/mnt")).expect("a directory");
    let place = bundle.inside("/mnt").display().to_string();
    let hook = json!({ "path": "/bin/mount", "args": ["mount", "-t", "tmpfs", "hooked", place] });
    bundle.set("/hooks/createContainer", json!([hook]));
    bundle.args(&["/bin/sh", "-c", "grep -o 'hooked /mnt tmpfs' /proc/self/mounts"]);
    assert_eq!(bundle.run(), "hooked /mnt tmpfs\n");
}

#[test]
fn the_hosts_root_can_be_a_containers() {
    let mut bundle = Bundle::with([("/root", json!({ "path": "/", "readonly": true }))]);
    bundle.args(&["/bin/sh", "-c", "cat /proc/1/comm; echo a 2> /dev/null > /made || echo read-only"]);
    assert_eq!(bundle.run(), "sh\nread-only\n");
}

#[test]
fn flags_of_the_hosts_mounts_stay_in_a_user_namespace() {
    let mut bundle = in_user_namespace();
    let data = bundle.subdir("data");
    bundle.mount(bind(&data, "/data", &[]));
    bundle
        .args(&["/bin/probe", "try", "create", "/data/a", "remount-rw", "/data", "create", "/data/a"])
        .write();
    let script =
        "mount --bind $1/data $1/data && mount -o remount,bind,ro $1/data && $2 --root $1/state run -b $1 $3";
    assert_eq!(apart(&bundle, script), "EROFS\nEPERM\nEROFS\n");
}

#[test]
fn flags_of_mounts_that_only_the_host_finds_stay_in_a_user_namespace() {
    let mut bundle = in_user_namespace();
    let (within, data) = (bundle.subdir("within"), bundle.subdir("within/data"));
    // Of a user that is none there.
    std::os::unix::fs::chown(&within, Some(70_000), None).expect("chown");
    fs::set_permissions(&within, fs::Permissions::from_mode(0o700)).expect("chmod");
    bundle.mount(bind(&data, "/data", &[]));
    bundle
        .args(&["/bin/probe", "try", "create", "/data/a", "remount-rw", "/data", "create", "/data/a"])
        .write();
    let script = "mount --bind $1/within/data $1/within/data && mount -o remount,bind,ro $1/within/data \
                  && $2 --root $1/state run -b $1 $3";
    assert_eq!(apart(&bundle, script), "EROFS\nEPERM\nEROFS\n");
}

#[test]
fn what_a_user_namespace_mounts_on_a_shared_directory_does_not_reach_the_host() {
    for options in [&["rshared"][..], &["rshared", "idmap"]] {
        let mut bundle = in_user_namespace();
        let data = bundle.subdir("data");
        bundle.mount(bind(&data, "/data", options));
        bundle.args(&["/bin/probe", "try", "mount", "tmpfs", "/data", "create", "/data/a"]).write();
        let script = "mount --bind $1/data $1/data && mount --make-shared $1/data \
                      && $2 --root $1/state run -b $1 $3 \
                      && ls $1/data | wc -l && grep -c \" $1/data \" /proc/self/mountinfo";
        assert_eq!(apart(&bundle, script), "ok\nok\n0\n1\n", "{options:?}");
    }
}

/// A bundle whose root may mount and is the host's, but with a right to files of its own users only.
fn in_user_namespace() -> Bundle {
    let mut bundle = Bundle::new();
    let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    bundle.set("/linux/namespaces/-", json!({ "type": "user" }));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.capable(&["CAP_SYS_ADMIN"]);
    bundle
}

/// What a program sees in a container of this bundle that is run without these system calls.
fn see_without(bundle: &Bundle, calls: &str) -> Value {
    let mut command = Command::new(programs::probe());
    let state = bundle.dir.join("state");
    command.args(["with", &format!("deny={calls}"), "--"]).arg(programs::runtime());
    command.arg("--root").arg(state).args(["run", "--bundle"]).arg(&bundle.dir).arg(&bundle.id);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut seen = parse(&Live::spawn(command, None, Duration::from_secs(60)).finish().ok());
    let mounts = seen["mounts"].as_array_mut().expect("mounts");
    mounts.sort_by_key(|mount| mount["target"].to_string());
    for mount in mounts {
        // The flag of mount(2) is for both, the mount and the file system.
        let text = mount["super"].as_str().unwrap_or_default();
        mount["super"] = text.trim_start_matches(['r', 'o', 'w']).into();
    }
    json!([seen["mounts"], seen["dev"]])
}

#[test]
fn the_tree_is_the_same_without_the_new_mount_calls() {
    let mut bundle = Bundle::new();
    let data = bundle.subdir("data");
    fs::create_dir(bundle.inside("/up")).expect("a directory");
    bundle.mount(bind(&data, "/data", &["ro", "nosuid", "noatime"]));
    let options = ["tmpcopyup", "noexec", "sync", "size=64k"];
    bundle.mount(json!({ "destination": "/up", "type": "tmpfs", "source": "up", "options": options }));
    bundle.mount(json!({ "destination": "/up", "options": ["remount", "nodev", "size=128k"] }));
    bundle.set("/linux/maskedPaths", json!(["/proc/timer_list", "/proc/acpi", "/bin/sh", "/etc"]));
    bundle.set("/linux/readonlyPaths", json!(["/proc/sys", "/data"]));
    bundle.config["root"]["readonly"] = json!(true);
    bundle.write();
    let modern = see_without(&bundle, "pidfd_getfd");
    for calls in [
        "fsopen,fsconfig,fsmount,fspick,move_mount,open_tree,mount_setattr",
        "mount_setattr",
        "fsopen",
        "move_mount",
    ] {
        let old = see_without(&bundle, calls);
        assert_eq!(old, modern, "without {calls}");
    }
}

#[test]
fn a_read_only_dev_has_its_devices() {
    let mut bundle = Bundle::new();
    without(&mut bundle, "/dev");
    let options = ["nosuid", "mode=755", "ro"];
    bundle.mount(json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options }));
    bundle.mount(json!({ "destination": "/dev/made", "type": "tmpfs", "source": "tmpfs" }));
    let verdicts = bundle.attempt(&["open-r", "/dev/null", "create", "/dev/a", "create", "/dev/made/a"]);
    assert_eq!(verdicts, ["ok", "EROFS", "ok"]);
}

#[test]
fn mounts_of_the_container_do_not_reach_the_host() {
    let mut bundle = Bundle::new();
    bundle.args(&["/bin/sleep", "1000"]).write();
    // Shared, as every mount is where systemd runs.
    let script = "mount --bind $1/rootfs $1/rootfs && mount --make-shared $1/rootfs && $2 --root $1/state create -b $1 $3 \
                  > $1/out && grep -c \" $1/rootfs/\" /proc/self/mountinfo; $2 --root $1/state delete --force $3";
    assert_eq!(apart(&bundle, script), "0\n");
}
