//! `skiff prefetch`: the profiles by which images are read ahead, and the process that does so where there is no daemon.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use skiff_ebpf::Recorder;
use skiff_engine::prefetch::{Mode, Subject};
use skiff_store::Digest;
use skiff_store::prefetch::{self, BYTES_MAX, Key, Lent, Outcome, PAGE, Profile, Profiles};
use skiff_sys::reader;

use crate::failure::Failure;
use crate::images;
use crate::profile::{Align, Table, size};
use crate::roots::Roots;
use crate::words::{Format, Words};

/// The name under which the executable reads ahead, for a launcher that must not have threads.
pub(crate) const NAME: &str = "skiff-prefetch";

/// What a replay came to, as the process tells it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) files: u64,
    pub(crate) missing: u64,
    pub(crate) bytes: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) elapsed_ns: u64,
}

/// Carries out `skiff prefetch …`; returns what is to be printed.
pub(crate) fn run(words: &mut Words) -> Result<String, Failure> {
    let verb = words.next()?;
    let (mut operands, mut format, mut all) = (Vec::new(), Format::Text, false);
    while let Some(word) = words.next()? {
        match word.as_str() {
            "--format" => format = words.format()?,
            "--all" => all = true,
            flag if flag.starts_with('-') => return Err(words.unknown(flag)),
            _ => operands.push(word),
        }
    }
    let profiles = Profiles::of(&Roots::find()?.state);
    let found = |image: &str, class: Option<&String>| select(&profiles, image, class);
    match (verb.as_deref(), operands.as_slice()) {
        (None | Some("ls" | "list"), []) => list(&profiles.list()?, format),
        (Some("show"), [image]) => show(&one(found(image, None)?)?, format),
        (Some("show"), [image, class]) => show(&one(found(image, Some(class))?)?, format),
        (Some("export"), [image]) => export(one(found(image, None)?)?),
        (Some("export"), [image, class]) => export(one(found(image, Some(class))?)?),
        (Some("import"), [image]) => import(&profiles, image, std::io::stdin()),
        (Some("import"), [image, file]) => match std::fs::File::open(file) {
            Ok(from) => import(&profiles, image, from),
            Err(error) => Err(refuse(format!("open {file}: {}", skiff_runtime::cause(&error)))),
        },
        (Some("rm" | "remove"), []) if all => remove(&profiles, &profiles.list()?),
        (Some("rm" | "remove"), [image]) => remove(&profiles, &found(image, None)?),
        (Some("rm" | "remove"), [image, class]) => remove(&profiles, &found(image, Some(class))?),
        _ => Err(words.refused("neither ls, show, export, import nor rm of an image")),
    }
}

/// The profiles of the image whose id is or begins with `image`.
fn select(profiles: &Profiles, image: &str, class: Option<&String>) -> Result<Vec<Profile>, Failure> {
    let prefix = image.strip_prefix("sha256:").unwrap_or(image);
    let mut found = profiles.list()?;
    found.retain(|profile| {
        !prefix.is_empty()
            && profile.image.hex().starts_with(prefix)
            && class.is_none_or(|class| profile.class == *class)
    });
    let Some(first) = found.first() else {
        let of = class.map_or_else(String::new, |class| format!(" for {class:?}"));
        return Err(refuse(format!("no prefetch profile of image {image:?}{of}")));
    };
    if found.iter().any(|profile| profile.image != first.image) {
        return Err(refuse(format!("more than one image begins with {image:?}")));
    }
    Ok(found)
}

fn refuse(message: String) -> Failure {
    Failure { code: 1, message }
}

fn one(found: Vec<Profile>) -> Result<Profile, Failure> {
    let classes: Vec<String> = found.iter().map(|profile| format!("{:?}", profile.class)).collect();
    match <[Profile; 1]>::try_from(found) {
        Ok([profile]) => Ok(profile),
        Err(_) => Err(refuse(format!("name one of its command classes: {}", classes.join(", ")))),
    }
}

fn list(profiles: &[Profile], format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        let lines = profiles.iter().map(|profile| {
            let line = serde_json::json!({
                "image": profile.image.to_string(),
                "class": profile.class,
                "files": profile.files.len(),
                "bytes": profile.pages() * PAGE,
                "ready_ms": profile.ready_ms,
                "replays": profile.replays,
                "precision_permille": profile.checked.map(|checked| checked.precision()),
                "recall_permille": profile.checked.map(|checked| checked.recall()),
                "is_replayed": profile.is_good(),
                "recorded_s": profile.recorded_s,
            });
            format!("{line}\n")
        });
        return Ok(lines.collect());
    }
    let mut table = Table::new([
        ("IMAGE ID", Align::Left),
        ("COMMAND", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("READY", Align::Right),
        ("REPLAYS", Align::Right),
        ("PRECISION", Align::Right),
        ("RECALL", Align::Right),
    ])
    .flush();
    let percent = |permille: u32| format!("{}.{} %", permille / 10, permille % 10);
    for profile in profiles {
        let known = |part: fn(&prefetch::Checked) -> u32| {
            profile.checked.as_ref().map_or_else(|| "-".into(), |checked| percent(part(checked)))
        };
        table.row([
            profile.image.hex()[..12].to_owned(),
            profile.class.clone(),
            profile.files.len().to_string(),
            size(profile.pages() * PAGE),
            profile.ready_ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms")),
            profile.replays.to_string(),
            known(prefetch::Checked::precision),
            known(prefetch::Checked::recall),
        ]);
    }
    Ok(table.render())
}

fn show(profile: &Profile, format: Format) -> Result<String, Failure> {
    if format == Format::Json {
        return Ok(document(profile));
    }
    let mut table = Table::new([
        ("FIRST USE", Align::Left),
        ("USED", Align::Right),
        ("OF", Align::Right),
        ("RANGES", Align::Right),
        ("PATH", Align::Left),
    ])
    .flush();
    const USES: [&str; 12] = [
        "1 ms", "2 ms", "4 ms", "8 ms", "16 ms", "32 ms", "64 ms", "128 ms", "256 ms", "512 ms", "1 s",
        "later",
    ];
    for file in &profile.files {
        table.row([
            USES.get(usize::from(file.class())).copied().unwrap_or("-").to_owned(),
            size(file.pages() * PAGE),
            size(file.size),
            file.ranges.len().to_string(),
            format!("/{}", file.path),
        ]);
    }
    let note = match profile.accuracy {
        prefetch::Accuracy::Used => String::new(),
        prefetch::Accuracy::Added => format!("recorded {ADDED}\n"),
    };
    Ok(table.render() + &note)
}

/// With the digests of the files, by which it fits images that have them in other layers.
fn export(mut profile: Profile) -> Result<String, Failure> {
    prefetch::seal(&mut profile, &Roots::find()?.state)?;
    Ok(document(&profile))
}

/// Keeps what a document says about files that the image has, in its own layers or others.
fn import(profiles: &Profiles, image: &str, from: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    // One byte more shows that there are too many.
    let limit = BYTES_MAX as u64 + 1;
    from.take(limit).read_to_end(&mut bytes).map_err(|error| refuse(skiff_runtime::cause(&error)))?;
    let profile =
        Profile::parse(&bytes).map_err(|reason| refuse(format!("not a prefetch profile: {reason}")))?;
    let (id, layers) = images::layers_of(image)?;
    let bound = prefetch::bind(&profile, id, &layers, &Roots::find()?.state)
        .ok_or_else(|| refuse(format!("less than half of the profile is about files that {image} has")))?;
    profiles.save(&bound)?;
    Ok(format!("{} {}\n", &id.hex()[..12], bound.class))
}

fn document(profile: &Profile) -> String {
    format!("{}\n", String::from_utf8_lossy(&profile.to_json()))
}

fn remove(profiles: &Profiles, found: &[Profile]) -> Result<String, Failure> {
    let mut text = String::new();
    for profile in found {
        let key = Key { image: profile.image, class: profile.class.clone() };
        if profiles.remove(&key)? {
            text += &format!("removed {} {}\n", &profile.image.hex()[..12], profile.class);
        }
    }
    Ok(text)
}

/// Of what is recorded where the kernel does not tell what is used.
const ADDED: &str =
    "of what comes into the page cache, with all that is read ahead, and without what is there already";

/// Says what a recording that was asked for does not tell on this kernel.
pub(crate) fn caution(mode: Mode) {
    let accuracy = (mode == Mode::Record).then(Recorder::accuracy_here);
    if let Some(Ok(skiff_ebpf::Accuracy::Added)) = accuracy {
        eprintln!("skiff: prefetch: this kernel tells {ADDED}; from Linux 6.12 on it tells what is used");
    }
}

/// A process that has files read ahead, and the reader's end of its socket.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) process: Child,
    pub(crate) socket: OwnedFd,
}

/// Has read ahead what the container is about to need, by another process, if there is a profile and the cache is cold. Returns the
/// profile, and that process.
pub(crate) fn begin(roots: &Roots, subject: &Subject, tells: bool) -> (Option<Profile>, Option<Replay>) {
    let loaded = Profiles::of(&roots.state).load(&subject.key).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    });
    let Some(profile) = loaded else { return (None, None) };
    if !profile.is_good() || subject.bytes_max == 0 || prefetch::is_warm_in(&profile, &subject.layers) {
        return (Some(profile), None);
    }
    let started = start(roots, subject, tells);
    (Some(profile), started.map_err(|error| tracing::warn!("start {NAME}: {error}")).ok())
}

fn start(roots: &Roots, subject: &Subject, tells: bool) -> std::io::Result<Replay> {
    let (own, socket) = reader::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).arg(&roots.state).arg(subject.key.image.to_string()).arg(&subject.key.class);
    command.arg(subject.bytes_max.to_string()).args(&subject.layers);
    command.stdin(own).stdout(if tells { Stdio::piped() } else { Stdio::null() }).stderr(Stdio::null());
    Ok(Replay { process: command.spawn()?, socket })
}

/// What the process of [`begin`] has to tell, once it is through.
pub(crate) fn end(mut child: Child) -> Option<Told> {
    let mut text = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    child.wait().ok()?;
    serde_json::from_str(&text).ok()
}

/// The process of [`begin`]: `STATE-ROOT IMAGE CLASS BYTES LAYER…`, with the socket to its reader as standard input.
pub(crate) fn read(words: impl Iterator<Item = OsString>) -> Result<u8, Failure> {
    let words: Vec<OsString> = words.collect();
    let [root, image, class, bytes, layers @ ..] = words.as_slice() else {
        return Err(Failure::engine(format!("{NAME}: to be started by skiff run alone")));
    };
    let layers: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
    let digest = image.to_str().and_then(|image| Digest::try_from(image.to_owned()).ok());
    let (Some(image), Some(class)) = (digest, class.to_str()) else { return Ok(1) };
    let profiles = Profiles::of(root.as_ref());
    let key = Key { image, class: class.to_owned() };
    let Some(mut profile) = profiles.load(&key)? else { return Ok(1) };
    // The other half is for layers, directories, and what is open anyway.
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
    let files_max = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
    let bytes_max = bytes.to_str().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let reader = || {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        Some(Lent { socket, bytes_max })
    };
    let report = prefetch::replay(&profile, &layers, files_max, reader);
    if report.outcome == Outcome::Read {
        profile.replays += 1;
        profiles.save(&profile)?;
    }
    let told = Told {
        files: report.files,
        missing: report.missing,
        bytes: report.bytes,
        resident_bytes: report.resident_bytes,
        elapsed_ns: report.elapsed_ns,
    };
    let line = serde_json::to_string(&told).unwrap_or_default();
    // Nobody may be there to read it.
    let _told = std::io::stdout().write_all(line.as_bytes());
    Ok(0)
}
