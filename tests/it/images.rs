//! Real images: every format, layers with every kind of change, the configuration, real programs at work.

use std::fs;

use serde_json::Value;

use crate::harness::layout::{Layout, Tar};
use crate::harness::{Case, fixture, need, parse, programs};

/// The references of the full small image in every format.
fn every_format() -> Vec<String> {
    let image = |kind: &str, path: std::path::PathBuf, tag: &str| format!("{kind}:{}{tag}", path.display());
    vec![
        image("oci", fixture::small_image(), ":full"),
        image("oci-archive", fixture::small_archive("oci-archive"), ""),
        image("oci-archive", fixture::small_archive("oci-archive"), ":full"),
        image("docker-archive", fixture::small_archive("docker-archive"), ""),
        image("docker-archive", fixture::small_archive("docker-archive"), ":full:latest"),
        image("oci", fixture::small_zstd_index(), ":many"),
        image("oci", fixture::small_zstd_index(), ""),
    ]
}

fn see(case: &Case, flags: &[&str], image: &str) -> Value {
    let words: Vec<&str> = ["run", "--rm"].iter().chain(flags).chain(&[image, "see"]).copied().collect();
    parse(&case.skiff(&words).output().ok())
}

#[test]
fn every_format_gives_the_same_container() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    for image in every_format() {
        let case = Case::new();
        let seen = see(&case, &[], &image);
        assert_eq!((&seen["ids"]["uid"], &seen["ids"]["gid"]), (&1234.into(), &4321.into()), "{image}");
        assert_eq!(seen["env"]["COLOUR"], "a blue=one", "{image}");
        assert_eq!(seen["env"]["PATH"], "/bin:/extra", "{image}");
        assert_eq!(seen["env"]["HOME"], "/home/alice", "{image}");
        assert_eq!(seen["cwd"], "/data/deep", "{image}");
        assert_eq!(seen["args"], serde_json::json!(["/bin/probe", "see"]), "{image}");
    }
}

#[test]
fn layers_are_stacked_with_their_whiteouts() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let script = "cd /; cat data/kept data/replaced data/added opaque/new file-to-dir/x dir-to-file link hard; \
                  ls -A data opaque; ls -d gone data/deleted opaque/old 2>&1 | sed 's/.*: \\(.*: \\)/\\1/'; \
                  stat -c '%a %u:%g %h' setuid owned hard; cat long/*/*";
    let expected = "lowerupperupperupperupperupperlowerlower\
                    data:\nadded\ndeep\nkept\nreplaced\n\nopaque:\nnew\n\
                    gone: No such file or directory\ndata/deleted: No such file or directory\n\
                    opaque/old: No such file or directory\n4755 0:0 1\n640 1234:4321 1\n644 0:0 2\nlong name";
    for image in every_format() {
        for form in ["directories", "merged"] {
            let case = Case::new();
            let words = ["run", "--rm", "-u", "root", "--entrypoint", "/bin/sh", &image, "-c", script];
            let output = case.skiff(&words).env("SKIFF_ROOTFS", form).output();
            assert_eq!(output.ok(), expected, "{image} as {form}");
        }
    }
}

#[test]
fn a_merged_image_is_written_to_like_any_other() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let image = format!("oci:{}:full", fixture::small_image().display());
    let script = "grep -c ' / / .*datadir' /proc/self/mountinfo; cd /data; chmod 600 kept; echo more >>kept; cat kept; \
                  mv added moved; rm replaced; ls; stat -c %a kept";
    let run = |form: &str| {
        let words = ["run", "--rm", "-u", "root", "--entrypoint", "/bin/sh", &image, "-c", script];
        // A daemon goes by what it was started with.
        case.skiff(&words).env("SKIFF_DAEMON", "off").env("SKIFF_ROOTFS", form).output().ok()
    };
    let (directories, merged) = (run("directories"), run("merged"));
    assert_eq!(directories.split_once('\n').map(|it| it.0), Some("0"));
    assert_eq!(directories.split_once('\n').map(|it| it.1), merged.split_once('\n').map(|it| it.1));
    // Older kernels cannot mount it, and take the directories.
    if crate::harness::kernel() >= (6, 16) {
        assert_eq!(merged.split_once('\n').map(|it| it.0), Some("1"));
    }
    assert!(merged.ends_with("600\n"), "{merged}");
}

#[test]
fn a_form_of_roots_that_does_not_exist_is_an_error() {
    let case = Case::new();
    let output = case
        .skiff(&["run", "--rm", fixture::small_root(), "true"])
        .env("SKIFF_DAEMON", "off")
        .env("SKIFF_ROOTFS", "zfs")
        .output();
    output.fails(125, "SKIFF_ROOTFS: \"zfs\" is none of auto, directories, merged");
}

#[test]
fn flags_win_over_the_images_configuration() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let image = format!("oci:{}:full", fixture::small_image().display());
    let seen = see(&case, &["-u", "0:44", "-w", "/tmp", "-e", "COLOUR=red"], &image);
    assert_eq!((&seen["ids"]["uid"], &seen["ids"]["gid"]), (&0.into(), &44.into()));
    assert_eq!((&seen["cwd"], &seen["env"]["COLOUR"]), (&"/tmp".into(), &"red".into()));
    // A new entrypoint forgets the image's command.
    let words = ["run", "--rm", "--entrypoint", "/bin/echo", &image];
    assert_eq!(case.skiff(&words).output().ok(), "\n");
    // An empty one leaves the command alone.
    let words = ["run", "--rm", "--entrypoint", "", &image, "echo", "bare"];
    assert_eq!(case.skiff(&words).output().ok(), "bare\n");
}

#[test]
fn an_images_volume_starts_with_what_is_there_and_is_forgotten() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let image = format!("oci:{}:full", fixture::small_image().display());
    let script = "cat /volume/from-image && echo x > /volume/new && grep -c ' /volume ' /proc/self/mountinfo";
    for _ in 0..2 {
        let words =
            ["run", "--rm", "--read-only", "-u", "root", "--entrypoint", "/bin/sh", &image, "-c", script];
        assert_eq!(case.skiff(&words).output().ok(), "seeded1\n");
    }
}

#[test]
fn an_images_stop_signal_is_used() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let image = format!("oci:{}:full", fixture::small_image().display());
    let words = ["run", "--rm", "--timeout", "1", "--stop-timeout", "30", &image, "trap", "USR1"];
    let output = case.skiff(&words).output();
    assert!(output.stdout.ends_with("SIGUSR1\n"), "{output}");
}

#[test]
fn an_unpacked_layer_is_used_again() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let copy = case.dir.join("copy");
    fixture::tool("cp", &["-a", &fixture::small_image().display().to_string(), &copy.display().to_string()]);
    let image = format!("oci:{}:full", copy.display());
    see(&case, &[], &image);
    let before = snapshot(&case.state);
    see(&case, &[], &image);
    // Another reference with the same layers, too.
    see(&case, &["-u", "0"], &format!("oci-archive:{}", fixture::small_archive("oci-archive").display()));
    let layers = |files: &[String]| files.iter().filter(|path| path.ends_with("/data/kept")).count();
    assert_eq!(layers(&before), 1, "{before:?}");
    assert_eq!(layers(&snapshot(&case.state)), 1);
}

#[test]
fn many_runs_may_unpack_the_same_image_at_once() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let case = Case::new();
    let image = format!("oci:{}:plain", fixture::small_image().display());
    let runs: Vec<_> =
        (0..8).map(|_| case.skiff(&["run", "--rm", &image, "cat", "/data/kept"]).start()).collect();
    for run in runs {
        assert_eq!(run.finish().ok(), "lower");
    }
}

#[test]
fn an_image_by_hand_without_compression_runs() {
    let case = Case::new();
    let mut layer = Tar::new();
    layer.dir("bin").program("bin/probe", &fs::read(programs::probe()).expect("the probe"));
    let config = serde_json::json!({ "Cmd": ["/bin/probe", "exit", "7"] });
    let image = Layout::image(&case.dir.join("image"), &config, &[layer.finish()]);
    assert_eq!(case.skiff(&["run", "--rm", &image]).output().code, 7);
    // Nobody in this image has a name, and there is no /etc.
    let words = ["run", "--rm", "-u", "12:34", &image, "/bin/probe", "try", "read", "/etc/hostname"];
    assert_eq!(case.skiff(&words).output().ok().len(), 13);
}

#[test]
fn an_image_without_a_command_says_so() {
    let case = Case::new();
    let image = Layout::image(&case.dir.join("image"), &serde_json::json!({}), &[Tar::new().finish()]);
    case.skiff(&["run", "--rm", &image]).output().fails(125, "no command");
    case.skiff(&["run", "--rm", fixture::small_root()]).output().fails(125, "no command");
}

#[test]
fn python_does_real_work_in_debian() {
    need!(fixture::has_debian(), "debootstrap and umoci");
    let case = Case::with_shared_store();
    let image = format!("oci:{}", fixture::debian_image().display());
    let program = "import os, sys, hashlib\n\
                   n = sum(len(files) for _, _, files in os.walk('/usr'))\n\
                   assert n > 1000, n\n\
                   pid = os.fork()\n\
                   if pid == 0: os._exit(3)\n\
                   assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n\
                   open('/tmp/x', 'w').write('y' * 100000)\n\
                   print(hashlib.sha256(open('/tmp/x', 'rb').read()).hexdigest()[:8], os.getuid(), os.environ['LANG'])";
    let output = case.skiff(&["run", "--rm", &image, "python3", "-c", program]).output();
    let expected = fixture::sha256_prefix(&[b'y'; 100_000]);
    assert_eq!(output.ok(), format!("{expected} 0 C.UTF-8\n"));
}

#[test]
fn a_pipeline_does_real_work_in_debian() {
    need!(fixture::has_debian(), "debootstrap and umoci");
    let case = Case::with_shared_store();
    let image = format!("oci:{}", fixture::debian_image().display());
    let script = "cat /var/lib/dpkg/status | grep ^Package: | sort | uniq | wc -l; \
                  tar cC / etc | gzip | gzip -d | tar t | grep -c passwd; dpkg -l bash | tail -1 | cut -c1-2";
    let output = case.skiff(&["run", "--rm", &image, "bash", "-euo", "pipefail", "-c", script]).output().ok();
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok_and(|packages| packages > 50), "{output}");
    assert!(lines[1].parse::<u32>().is_ok_and(|files| files >= 2), "{output}");
    assert_eq!(lines[2], "ii");
}

#[test]
fn a_debian_root_directory_runs_as_it_is() {
    need!(fixture::has_debian(), "debootstrap and umoci");
    let case = Case::new();
    let root = format!("rootfs:{}", fixture::debian_root_dir().display());
    let script = "apt-get --version | head -1 | cut -d' ' -f1; su -s /bin/sh daemon -c id; useradd -m new && ls -d /home/new";
    let output = case.skiff(&["run", "--rm", &root, "bash", "-c", script]).output().ok();
    assert_eq!(output, "apt\nuid=1(daemon) gid=1(daemon) groups=1(daemon)\n/home/new\n");
}

/// All paths below a directory.
fn snapshot(dir: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let below = |entry: fs::DirEntry| {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let mut paths = if is_dir { snapshot(&entry.path()) } else { Vec::new() };
        paths.push(entry.path().display().to_string());
        paths
    };
    entries.flat_map(below).collect()
}

#[test]
fn a_container_of_a_merged_image_becomes_an_image() {
    need!(fixture::has_image_tools(), "umoci, skopeo and zstd");
    let image = format!("oci:{}:full", fixture::small_image().display());
    let script =
        "cd /data; echo more >>kept; mv added moved; rm replaced; mkdir deep/new; chmod 600 /data/deep";
    let seen = "cd /data; cat kept; ls -d added replaced moved deep/new 2>&1 | sed 's/.*: \\(.*: \\)/\\1/'; stat -c %a deep";
    let made = |form: &str| {
        let case = Case::with_daemon();
        let run = |words: &[&str]| case.skiff(words).env("SKIFF_ROOTFS", form).output();
        let entry = ["-u", "root", "--entrypoint", "/bin/sh"];
        run(&[&["run", "--name", "box"], &entry[..], &[&image, "-c", script]].concat()).ok();
        let changed = run(&["diff", "box"]).ok();
        run(&["commit", "box", "made:1"]).ok();
        (changed, run(&[&["run", "--rm"], &entry[..], &["made:1", "-c", seen]].concat()).ok())
    };
    let (directories, merged) = (made("directories"), made("merged"));
    assert_eq!(directories, merged);
    assert!(merged.0.contains("A /data/moved\n") && merged.0.contains("D /data/replaced\n"), "{}", merged.0);
    assert!(merged.1.starts_with("lowermore\n") && merged.1.ends_with("600\n"), "{}", merged.1);
}
