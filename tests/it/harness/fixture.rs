//! Root directories and images, built once by the tools that people build them with and kept between runs.
//!
//! They live in `target/fixtures`. Those that contain the probe are named after its digest, so a new probe makes new
//! ones. A fixture appears by rename when it is complete; a lock keeps two runs from building the same one.
//!
//! | name | what |
//! |---|---|
//! | small root | probe, busybox, a few users |
//! | small image | the small root and layers with every kind of change; saved in every format |
//! | Debian root | `debootstrap --variant=minbase` with Python |
//! | Debian image | the same, packed by umoci, with a configuration |

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::case::text;
use super::layout::{self, Layout};
use super::{installed, programs};

/// Raised when a fixture's contents change for another reason than a new probe.
const VERSION: u32 = 1;

/// The store that tests with big images share.
pub(crate) fn store() -> PathBuf {
    build("store", |_| {})
}

/// `rootfs:` and the directory of the small root.
pub(crate) fn small_root() -> &'static str {
    static REFERENCE: OnceLock<String> = OnceLock::new();
    REFERENCE.get_or_init(|| format!("rootfs:{}", small_root_dir().display()))
}

/// The small root: `/bin/probe`, busybox and its commands, users root, daemon and alice.
pub(crate) fn small_root_dir() -> PathBuf {
    build(&format!("root-{}", probe_digest()), write_small_root)
}

/// The small root as a tar archive.
pub(crate) fn small_tar() -> PathBuf {
    build(&format!("root-{}.tar", probe_digest()), |to| {
        fs::write(to, packed_small_root()).expect("write an archive");
    })
}

/// The small image as an OCI layout made by umoci, with two tags: `plain` has no configuration beyond `PATH`, `full`
/// has all of it. Needs umoci.
pub(crate) fn small_image() -> PathBuf {
    build(&format!("image-{}", probe_digest()), write_small_image)
}

/// The small image in another format, made by skopeo: `oci-archive` or `docker-archive`.
pub(crate) fn small_archive(format: &str) -> PathBuf {
    let image = small_image();
    build(&format!("{format}-{}.tar", probe_digest()), |to| {
        let (from, to) = (format!("oci:{}:full", image.display()), format!("{format}:{}:full", to.display()));
        tool("skopeo", &["--insecure-policy", "copy", "--quiet", &from, &to]);
    })
}

/// The small image's `full` tag with zstd layers, below an index that names other platforms first.
pub(crate) fn small_zstd_index() -> PathBuf {
    let image = small_image();
    build(&format!("zstd-{}", probe_digest()), |to| write_zstd_index(&image, to))
}

/// A Debian root with Python. Needs debootstrap and the package mirror.
pub(crate) fn debian_root_dir() -> PathBuf {
    build("debian-root", |to| {
        let (suite, mirror) = apt_source();
        let to_text = text(to);
        let mut args = vec!["--variant=minbase", "--include=python3-minimal", &suite, &to_text];
        args.extend(mirror.as_deref());
        tool("debootstrap", &args);
        let _downloads = fs::remove_dir_all(to.join("var/cache/apt/archives"));
    })
}

/// The Debian root packed by umoci, tag `latest`. Needs umoci and what the root needs.
pub(crate) fn debian_image() -> PathBuf {
    let root = debian_root_dir();
    build("debian-image", |to| {
        let image = format!("{}:latest", to.display());
        tool("umoci", &["init", "--layout", &text(to)]);
        tool("umoci", &["new", "--image", &image]);
        tool("umoci", &["insert", "--image", &image, &text(&root), "/"]);
        tool(
            "umoci",
            &["config", "--image", &image, "--config.cmd", "/bin/bash", "--config.env", "LANG=C.UTF-8"],
        );
    })
}

/// Whether all tools for the Debian fixtures are there, or the fixtures themselves.
pub(crate) fn has_debian() -> bool {
    place("debian-image").exists() || (installed("debootstrap") && installed("umoci"))
}

/// Whether all tools for the small image are there, or the fixtures themselves.
pub(crate) fn has_image_tools() -> bool {
    let made = |name: String| place(&name).exists();
    let digest = probe_digest();
    let archives = ["oci-archive", "docker-archive"].map(|format| format!("{format}-{digest}.tar"));
    let layouts = ["image", "zstd"].map(|name| format!("{name}-{digest}"));
    (installed("umoci") && installed("skopeo") && installed("zstd"))
        || archives.into_iter().chain(layouts).all(made)
}

fn place(name: &str) -> PathBuf {
    programs::target_dir().join("fixtures").join(format!("{VERSION}-{name}"))
}

fn build(name: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let done = place(name);
    if done.exists() {
        return done;
    }
    let parent = done.parent().expect("below the fixtures");
    fs::create_dir_all(parent).expect("target/fixtures");
    let lock = File::create(parent.join(format!("{name}.lock"))).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("lock a fixture");
    if !done.exists() {
        let unfinished = parent.join(format!("{name}.unfinished"));
        let _earlier = fs::remove_dir_all(&unfinished).or_else(|_| fs::remove_file(&unfinished));
        write(&unfinished);
        if !unfinished.exists() {
            fs::create_dir(&unfinished).expect("an empty fixture");
        }
        fs::rename(&unfinished, &done).expect("finish a fixture");
    }
    done
}

fn probe_digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| {
        layout::hex(&Sha256::digest(fs::read(programs::probe()).expect("the probe")))[..12].to_owned()
    })
}

/// The first eight digits of the SHA-256 of these bytes.
pub(crate) fn sha256_prefix(bytes: &[u8]) -> String {
    layout::hex(&Sha256::digest(bytes))[..8].to_owned()
}

/// Runs a tool that must succeed.
pub(crate) fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("start {program}: {e}"));
    let log = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&log));
}

/// The suite that this host itself is installed from, and the mirror, unless debootstrap is to choose its own.
fn apt_source() -> (String, Option<String>) {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let lists =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let sources: Vec<String> = lists.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let uris = sources.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("URIs: "));
    let mirror = uris.map(str::trim).find(|uri| uri.ends_with("/debian") || uri.ends_with("/debian/"));
    (codename.unwrap_or("stable").trim().to_owned(), mirror.map(str::to_owned))
}

fn write_small_root(to: &Path) {
    for dir in ["bin", "dev", "etc", "home/alice", "proc", "root", "sys", "tmp", "var/log"] {
        fs::create_dir_all(to.join(dir)).expect("a directory of the small root");
    }
    fs::set_permissions(to.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod /tmp");
    fs::copy(programs::probe(), to.join("bin/probe")).expect("copy the probe");
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, to.join("bin/busybox")).expect("copy busybox: is busybox-static installed?");
    let applets = Command::new(busybox).arg("--list").output().expect("list busybox");
    for name in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", to.join("bin").join(name)).expect("link an applet");
    }
    let file = |path: &str, text: &str| fs::write(to.join(path), text).expect("a file of the small root");
    file(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nalice:x:1234:4321::/home/alice:/bin/sh\n",
    );
    file("etc/group", "root:x:0:\ndaemon:x:1:\nvideo:x:44:alice\nalice:x:4321:\ncrew:x:777:root,alice\n");
    file("etc/plain", "plain\n");
    file("var/log/seed", "seed\n");
    nix::unistd::chown(&to.join("home/alice"), Some(1234.into()), Some(4321.into())).expect("chown a home");
}

fn write_small_image(to: &Path) {
    let plain = format!("{}:plain", to.display());
    tool("umoci", &["init", "--layout", &text(to)]);
    tool("umoci", &["new", "--image", &plain]);
    for (number, layer) in small_layers().into_iter().enumerate() {
        let tar = to.with_extension(format!("layer{number}"));
        fs::write(&tar, layer).expect("a layer");
        tool("umoci", &["raw", "add-layer", "--image", &plain, &text(&tar)]);
        fs::remove_file(&tar).expect("remove a packed layer");
    }
    tool("umoci", &["config", "--image", &plain, "--config.env", "PATH=/bin"]);
    let config = [
        ["--config.env", "PATH=/bin:/extra"],
        ["--config.env", "COLOUR=a blue=one"],
        ["--config.entrypoint", "/bin/probe"],
        ["--config.cmd", "see"],
        ["--config.user", "alice"],
        ["--config.workingdir", "/data/deep"],
        ["--config.stopsignal", "SIGUSR1"],
        ["--config.volume", "/volume"],
        ["--config.label", "ship=skiff"],
    ];
    let words: Vec<&str> = config.iter().flatten().copied().collect();
    tool("umoci", &[&["config", "--image", &plain, "--tag", "full"], &words[..]].concat());
}

fn packed_small_root() -> Vec<u8> {
    let mut root = tar::Builder::new(Vec::new());
    root.follow_symlinks(false);
    root.append_dir_all(".", small_root_dir()).expect("pack the small root");
    root.into_inner().expect("finish the root layer")
}

/// Three layers: the root; things to change; the changes. See `images.rs` for what must come out.
fn small_layers() -> [Vec<u8>; 3] {
    let mut lower = layout::Tar::new();
    lower
        .dir("data/deep")
        .file("data/kept", "lower")
        .file("data/deleted", "lower")
        .file("data/replaced", "lower");
    lower.dir("opaque").file("opaque/old", "lower").dir("opaque/olddir").file("opaque/olddir/x", "lower");
    lower
        .dir("gone")
        .file("gone/x", "lower")
        .file("file-to-dir", "lower")
        .dir("dir-to-file")
        .file("dir-to-file/x", "");
    lower.symlink("link", "data/kept").hardlink("hard", "data/kept").mode_file("setuid", "x", 0o4755);
    lower.dir("volume").file("volume/from-image", "seeded").owned_file("owned", "mine", 1234, 4321);
    lower.file(&format!("long/{}/{}", "d".repeat(90), "f".repeat(120)), "long name");

    let mut upper = layout::Tar::new();
    upper.file("data/.wh.deleted", "").file("data/replaced", "upper").file("data/added", "upper");
    upper.file("opaque/.wh..wh..opq", "").file("opaque/new", "upper").file(".wh.gone", "");
    upper
        .dir("file-to-dir")
        .file("file-to-dir/x", "upper")
        .file(".wh.dir-to-file", "")
        .file("dir-to-file", "upper");
    [packed_small_root(), lower.finish(), upper.finish()]
}

fn write_zstd_index(image: &Path, to: &Path) {
    let source = Layout::open(image);
    let mut manifest = source.manifest("full");
    let target = Layout::create(to);
    for layer in manifest["layers"].as_array_mut().expect("a manifest has layers") {
        let gzip = source.blob(layer["digest"].as_str().expect("a digest"));
        *layer = target.add(
            "application/vnd.oci.image.layer.v1.tar+zstd",
            &layout::filter(&["zstd", "-q"], &layout::filter(&["gzip", "-d"], &gzip)),
        );
    }
    let config = source.blob(manifest["config"]["digest"].as_str().expect("a digest"));
    manifest["config"] = target.add("application/vnd.oci.image.config.v1+json", &config);
    let mut ours = target.add(layout::MANIFEST, manifest.to_string().as_bytes());
    ours["platform"] = json!({ "os": "linux", "architecture": layout::ARCHITECTURE });
    let missing = |os: &str, architecture: &str| -> Value {
        let digest = format!("sha256:{}", layout::hex(&Sha256::digest(architecture)));
        json!({ "mediaType": layout::MANIFEST, "digest": digest, "size": 7, "platform": { "os": os, "architecture": architecture } })
    };
    let manifests = json!([missing("linux", "s390x"), missing("windows", layout::ARCHITECTURE), ours]);
    let index = json!({ "schemaVersion": 2, "mediaType": layout::INDEX, "manifests": manifests });
    let mut index = target.add(layout::INDEX, index.to_string().as_bytes());
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "many" });
    target.finish(&[index]);
}
