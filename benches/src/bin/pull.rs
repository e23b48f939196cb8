//! `cargo xtask bench pull`: an image from a registry on loopback until its files are unpacked.
//!
//! The image is made of this host's own `/usr`: real files, in ten layers, gzipped. The arms take turns, each with an empty
//! store: `skiff pull`; `skopeo copy` and `umoci unpack`; `podman pull`; `docker pull` of a dockerd of its own. What
//! is measured ends when the command does; what is still to be written then is written before the next one begins.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_benches::lab::Lab;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;
use skiff_store::Digest;

const LAYERS: usize = 10;
/// Bytes of files in one layer.
const LAYER: u64 = 100 << 20;
/// The word by which this program runs a command and says what it took.
const MEASURE: &str = "--measure";
/// Until a daemon answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// What peak memory may be, in MiB.
const MEMORY_AIM: f64 = 150.0;
/// What time may be of that of any other.
const TIME_AIM: f64 = 0.5;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == MEASURE) {
        return measure(&words[1..]);
    }
    let options = Options::parse(words, 5)?;
    let lab = Lab::new(&[])?;
    // On a disk, as stores are.
    let place = lab.rootfs().join("pull");
    fs::create_dir_all(&place)?;
    let tools =
        [("skopeo", "--version"), ("umoci", "--version"), ("podman", "--version"), ("dockerd", "--version")];
    let mut report = Report::start("pull", &tools)?;
    let registry = Registry::start(&place)?;
    let layout = place.join("layout");
    let made = make_image(&layout)?;
    let name = format!("{}/bench/usr:1", registry.host);
    let (from, to) = (format!("oci:{}:1", layout.display()), format!("docker://{name}"));
    run(&["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &from, &to])?;
    fs::remove_dir_all(&layout)?;
    report.line(&format!(
        "\n{LAYERS} layers, {} files, {:.0} MB, {:.0} MB compressed; {} pulls of each, taking turns. Memory is the largest of any one process.\n",
        made.files,
        mega(made.bytes),
        mega(made.compressed),
        options.count
    ));
    let all = [Tool::Skiff, Tool::Umoci, Tool::Podman, Tool::Docker];
    let mut arms: Vec<Arm> =
        all.into_iter().filter(|tool| options.wants(tool.word())).map(Arm::new).collect();
    for turn in 0..options.count {
        let count = arms.len();
        for index in 0..count {
            let arm = &mut arms[(index + turn) % count];
            arm.turn(&lab, &place, &name).with_context(|| arm.tool.word())?;
        }
    }
    tell(&mut report, &arms, made.bytes);
    if options.save { report.save(Path::new("benches/runs")) } else { Ok(()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Skiff,
    Umoci,
    Podman,
    Docker,
}

impl Tool {
    const fn word(self) -> &'static str {
        match self {
            Self::Skiff => "skiff",
            Self::Umoci => "umoci",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Skiff => "skiff pull",
            Self::Umoci => "skopeo copy + umoci unpack",
            Self::Podman => "podman pull",
            Self::Docker => "docker pull",
        }
    }
}

struct Arm {
    tool: Tool,
    seconds: Samples,
    /// MiB.
    memory: Samples,
}

impl Arm {
    fn new(tool: Tool) -> Self {
        Self { tool, seconds: Samples::new(), memory: Samples::new() }
    }

    /// One pull into an empty store.
    fn turn(&mut self, lab: &Lab, place: &Path, name: &str) -> Result<()> {
        let store = place.join("store");
        fs::create_dir_all(&store)?;
        nix::unistd::sync();
        let at = |below: &str| store.join(below).display().to_string();
        let taken = match self.tool {
            Tool::Skiff => {
                let skiff = lab.program("skiff").display().to_string();
                let (root, run) =
                    (format!("SKIFF_ROOT={}", at("root")), format!("SKIFF_RUN_ROOT={}", at("run")));
                timed(&["env", &root, &run, &skiff, "pull", "-q", name])?
            }
            Tool::Umoci => {
                let (from, to) = (format!("docker://{name}"), format!("oci:{}:1", at("layout")));
                let first =
                    ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", &from, &to];
                let first = timed(&first)?;
                let second =
                    timed(&["umoci", "unpack", "--image", &format!("{}:1", at("layout")), &at("bundle")])?;
                Taken { seconds: first.seconds + second.seconds, memory: first.memory.max(second.memory) }
            }
            Tool::Podman => {
                let (root, run) = (at("root"), at("run"));
                let words = ["podman", "--root", &root, "--runroot", &run, "--storage-driver", "overlay"];
                let taken = timed(&[&words[..], &["pull", "-q", "--tls-verify=false", name]].concat())?;
                // Podman leaves a mount at its root.
                let _unmounted = Command::new("umount").args(["-q", "-R", &at("root/overlay")]).status();
                taken
            }
            Tool::Docker => {
                let daemon = Dockerd::start(&store)?;
                let mut taken = timed(&["docker", "-H", &daemon.address, "pull", "-q", name])?;
                taken.memory = taken.memory.max(daemon.peak_memory());
                taken
            }
        };
        eprintln!("{}: {:.2} s", self.tool.name(), taken.seconds);
        self.seconds.push(taken.seconds);
        self.memory.push(taken.memory);
        nix::unistd::sync();
        fs::remove_dir_all(&store).context("remove a store")
    }
}

fn tell(report: &mut Report, arms: &[Arm], bytes: u64) {
    let own = arms.iter().find(|arm| arm.tool == Tool::Skiff).map(|arm| arm.seconds.median());
    let rows: Vec<Vec<String>> = arms
        .iter()
        .map(|arm| {
            let seconds = arm.seconds.median();
            let ratio = own.map_or(f64::NAN, |own| own / seconds);
            let speed = mega(bytes) / seconds;
            let memory = arm.memory.percentile(100);
            vec![
                arm.tool.name().to_owned(),
                format!("{seconds:.2}"),
                format!("{:.2}", arm.seconds.percentile(100)),
                format!("{speed:.0}"),
                format!("{ratio:.2}"),
                format!("{memory:.0}"),
            ]
        })
        .collect();
    report.table(&["", "median s", "slowest s", "MB/s", "skiff's time is", "MiB"], &rows);
    let mut aim = |what: &str, is: f64, most: f64| {
        let verdict = if is <= most { "kept" } else { "MISSED" };
        report.line(&format!("* {verdict}: {what}: {is:.2} (aim: at most {most})"));
    };
    let Some(own) = own else { return };
    for arm in arms {
        match arm.tool {
            Tool::Skiff => aim("MiB at most, skiff pull", arm.memory.percentile(100), MEMORY_AIM),
            tool => aim(&format!("of the time of {}", tool.name()), own / arm.seconds.median(), TIME_AIM),
        }
    }
}

/// What a command took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    seconds: f64,
    /// MiB.
    memory: f64,
}

/// Runs a command in a process of its own, whose only child it is: so its peak of memory is known without `unsafe`.
fn timed(words: &[&str]) -> Result<Taken> {
    let output = Command::new(std::env::current_exe()?)
        .arg(MEASURE)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start this program")?;
    ensure!(output.status.success(), "{words:?} failed");
    let said: Value = serde_json::from_slice(&output.stdout).context("what was measured")?;
    let number = |key: &str| said[key].as_f64().with_context(|| format!("no {key}"));
    Ok(Taken { seconds: number("seconds")?, memory: number("memory")? })
}

fn measure(words: &[String]) -> Result<()> {
    let (program, rest) = words.split_first().context("no command")?;
    let begun = Instant::now();
    let status = Command::new(program).args(rest).stdout(Stdio::null()).status().context("start")?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "{program}: {status}");
    let kibibytes = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let said = json!({ "seconds": seconds, "memory": i32::try_from(kibibytes / 1024).unwrap_or(i32::MAX) });
    writeln!(io::stdout(), "{said}").context("say what it took")
}

/// What the image is made of.
#[derive(Debug, Default)]
struct Made {
    files: usize,
    bytes: u64,
    compressed: u64,
}

/// Packs what lies below `/usr`, in the order of names, into layers of about the same size.
fn make_image(layout: &Path) -> Result<Made> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut paths = Paths::default();
    paths.add(Path::new("/usr"))?;
    ensure!(paths.layers.len() >= LAYERS, "/usr has less than {LAYERS} layers of {LAYER} bytes");
    let mut made = Made::default();
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    let (tar, gzip, list) = (layout.join("tar"), layout.join("tar.gz"), layout.join("list"));
    for layer in paths.layers.iter().take(LAYERS) {
        fs::write(&list, layer.join("\0"))?;
        let [tar_text, list_text] = [&tar, &list].map(|path| path.display().to_string());
        run(&[
            "tar",
            "-C",
            "/",
            "--no-recursion",
            "--null",
            "--sort=none",
            "-cf",
            &tar_text,
            "-T",
            &list_text,
        ])?;
        diff_ids.push(Digest::of(&fs::read(&tar)?));
        made.bytes += fs::metadata(&tar)?.len();
        made.files += layer.len();
        run(&["gzip", "-f", &tar_text])?;
        let packed = fs::read(&gzip)?;
        made.compressed += packed.len() as u64;
        let digest = Digest::of(&packed);
        fs::rename(&gzip, blobs.join(digest.hex()))?;
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": packed.len(),
        }));
    }
    fs::remove_file(&list)?;
    let put = |media_type: &str, document: &Value| -> Result<Value> {
        let text = document.to_string();
        let digest = Digest::of(text.as_bytes());
        fs::write(blobs.join(digest.hex()), &text)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": text.len() }))
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "os": "linux", "architecture": architecture, "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put("application/vnd.oci.image.config.v1+json", &config)?;
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    let mut manifest = put(MANIFEST, &manifest)?;
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "1" });
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(made)
}

/// Paths without their leading slash, in layers.
#[derive(Debug, Default)]
struct Paths {
    layers: Vec<Vec<String>>,
    /// In the last layer.
    bytes: u64,
}

impl Paths {
    fn add(&mut self, path: &Path) -> Result<()> {
        if self.layers.len() > LAYERS {
            return Ok(());
        }
        let about = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
        // Names that are not text are rare, and none of them is needed.
        let Some(text) = path.to_str() else { return Ok(()) };
        if self.layers.is_empty() || self.bytes >= LAYER {
            self.layers.push(Vec::new());
            self.bytes = 0;
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.push(text.trim_start_matches('/').to_owned());
        }
        if about.is_file() {
            self.bytes += about.len();
        }
        if about.is_dir() {
            let mut below: Vec<PathBuf> = fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
            below.sort();
            below.iter().try_for_each(|path| self.add(path))?;
        }
        Ok(())
    }
}

/// Debian's `docker-registry`, on a port of its own choice.
struct Registry {
    host: String,
    process: Child,
}

impl Registry {
    fn start(place: &Path) -> Result<Self> {
        let config = json!({
            "version": "0.1",
            "log": { "level": "info", "formatter": "text" },
            "storage": { "filesystem": { "rootdirectory": place.join("registry") } },
            "http": { "addr": "127.0.0.1:0" },
        });
        let path = place.join("registry.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().context("start docker-registry")?;
        let mut log = BufReader::new(process.stderr.take().context("its log")?);
        let mut line = String::new();
        while log.read_line(&mut line)? > 0 {
            if let Some((_, rest)) = line.split_once("listening on ") {
                let host = rest.split(['"', ',']).next().unwrap_or_default().to_owned();
                thread::spawn(move || io::copy(&mut log, &mut io::sink()));
                return Ok(Self { host, process });
            }
            line.clear();
        }
        bail!("docker-registry does not start");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// A daemon with nothing but what a pull needs.
struct Dockerd {
    address: String,
    process: Child,
}

impl Dockerd {
    fn start(store: &Path) -> Result<Self> {
        let at = |below: &str| store.join(below).display().to_string();
        let address = format!("unix://{}", at("docker.sock"));
        let log = fs::File::create(store.join("log"))?;
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("root"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["-H", &address, "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let daemon = Self { address, process: process.context("start dockerd")? };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut asked = Command::new("docker");
            asked.args(["-H", &daemon.address, "version"]).stdout(Stdio::null()).stderr(Stdio::null());
            if asked.status()?.success() {
                return Ok(daemon);
            }
            thread::sleep(Duration::from_millis(50));
        }
        let mut said = String::new();
        fs::File::open(store.join("log"))?.read_to_string(&mut said)?;
        bail!("dockerd does not start: {}", said.lines().last().unwrap_or_default());
    }

    /// Of the daemon itself so far, MiB.
    fn peak_memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kibibytes.unwrap_or(f64::NAN) / 1024.0
    }
}

impl Drop for Dockerd {
    /// Asks first, so that its containerd ends with it and nothing stays mounted.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _asked = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ended = self.process.wait();
    }
}

fn run(words: &[&str]) -> Result<()> {
    let (program, rest) = words.split_first().context("no command")?;
    let status = Command::new(program).args(rest).stdin(Stdio::null()).status();
    ensure!(status.with_context(|| format!("start {program}"))?.success(), "{words:?} failed");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
