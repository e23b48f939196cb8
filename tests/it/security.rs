//! Attacks. Each test is one that has worked against some container runtime, or an attempt at a right that a container
//! must not have.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::harness::pty::Terminal;
use crate::harness::world::{World, destroy};
use crate::harness::{Case, fixture, programs};
use crate::peers::world::eventually;

/// A directory of the host with one file that containers must never reach.
fn treasure(case: &Case) -> PathBuf {
    let dir = case.dir.join("treasure");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("gold"), "gold").expect("a file");
    dir
}

/// Asserts that the treasure is as it was.
#[track_caller]
fn is_untouched(treasure: &Path) {
    let names: Vec<_> =
        fs::read_dir(treasure).expect("the treasure").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["gold"], "something was put there");
    assert_eq!(fs::read_to_string(treasure.join("gold")).expect("gold"), "gold");
}

#[test]
fn the_launchers_binary_cannot_be_overwritten() {
    let case = Case::new();
    let launcher = case.dir.join("launcher-copy");
    // A little longer than the original, to be told from the launchers and inits of other tests by its size.
    let copy = [fs::read(programs::skiff()).expect("skiff"), b"copy".to_vec()].concat();
    fs::write(&launcher, copy).expect("copy skiff");
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).expect("chmod");
    let before = Sha256::digest(fs::read(&launcher).expect("the copy"));
    let root = case.own_root();
    let bait = root.join("bait");
    fs::write(&bait, "#!/proc/self/exe\n").expect("the bait");
    fs::set_permissions(&bait, fs::Permissions::from_mode(0o755)).expect("chmod");
    let rootfs = format!("rootfs:{}", root.display());

    // One container waits, in the host's PID namespace, for the other to become the launcher's program.
    let hunt = format!("echo ready; exec probe hunt {}", fs::metadata(&launcher).expect("the copy").len());
    let mut hunter = case.command(&["--pid=host"], &["sh", "-c", &hunt]).start();
    hunter.until("ready");
    for _ in 0..30 {
        let _any_end = case.skiff(&["run", "--rm", &rootfs, "/bait"]).program(&launcher).output();
    }
    let verdict = hunter.finish().ok();
    assert!(["ready\nEROFS\n", "ready\nEPERM\n"].contains(&verdict.as_str()), "{verdict}");
    assert_eq!(Sha256::digest(fs::read(&launcher).expect("the copy")), before, "the launcher was changed");
}

#[test]
fn the_spawners_binary_cannot_be_overwritten() {
    let world = World::new();
    let launcher = world.0.dir.join("launcher-copy");
    fs::copy(programs::skiff(), &launcher).expect("copy skiff");
    world.0.skiff(&["run", "--rm", fixture::small_root(), "true"]).program(&launcher).output().ok();
    let [daemon, spawner] = world.processes();
    // What a container whose program is `/proc/self/exe` may have opened.
    let held = fs::File::open(format!("/proc/{spawner}/exe")).expect("its program");
    destroy(daemon);
    destroy(spawner);
    let write = || {
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        fs::OpenOptions::new().write(true).open(path).expect_err("it is written to").raw_os_error()
    };
    // Until nothing is run from it any more.
    assert!(eventually(|| write() != Some(libc::ETXTBSY)));
    assert!([Some(libc::EROFS), Some(libc::EPERM)].contains(&write()), "{:?}", write());
}

#[test]
fn a_running_launcher_cannot_be_opened_from_the_hosts_pid_namespace() {
    let case = Case::new();
    let waiting = case.waiting(&[]);
    let pid = waiting.pid();
    let paths = ["exe", "root", "cwd", "environ", "fd/0"].map(|name| format!("/proc/{pid}/{name}"));
    let operations =
        ["open-r", &paths[0], "list", &paths[1], "list", &paths[2], "read", &paths[3], "open-r", &paths[4]];
    assert_eq!(case.attempt(&["--pid=host"], &operations), ["EACCES"; 5]);
    let pid = pid.to_string();
    assert_eq!(case.attempt(&["--pid=host"], &["ptrace", &pid]), ["EPERM"]);
    waiting.signal(nix::sys::signal::Signal::SIGTERM);
    waiting.finish().ok();
}

#[test]
fn no_descriptor_but_the_three_is_open_inside() {
    let case = Case::new();
    let settings = ["fd=7:/etc", "fd=3:/", "fd=200:/root", "fd=1000:/etc/passwd"];
    for flags in [&[][..], &["--init"], &["-v", "/tmp:/mnt"], &["--privileged"]] {
        let seen =
            crate::harness::parse(&case.command(flags, &["probe", "see"]).with(&settings).output().ok());
        let fds: Vec<&String> = seen["fds"].as_object().expect("descriptors").keys().collect();
        assert_eq!(fds, ["0", "1", "2"], "{flags:?}: {}", seen["fds"]);
    }
}

#[test]
fn a_working_directory_cannot_be_a_leaked_descriptor() {
    let case = Case::new();
    let treasure = treasure(&case);
    let root = case.own_root();
    symlink("/proc/self/fd/7", root.join("link")).expect("a link");
    let setting = format!("fd=7:{}", treasure.display());
    let rootfs = format!("rootfs:{}", root.display());
    let numbered = (3..24).map(|fd| format!("/proc/self/fd/{fd}"));
    for dir in numbered.chain(["/link".into(), "/proc/1/cwd".into(), ["/proc/self/root", ".."].join("/")]) {
        let words = [
            "run",
            "--rm",
            "-w",
            &dir,
            &rootfs,
            "probe",
            "try",
            "read",
            "gold",
            "read",
            "../../../etc/shadow",
            "list",
            ".",
        ];
        let output = case.skiff(&words).with(&[&setting]).output();
        let leaked = output.stdout.contains("gold") || output.stdout.contains("root:");
        assert!(!leaked, "{dir}: {output}");
        let inside = output.code == 0
            && crate::harness::parse(&case.run_root(&root, &["-w", &dir], &["probe", "see"]).ok())["cwd"]
                .as_str()
                .is_some_and(|cwd| !cwd.starts_with("(unreachable)"));
        assert!(inside || [125, 126, 127].contains(&output.code), "{dir}: {output}");
    }
    is_untouched(&treasure);
}

#[test]
fn a_fake_null_device_does_not_unmask_anything() {
    let case = Case::new();
    let root = case.own_root();
    fs::write(root.join("dev/null"), "fake").expect("a fake");
    let verdicts = case
        .run_root(
            &root,
            &[],
            &["probe", "try", "read", "/proc/timer_list", "read", "/proc/keys", "read", "/dev/null"],
        )
        .ok();
    assert_eq!(verdicts, "\n\n\n");
    fs::remove_file(root.join("dev/null")).expect("remove the fake");
    symlink("/proc/sys/kernel/core_pattern", root.join("dev/null")).expect("a link");
    let verdicts = case
        .run_root(
            &root,
            &[],
            &["probe", "try", "read", "/proc/timer_list", "read", "/proc/keys", "read", "/dev/null"],
        )
        .ok();
    assert_eq!(verdicts, "\n\n\n");
}

#[test]
fn directories_of_the_image_that_are_symlinks_lead_nowhere_outside() {
    for name in ["dev", "proc", "sys", "etc", "tmp"] {
        let case = Case::new();
        let treasure = treasure(&case);
        let root = case.own_root();
        fs::remove_dir_all(root.join(name)).expect("remove a directory");
        symlink(&treasure, root.join(name)).expect("a link");
        let see_proc =
            ["probe", "try", "read", "/proc/timer_list", "open-w", "/proc/sys/kernel/core_pattern"];
        let output = case.run_root(&root, &["-w", "/tmp/made"], &see_proc);
        is_untouched(&treasure);
        // Either refused, or resolved inside the root and still masked.
        let masked = output.code == 0 && output.stdout == "\nEROFS\n";
        assert!(masked || (output.code == 125 && output.stderr.lines().count() == 1), "{name}: {output}");
    }
}

#[test]
fn what_symlinks_of_the_image_lead_to_is_made_inside() {
    let case = Case::new();
    let treasure = treasure(&case);
    let data = case.subdir("data");
    let root = case.own_root();
    let link = root.join("etc/hostname");
    let volume = format!("{data}:/runs/made");
    symlink("nowhere/deep", root.join("runs")).expect("a link");
    let outside = treasure.join("more");
    for content in ["../nowhere/resolve/name", "/nowhere/name", &format!("../../..{}", outside.display())] {
        let _missing = fs::remove_file(&link);
        symlink(content, &link).expect("a link");
        let tried = ["probe", "try", "read", "/etc/hostname", "read", "/nowhere/deep/made/x"];
        assert_eq!(
            case.run_root(&root, &["-h", "ship", "-v", &volume], &tried).ok(),
            "ship\nENOENT\n",
            "{content}"
        );
        is_untouched(&treasure);
        assert!(!outside.exists() && !root.join("nowhere").exists());
    }
    // One that never arrives.
    fs::remove_file(&link).expect("remove a link");
    symlink("hostname/hostname", &link).expect("a link");
    case.run_root(&root, &[], &["probe"]).fails(125, "symbolic links");
}

#[test]
fn a_mount_target_that_is_a_symlink_stays_inside() {
    let case = Case::new();
    let treasure = treasure(&case);
    let data = case.subdir("data");
    let root = case.own_root();
    symlink(&treasure, root.join("link")).expect("a link");
    symlink("../../../../../..", root.join("up")).expect("a link");
    symlink(treasure.join("gold"), root.join("file")).expect("a link");
    let up = format!("/up{}", treasure.display());
    for target in ["/link", "/link/made", &up, "/up/made", "/file"] {
        for flags in [
            ["-v", &format!("{data}:{target}")],
            ["--tmpfs", target],
            ["-v", target],
            ["--device", &format!("/dev/null:{target}/n")],
        ] {
            let output = case.run_root(&root, &flags, &["true"]);
            assert!([0, 125].contains(&output.code), "{output}");
            is_untouched(&treasure);
            assert!(!Path::new("/made").exists());
        }
    }
}

#[test]
fn a_mount_target_swapped_for_a_symlink_meanwhile_stays_inside() {
    let case = Case::new();
    let treasure = treasure(&case);
    let (shared, data) = (case.subdir("shared"), case.subdir("data"));
    let point = Path::new(&shared).join("point");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What another container could do to a volume that both have.
            for target in [&treasure, Path::new("/proc/sys"), Path::new("../../../../../..")].iter().cycle() {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let _raced = symlink(target, &point).and_then(|()| fs::remove_file(&point));
                let _raced = fs::create_dir(&point).and_then(|()| fs::remove_dir(&point));
            }
        });
        let outer = format!("{shared}:/a");
        let inner = format!("{data}:/a/point/made");
        let flags = ["-v", &outer, "-v", &inner, "--read-only"];
        let attempt = ["probe", "try", "open-w", "/proc/sys/kernel/core_pattern"];
        let runs: Vec<_> = (0..60).map(|_| case.command(&flags, &attempt).output()).collect();
        // Before anything is judged: a failure must not leave the thread behind.
        is_over.store(true, Ordering::Relaxed);
        for output in runs {
            assert!(output.code == 125 || output.stdout == "EROFS\n", "{output}");
        }
    });
    is_untouched(&treasure);
    assert!(!Path::new("/made").exists());
}

#[test]
fn nothing_can_be_mounted_into_proc() {
    let case = Case::new();
    let data = case.subdir("data");
    for target in ["/proc/self", "/proc/sys/net", "/proc/self/attr", "/proc/1/cwd", "/proc/thread-self/fd"] {
        case.run(&["-v", &format!("{data}:{target}")], &["true"]).fails(125, "/proc");
        case.run(&["--tmpfs", target], &["true"]).fails(125, "/proc");
    }
    let root = case.own_root();
    symlink("proc", root.join("alias")).expect("a link");
    let output = case.run_root(
        &root,
        &["-v", &format!("{data}:/alias/sys")],
        &["probe", "try", "list", "/proc/sys/kernel"],
    );
    assert!(output.code == 125 || output.stdout != "ENOENT\n", "{output}");
}

#[test]
fn paths_that_tell_about_the_host_are_masked() {
    let case = Case::new();
    let files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/interrupts",
        "/proc/latency_stats",
    ];
    for file in files.into_iter().filter(|file| Path::new(file).exists()) {
        assert_eq!(case.attempt(&[], &["read", file]), [""], "{file}");
    }
    let dirs = ["/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"];
    for dir in dirs.into_iter().filter(|dir| Path::new(dir).exists()) {
        assert_eq!(case.attempt(&[], &["list", dir, "create", &format!("{dir}/x")]), ["0", "EROFS"], "{dir}");
    }
}

#[test]
fn the_kernels_switches_are_read_only() {
    let case = Case::new();
    // Opened, never written to: a broken sandbox must not take the host down.
    let switches = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/kernel/uevent_helper",
    ];
    for switch in switches.into_iter().filter(|switch| Path::new(switch).exists()) {
        assert_eq!(case.attempt(&[], &["open-w", switch]), ["EROFS"], "{switch}");
    }
    for mount in ["/proc/sys", "/sys", "/proc/bus", "/proc/irq"] {
        assert_eq!(case.attempt(&[], &["remount-rw", mount, "umount", mount]), ["EPERM", "EPERM"], "{mount}");
    }
}

#[test]
fn systempaths_unconfined_masks_nothing() {
    let case = Case::new();
    let flags = ["--security-opt", "systempaths=unconfined"];
    assert_eq!(case.attempt(&flags, &["open-w", "/proc/sys/kernel/core_pattern"]), ["ok"]);
    assert_ne!(case.attempt(&flags, &["read", "/proc/timer_list"]), [""]);
}

#[test]
fn even_sys_admin_cannot_uncover_the_host() {
    let case = Case::new();
    let flags = ["--cap-add", "SYS_ADMIN"];
    let verdicts =
        case.attempt(&flags, &["umount", "/", "umount", "/..", "chroot", "/..", "list", "/treasure"]);
    assert_eq!(verdicts[3], "ENOENT");
    let seen = case.see(&flags);
    let targets = seen["mounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .map(|mount| mount["target"].as_str().expect("a path"));
    let known = ["/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    let strangers: Vec<&str> = targets
        .filter(|target| *target != "/" && !known.iter().any(|path| target.starts_with(path)))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn a_chroot_inside_does_not_lead_out() {
    let case = Case::new();
    let treasure = treasure(&case);
    let up = "../../../../../../../../..";
    let gold = format!("{}/gold", treasure.display());
    let verdicts =
        case.attempt(&[], &["chroot", "/tmp", "chdir", up, "chroot", ".", "read", &gold, "read", &gold[1..]]);
    assert_eq!(verdicts, ["ok", "ok", "ok", "ENOENT", "ENOENT"]);
}

#[test]
fn a_device_node_made_inside_cannot_be_opened() {
    let case = Case::new();
    // The capability to make nodes is a default one; the device filter is what keeps them shut.
    for (kind, major, minor) in [
        ("b", "254", "0"),
        ("b", "7", "0"),
        ("c", "1", "1"),
        ("c", "1", "11"),
        ("c", "10", "229"),
        ("c", "4", "0"),
    ] {
        let verdicts = case.attempt(
            &[],
            &["node", "/tmp/node", kind, major, minor, "open-r", "/tmp/node", "open-w", "/tmp/node"],
        );
        assert_eq!(verdicts, ["ok", "EPERM", "EPERM"], "{kind} {major}:{minor}");
    }
    let allowed = case.attempt(&[], &["node", "/tmp/null", "c", "1", "3", "open-w", "/tmp/null"]);
    assert_eq!(allowed, ["ok", "ok"]);
    let all = case.attempt(&["--privileged"], &["node", "/tmp/kmsg", "c", "1", "11", "open-r", "/tmp/kmsg"]);
    assert_eq!(all, ["ok", "ok"]);
}

#[test]
fn rights_that_a_container_has_not() {
    let case = Case::new();
    let operations = [
        "unshare",
        "131072",
        "unshare",
        "1073741824",
        "hostname",
        "mine",
        "keyctl",
        "bpf",
        "perf",
        "swapon",
        "lower-nice",
        "mount",
        "proc",
        "/proc",
        "personality",
        "setuid",
        "1234",
        "setuid",
        "0",
    ];
    let mut expected = vec!["EPERM"; 10];
    expected.extend(["ok", "EPERM"]);
    let mut verdicts = case.attempt(&["-u", "0"], &operations);
    // Lowering the nice value needs CAP_SYS_NICE: EACCES, says setpriority(2).
    verdicts.iter_mut().filter(|verdict| *verdict == "EACCES").for_each(|verdict| *verdict = "EPERM".into());
    assert_eq!(verdicts, expected);
}

#[test]
fn clone3_is_refused_in_a_way_that_libraries_understand() {
    // A filter cannot look behind clone3's pointer; ENOSYS makes the C library fall back to clone.
    let case = Case::new();
    assert_eq!(case.attempt(&[], &["clone3"]), ["ENOSYS"]);
    assert_eq!(case.attempt(&["--cap-add=SYS_ADMIN"], &["clone3"]), ["EINVAL"]);
}

#[test]
fn no_new_privileges_defuses_setuid_programs() {
    let case = Case::new();
    let root = case.own_root();
    fs::copy(root.join("bin/probe"), root.join("bin/raised")).expect("copy");
    fs::set_permissions(root.join("bin/raised"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    let euid = |flags: &[&str]| {
        crate::harness::parse(&case.run_root(&root, flags, &["raised", "see"]).ok())["ids"]["euid"].clone()
    };
    assert_eq!(euid(&["-u", "alice"]), 0);
    assert_eq!(euid(&["-u", "alice", "--security-opt", "no-new-privileges"]), 1234);
}

#[test]
fn a_console_planted_in_the_image_is_not_used() {
    let case = Case::new();
    let treasure = treasure(&case);
    let root = case.own_root();
    symlink(treasure.join("gold"), root.join("dev/console")).expect("a link");
    symlink(treasure.join("gold"), root.join("dev/ptmx")).expect("a link");
    let rootfs = format!("rootfs:{}", root.display());
    let command = case.skiff(&[
        "run",
        "--rm",
        "-it",
        &rootfs,
        "sh",
        "-c",
        "echo iron > /dev/console; ls -l /dev/console | cut -c1",
    ]);
    let (code, screen) = Terminal::start(&command, 24, 80).finish();
    assert_eq!((code, screen.as_str()), (0, "iron\r\nc\r\n"));
    is_untouched(&treasure);
}

#[test]
fn keys_cannot_be_typed_into_the_callers_terminal() {
    let case = Case::new();
    let command = case.command(&["-i"], &["probe", "try", "type-key"]);
    let (code, screen) = Terminal::start(&command, 24, 80).finish();
    assert_eq!(code, 0);
    assert!(["EPERM\r\n", "EIO\r\n", "ENOTTY\r\n"].contains(&screen.as_str()), "{screen}");
}

#[test]
fn control_groups_cannot_start_programs_on_the_host() {
    let case = Case::new();
    let script = "for f in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name devices.allow); do probe try open-w $f; done | sort -u";
    let verdicts = case.run(&[], &["sh", "-c", script]).ok();
    assert!(["", "EROFS\n"].contains(&verdicts.as_str()), "{verdicts}");
}

#[test]
fn the_hosts_processes_are_out_of_reach_in_the_hosts_pid_namespace() {
    let case = Case::new();
    let root = format!("/proc/{}/root", std::process::id());
    assert_eq!(case.attempt(&["--pid=host"], &["read", &[&root, "etc/hostname"].join("/")]), ["EACCES"]);
    assert_eq!(case.attempt(&[], &["kill", &std::process::id().to_string()]), ["ESRCH"]);
}

#[test]
fn the_host_image_hides_what_is_mounted_on_the_host() {
    let case = Case::new();
    let output = case
        .skiff(&[
            "run",
            "--rm",
            "host",
            &fixture::small_root_dir().join("bin/probe").display().to_string(),
            "see",
        ])
        .output();
    let seen = crate::harness::parse(&output.ok());
    assert_eq!(seen["status"]["CapEff"], "00000000a80425fb");
    assert!(seen["dev"]["/dev/kmsg"].is_null(), "{}", seen["dev"]);
}
