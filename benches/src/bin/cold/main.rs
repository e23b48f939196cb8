//! How long a program takes to be ready when nothing of its image is in the page cache: with and without a profile of what it needs.
//!
//! The store is on ext4 on a loop device (direct I/O) over a file of [`disk`], which is mounted anew before each cold run, with a new
//! daemon: neither pages nor inodes of the image are in memory then. Ready is a program when it prints a line with "ready".

mod disk;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use disk::{Disk, Speed, Taken};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skiff_benches::options::Options;
use skiff_benches::report::Report;
use skiff_benches::samples::Samples;

const PROGRAMS: [&str; 4] = ["python", "node", "java", "redis"];
const SPEED: Speed = Speed { latency: Duration::from_millis(1), bytes_per_s: 125_000_000 };
/// `VM_READAHEAD_PAGES` of the kernel.
const READAHEAD_KIB: u32 = 128;
const DISK_BYTES: u64 = 2 << 30;
/// A program that takes longer is not getting ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arm {
    ColdWithout,
    ColdProfile,
    ColdWhole,
    WarmWithout,
    WarmProfile,
}

const ARMS: [(Arm, &str); 5] = [
    (Arm::ColdWithout, "cold, without"),
    (Arm::ColdProfile, "cold, profile"),
    (Arm::ColdWhole, "cold, whole image"),
    (Arm::WarmWithout, "warm, without"),
    (Arm::WarmProfile, "warm, profile"),
];

/// The times of an arm, and what was read of the disk meanwhile.
struct Measured {
    arm: Arm,
    ms: Samples,
    mib: Samples,
    reads: Samples,
}

/// Where it all is.
struct Lab {
    directory: PathBuf,
    skiff: PathBuf,
    mounted: Option<Mounted>,
    serial: u32,
}

/// The store, and the daemon that has it.
struct Mounted {
    daemon: Child,
    // Goes after the file system that is on it.
    disk: Disk,
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1), 7)?;
    // What is mounted for the benchmark ends with it however it ends.
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (this needs root)")?;
    sh("mount --make-rprivate /", &[])?;
    let mut lab = Lab::new()?;
    let mut report = Report::start("cold", &[("python3", "--version"), ("node", "--version")])?;
    report.line(&format!(
        "* disk: ext4 on a loop device with direct I/O over a file of which each read takes {} ms, and {} MB/s all together",
        SPEED.latency.as_millis(),
        SPEED.bytes_per_s / 1_000_000
    ));
    report.line(&format!(
        "* readahead of the device: {READAHEAD_KIB} KiB, the kernel's own for disks that do not turn; a loop device over a file is taken for one that does"
    ));
    report.line("* profile: of three runs after a mount, the first of them cold; nothing is recorded while the arms are measured but what is due");
    report.line(&format!(
        "* {} runs of each, interleaved; ms from the start of skiff run to the line \"ready\"\n",
        options.count
    ));
    let mut times = Vec::new();
    let (mut floors, mut accuracies) = (Vec::new(), Vec::new());
    for program in PROGRAMS.into_iter().filter(|name| options.wants_part(name)) {
        if !lab.archive(program).exists() {
            report.line(&format!("{program} is not installed here"));
            continue;
        }
        lab.prepare(program)?;
        let measured = lab.measure(program, options.count)?;
        let of = |arm: Arm, what: fn(&Measured) -> &Samples| {
            measured.iter().find(|one| one.arm == arm).map_or(f64::NAN, |one| what(one).median())
        };
        let median = |arm: Arm| of(arm, |one| &one.ms);
        let mut row = vec![program.to_owned()];
        row.extend(ARMS.iter().map(|(arm, _)| format!("{:.0}", median(*arm))));
        row.push(format!("{:.2}", median(Arm::ColdWithout) / median(Arm::ColdProfile)));
        row.push(format!("{:.3}", median(Arm::WarmProfile) / median(Arm::WarmWithout)));
        times.push(row);
        let mib = |arm: Arm| of(arm, |one| &one.mib);
        let transfer = mib(Arm::ColdProfile) * f64::from(1 << 20) / SPEED.bytes_per_s as f64 * 1000.0;
        let floor = transfer.max(median(Arm::WarmWithout));
        floors.push(vec![
            program.to_owned(),
            format!("{:.0}", of(Arm::ColdWithout, |one| &one.reads)),
            format!("{:.1}", mib(Arm::ColdWithout)),
            format!("{:.0}", of(Arm::ColdProfile, |one| &one.reads)),
            format!("{:.1}", mib(Arm::ColdProfile)),
            format!("{transfer:.0}"),
            format!("{floor:.0}"),
            format!("{:.2}", median(Arm::ColdWithout) / floor),
        ]);
        accuracies.push(lab.accuracy(program)?);
    }
    let mut head = vec!["ms, medians"];
    head.extend(ARMS.iter().map(|(_, name)| *name));
    head.extend(["times faster", "warm: with / without"]);
    report.table(&head, &times);
    report.line("");
    report.line("What there is to be gained: bytes take their time on the disk, and the program its own, at best beside each other.");
    report.line("");
    report.table(
        &[
            "medians",
            "reads without",
            "MiB without",
            "reads with",
            "MiB with",
            "these take ms",
            "or warm: floor ms",
            "at best times faster",
        ],
        &floors,
    );
    report.line("");
    report.table(
        &[
            "one more run, recorded",
            "image MiB",
            "profile MiB",
            "read MiB",
            "read in ms",
            "precision %",
            "recall %",
        ],
        &accuracies,
    );
    drop(lab);
    if options.save {
        report.save(&Path::new(env!("CARGO_MANIFEST_DIR")).join("runs"))?;
    }
    Ok(())
}

impl Lab {
    fn new() -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("skiff-bench-cold-{}", std::process::id()));
        for below in ["images", "slow", "store", "run"] {
            fs::create_dir_all(directory.join(below)).context("make a directory")?;
        }
        let here = std::env::current_exe().context("find this program")?;
        let lab = Self { skiff: here.with_file_name("skiff"), directory, mounted: None, serial: 0 };
        let backing = lab.directory.join("backing");
        fs::File::create(&backing)?.set_len(DISK_BYTES)?;
        sh(r#"mkfs.ext4 -q -E lazy_itable_init=0 "$1""#, &[&backing])?;
        let images = Command::new("sh")
            .args(["-c", include_str!("images.sh"), "images.sh"])
            .arg(lab.directory.join("images"))
            .status()?;
        if !images.success() {
            bail!("make the images: {images}");
        }
        Ok(lab)
    }

    fn archive(&self, program: &str) -> PathBuf {
        self.directory.join("images").join(program).with_extension("tar")
    }

    /// On the slow disk, where images are kept.
    fn state_root(&self) -> PathBuf {
        self.directory.join("store/root")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.skiff);
        command.env("SKIFF_ROOT", self.state_root());
        command.env("SKIFF_RUN_ROOT", self.directory.join("run"));
        command.stdin(Stdio::null());
        command
    }

    /// Mounts the store anew and starts a daemon: nothing of it is in memory.
    fn mount(&mut self) -> Result<()> {
        self.unmount()?;
        let backing = self.directory.join("backing");
        let disk = Disk::mount(&self.directory.join("slow"), &backing, SPEED)?;
        sh(
            r#"loop=$(losetup --find --show --direct-io=on "$1") && echo "$3" >"/sys/block/${loop##*/}/queue/read_ahead_kb" &&
                mount -o noatime "$loop" "$2"; status=$?; losetup -d "$loop"; exit $status"#,
            &[&disk.file(), &self.directory.join("store"), Path::new(&READAHEAD_KIB.to_string())],
        )?;
        let daemon =
            self.command().arg("daemon").stderr(Stdio::null()).spawn().context("start the daemon")?;
        self.mounted = Some(Mounted { daemon, disk });
        let begin = Instant::now();
        while !self.directory.join("run/skiff.sock").exists() {
            if begin.elapsed() > PATIENCE {
                bail!("the daemon does not come up");
            }
            thread::sleep(Duration::from_millis(5));
        }
        // It has made what it needs, and none of the image is part of that.
        while self.is_loading()? {
            if begin.elapsed() > PATIENCE {
                bail!("the daemon does not load its programs");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether the daemon loads the programs still that each launch waits for.
    fn is_loading(&self) -> Result<bool> {
        let told = self.command().args(["version", "--format", "{{.Server.Events}}"]).output()?;
        if !told.status.success() {
            bail!("ask the daemon: {}", String::from_utf8_lossy(&told.stderr));
        }
        Ok(told.stdout.trim_ascii() == b"loading")
    }

    fn unmount(&mut self) -> Result<()> {
        let Some(mut mounted) = self.mounted.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(mounted.daemon.id())?);
        kill(pid, Signal::SIGTERM)?;
        mounted.daemon.wait()?;
        let begin = Instant::now();
        // The spawner leaves by itself, and what cleared a container away may be about to end.
        while sh(r#"umount "$1" 2>/dev/null"#, &[&self.directory.join("store")]).is_err() {
            if begin.elapsed() > PATIENCE {
                bail!("the store stays in use");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Unpacks the image and records what it needs, from a first cold run on.
    ///
    /// What was written just now is in the cache in large folios, of which one fault maps all (Linux ≥ 6.18) and tells of little.
    fn prepare(&mut self, program: &str) -> Result<()> {
        self.mount()?;
        self.run(program, "off", false)?;
        self.mount()?;
        for _ in 0..3 {
            self.run(program, "record", true)?;
        }
        Ok(())
    }

    fn measure(&mut self, program: &str, count: usize) -> Result<Vec<Measured>> {
        let fresh = |(arm, _): &(Arm, _)| Measured {
            arm: *arm,
            ms: Samples::new(),
            mib: Samples::new(),
            reads: Samples::new(),
        };
        let mut all: Vec<_> = ARMS.iter().map(fresh).collect();
        for _ in 0..count {
            for measured in &mut all {
                if measured.arm == Arm::WarmWithout {
                    // The profile is as warm as the image.
                    self.run(program, "on", false)?;
                }
                let (took, taken) = self.arm(program, measured.arm)?;
                measured.ms.push(took.as_secs_f64() * 1000.0);
                measured.mib.push(taken.bytes as f64 / f64::from(1 << 20));
                measured.reads.push(taken.reads as f64);
            }
        }
        Ok(all)
    }

    fn arm(&mut self, program: &str, arm: Arm) -> Result<(Duration, Taken)> {
        match arm {
            Arm::ColdWithout => {
                self.mount()?;
                self.run(program, "off", false)
            }
            Arm::ColdProfile => {
                self.mount()?;
                self.run(program, "on", false)
            }
            Arm::ColdWhole => {
                self.mount()?;
                let layers = self.state_root().join("layers");
                let image = self.layer(program)?;
                let reader = thread::spawn(move || {
                    sh(
                        r#"find "$1" -type f -print0 | xargs -0 -P 4 -n 64 cat >/dev/null"#,
                        &[&layers.join(image)],
                    )
                });
                let took = self.run(program, "off", false)?;
                reader.join().map_err(|_| anyhow::anyhow!("the reader has panicked"))??;
                Ok(took)
            }
            Arm::WarmWithout => self.run(program, "off", false),
            Arm::WarmProfile => self.run(program, "on", false),
        }
    }

    /// The directory of the image's one layer below `layers`.
    fn layer(&self, program: &str) -> Result<PathBuf> {
        let listed =
            Command::new("tar").arg("-xOf").arg(self.archive(program)).arg("config.json").output()?;
        let config: Value = serde_json::from_slice(&listed.stdout).context("read the configuration")?;
        let digest = config["rootfs"]["diff_ids"][0].as_str().context("a layer")?;
        Ok(Path::new("sha256").join(digest.trim_start_matches("sha256:")))
    }

    /// Runs the program until it is ready; with `stay`, for some seconds more.
    fn run(&mut self, program: &str, prefetch: &str, stay: bool) -> Result<(Duration, Taken)> {
        self.serial += 1;
        let name = format!("cold-{program}-{}", self.serial);
        let image = format!("docker-archive:{}", self.archive(program).display());
        let mut command = self.command();
        command.args(["run", "--rm", "--prefetch", prefetch, "--name", &name, &image]).stdout(Stdio::piped());
        let _before = self.taken();
        let begin = Instant::now();
        let mut child = command.spawn()?;
        let mut took = None;
        let output = child.stdout.take().context("a pipe")?;
        let mut lines = BufReader::new(output).lines();
        for line in &mut lines {
            if line?.to_lowercase().contains("ready") {
                took = Some(begin.elapsed());
                break;
            }
        }
        let taken = self.taken();
        if stay {
            // A recording goes on for a second after the program listens, and is written then.
            thread::sleep(Duration::from_millis(2500));
        }
        // Programs that end by themselves may be gone.
        self.command().args(["rm", "-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        drop(lines);
        child.wait()?;
        let took = took.with_context(|| format!("{program} has ended and was not ready"))?;
        Ok((took, taken))
    }

    fn taken(&self) -> Taken {
        self.mounted.as_ref().map(|mounted| mounted.disk.taken()).unwrap_or_default()
    }

    /// One cold run with its profile, recorded: a row of the second table.
    fn accuracy(&mut self, program: &str) -> Result<Vec<String>> {
        self.mount()?;
        let file = self.directory.join("profile.json");
        let mut command = self.command();
        let image = format!("docker-archive:{}", self.archive(program).display());
        command.arg("run").arg(format!("--profile={}", file.display())).args(["--timeout", "8", &image]);
        command.env("SKIFF_DAEMON", "off").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        let document: Value = serde_json::from_slice(&fs::read(&file)?).context("read the profile")?;
        fs::remove_file(&file)?;
        let prefetch = &document["prefetch"];
        let mib = |value: &Value| format!("{:.1}", value.as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20));
        let percent = |value: &Value| format!("{:.1}", value.as_f64().unwrap_or(f64::NAN) * 100.0);
        Ok(vec![
            program.to_owned(),
            format!("{}", fs::metadata(self.archive(program))?.len() >> 20),
            mib(&prefetch["profile_bytes"]),
            mib(&prefetch["read_bytes"]),
            format!("{:.0}", prefetch["read_us"].as_f64().unwrap_or(f64::NAN) / 1000.0),
            percent(&prefetch["precision"]),
            percent(&prefetch["recall"]),
        ])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("cold: {error:#}");
        }
        let _removed = fs::remove_dir_all(&self.directory);
    }
}

fn sh(script: &str, arguments: &[&Path]) -> Result<()> {
    let status = Command::new("sh").args(["-c", script, "sh"]).args(arguments).status()?;
    if status.success() { Ok(()) } else { bail!("{script}: {status}") }
}
