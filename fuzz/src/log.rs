//! Logs with damage in them: whatever is in the files, reading ends, and shows no more than they hold.
#![no_main]

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skiff_engine::log::{JOURNAL, Origin, Reader, Start, Stream, Streams, Target, Thread, open_directory};
use skiff_engine::spec::{LogDriver, LogSpec};

/// At what byte of all files, what kind of damage, and with what.
type Damage = Vec<(u16, u8, u8)>;

static LOG: OnceLock<(PathBuf, Vec<(PathBuf, Vec<u8>)>)> = OnceLock::new();

fuzz_target!(|input: (Damage, u8, u64)| {
    let (damage, start, number) = input;
    let (path, files) = LOG.get_or_init(write);
    let mut contents: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    damage.iter().take(64).for_each(|one| spoil(&mut contents, *one));
    for ((file, _), bytes) in files.iter().zip(&contents) {
        fs::write(file, bytes).expect("write");
    }
    let start = match start % 4 {
        0 => Start::Oldest,
        1 => Start::Lines(number),
        2 => Start::Time(number),
        _ => Start::End,
    };
    let held: usize = contents.iter().map(Vec::len).sum();
    let mut reader = Reader::open(open_directory(path).expect("open"), start).expect("open");
    let (mut shown, mut notes) = (0, 0);
    while let Some(piece) = reader.next_piece().expect("read") {
        assert!(!piece.bytes.is_empty());
        match piece.stream {
            Stream::Out | Stream::Err => shown += piece.bytes.len(),
            Stream::Note => notes += 1,
        }
        assert!(shown <= held && notes <= held);
    }
    assert!(reader.next_piece().expect("read").is_none());
});

/// Writes a log of several files as the engine does.
fn write() -> (PathBuf, Vec<(PathBuf, Vec<u8>)>) {
    let path = std::env::temp_dir().join(format!("skiff-fuzz-log-{}", std::process::id()));
    let spec = LogSpec { driver: LogDriver::File, max_bytes: 4096, max_files: 3 };
    let thread = Thread::start(64).expect("thread");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for turn in 0..40 {
        let pipe = |text: String| {
            let (reader, mut writer) = io::pipe().expect("pipe");
            writer.write_all(text.as_bytes()).expect("write");
            reader.into()
        };
        let stdout = pipe(format!("line {turn}\n").repeat(turn));
        let stderr = pipe(format!("partial {turn}"));
        let target = Target {
            directory: path.clone(),
            id: "0123456789ab".into(),
            name: "web".into(),
            image: "busybox".into(),
            spec: spec.clone(),
            journal: JOURNAL.into(),
        };
        let writer = thread.write(target, Streams::Pipes { stdout, stderr }, Origin::New);
        runtime.block_on(writer.finished());
    }
    let files = fs::read_dir(&path).expect("list").map(|entry| entry.expect("entry").path());
    (path.clone(), files.map(|file| (file.clone(), fs::read(file).expect("read"))).collect())
}

/// Does one kind of damage at the byte `at` of all files.
fn spoil(files: &mut [Vec<u8>], (at, kind, with): (u16, u8, u8)) {
    let mut at = usize::from(at);
    for file in files {
        if at >= file.len() {
            at -= file.len();
            continue;
        }
        let end = file.len().min(at + usize::from(with));
        match kind % 5 {
            0 => file[at] ^= with,
            1 => file.truncate(at),
            2 => file[at..end].fill(with),
            3 => drop(file.drain(at..end)),
            _ => {
                let again = file[at..end].to_vec();
                drop(file.splice(at..at, again));
            }
        }
        return;
    }
}
