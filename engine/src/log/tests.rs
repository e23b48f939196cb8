use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::append::Log;
use super::record::{HEAD, HEADER, Stream};
use super::source::ready;
use super::*;
use crate::spec::{LogDriver, LogSpec};

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skiff-log-{}-{count}", std::process::id()));
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn directory(&self) -> OwnedFd {
        open_directory(&self.log()).expect("the log's directory")
    }

    /// The newest file's path.
    fn newest(&self) -> PathBuf {
        let number = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let files = fs::read_dir(self.log()).expect("list").map(|entry| entry.unwrap().path());
        files.max_by_key(number).expect("a file")
    }

    fn size(&self) -> u64 {
        fs::read_dir(self.log()).expect("list").map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn spec(max_bytes: u64, max_files: u32) -> LogSpec {
    LogSpec { driver: LogDriver::File, max_bytes, max_files }
}

fn open(scratch: &Scratch) -> Log {
    Log::open(&scratch.log(), &LogSpec::default()).expect("open the log")
}

/// All that is left to read, by stream.
fn rest(reader: &mut Reader) -> [Vec<u8>; 3] {
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    while let Some(piece) = reader.next_piece().expect("read") {
        assert!(!piece.bytes.is_empty());
        all[piece.stream as usize].extend(piece.bytes);
    }
    all
}

fn read(scratch: &Scratch, start: Start) -> [Vec<u8>; 3] {
    rest(&mut Reader::open(scratch.directory(), start).expect("open"))
}

fn texts(all: [Vec<u8>; 3]) -> [String; 3] {
    all.map(|bytes| String::from_utf8(bytes).expect("text"))
}

/// A pipe that holds `bytes`, whose writing end is closed.
fn pipe_with(bytes: &[u8]) -> io::PipeReader {
    let (reader, mut writer) = io::pipe().expect("pipe");
    writer.write_all(bytes).expect("a pipe takes 64 KiB");
    reader
}

/// Takes all that a pipe holds.
fn drain(log: &mut Log, stream: Stream, pipe: &io::PipeReader, most: u32) {
    loop {
        let bytes = ready(pipe.as_fd()).expect("ready").bytes.min(most);
        if bytes == 0 {
            return;
        }
        log.take(stream, pipe.as_fd(), bytes);
    }
}

#[test]
fn what_is_written_is_read() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    drain(&mut log, Stream::Out, &pipe_with(b"out\npartial"), 64 << 10);
    drain(&mut log, Stream::Err, &pipe_with(b"err\n"), 64 << 10);
    log.append(Stream::Out, b" line\n");
    assert_eq!(texts(read(&scratch, Start::Oldest)), ["out\npartial line\n", "err\n", ""]);
    assert_eq!(texts(read(&scratch, Start::End)), ["", "", ""]);
}

#[test]
fn a_reader_goes_on_where_it_was() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    let mut reader = Reader::open(scratch.directory(), Start::End).expect("open");
    for turn in 0..100 {
        let text = format!("{turn}\n");
        log.append(if turn % 3 == 0 { Stream::Err } else { Stream::Out }, text.as_bytes());
        let [out, err, note] = texts(rest(&mut reader));
        assert_eq!((out + &err, note), (text, String::new()));
    }
}

#[test]
fn a_writer_that_is_killed_at_any_byte_loses_and_doubles_nothing() {
    let written = [b"first line\nsecond ".as_slice(), b"an error\n", b"line\nthe last"];
    let streams = [Stream::Out, Stream::Err, Stream::Out];
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    for (bytes, stream) in written.iter().zip(streams) {
        drain(&mut log, stream, &pipe_with(bytes), 64 << 10);
    }
    let whole = fs::read(scratch.newest()).expect("the file");
    for cut in HEAD..=whole.len() as u64 {
        let killed = Scratch::new();
        fs::create_dir(killed.log()).expect("directory");
        fs::write(killed.log().join("1.log"), &whole[..usize::try_from(cut).unwrap()]).expect("write");
        // What is not in the file is still in the pipes.
        let mut at = HEAD;
        let mut left = [Vec::new(), Vec::new()];
        for (bytes, stream) in written.iter().zip(streams) {
            let there = cut.saturating_sub(at + HEADER).min(bytes.len() as u64);
            left[stream as usize].extend(&bytes[usize::try_from(there).unwrap()..]);
            at += HEADER + bytes.len() as u64;
        }
        let pipes = left.map(|bytes| pipe_with(&bytes));
        // Readers in between see a beginning of all, and the one that goes on sees the rest once.
        let mut reader = Reader::open(killed.directory(), Start::Oldest).expect("open");
        let mut before = rest(&mut reader);
        let mut log = open(&killed);
        if let Some(stream) = log.incomplete() {
            log.complete(Some(pipes[stream as usize].as_fd()));
        }
        drain(&mut log, Stream::Out, &pipes[0], 64 << 10);
        drain(&mut log, Stream::Err, &pipes[1], 64 << 10);
        log.append(Stream::Err, b"afterwards\n");
        let after = rest(&mut reader);
        before.iter_mut().zip(after).for_each(|(before, after)| before.extend(after));
        let expected = ["first line\nsecond line\nthe last", "an error\nafterwards\n", ""];
        assert_eq!(texts(before), expected, "cut at {cut}");
        assert_eq!(texts(read(&killed, Start::Oldest)), expected, "cut at {cut}");
    }
}

#[test]
fn an_unfinished_record_without_its_pipe_stays_as_short_as_it_is() {
    let scratch = Scratch::new();
    open(&scratch).append(Stream::Out, b"0123456789");
    let whole = fs::read(scratch.newest()).expect("the file");
    for cut in HEAD..=whole.len() as u64 {
        fs::write(scratch.newest(), &whole[..usize::try_from(cut).unwrap()]).expect("write");
        let mut log = open(&scratch);
        log.complete(None);
        log.append(Stream::Out, b"\nnext\n");
        let there = usize::try_from(cut.saturating_sub(HEAD + HEADER)).unwrap();
        let expected = format!("{}\nnext\n", &"0123456789"[..there]);
        assert_eq!(texts(read(&scratch, Start::Oldest)), [expected.as_str(), "", ""], "cut at {cut}");
    }
}

#[test]
fn a_pipe_that_the_container_has_read_from_itself_gives_what_is_left() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    log.take(Stream::Out, pipe_with(b"abc").as_fd(), 1000);
    let (reader, _writer) = io::pipe().expect("pipe");
    log.take(Stream::Out, reader.as_fd(), 10);
    log.append(Stream::Out, b"def");
    assert_eq!(texts(read(&scratch, Start::Oldest)), ["abcdef", "", ""]);
}

#[test]
fn files_are_bounded_and_a_reader_goes_through_all_of_them() {
    let scratch = Scratch::new();
    let mut log = Log::open(&scratch.log(), &spec(8 << 10, 3)).expect("open");
    let mut reader = Reader::open(scratch.directory(), Start::Oldest).expect("open");
    let mut seen = Vec::new();
    let mut expected = Vec::new();
    for number in 0..5000_u32 {
        let line = format!("line {number}\n");
        expected.extend(line.as_bytes());
        drain(&mut log, Stream::Out, &pipe_with(line.as_bytes()), 64 << 10);
        assert!(scratch.size() <= 3 * (8 << 10), "{}", scratch.size());
        if number % 50 == 0 {
            let [out, _, note] = rest(&mut reader);
            assert_eq!(note, b"");
            seen.extend(out);
        }
        if number % 1000 == 999 {
            log = Log::open(&scratch.log(), &spec(8 << 10, 3)).expect("open again");
        }
    }
    seen.extend(rest(&mut reader)[0].iter());
    assert!(seen == expected);
    let [kept, ..] = read(&scratch, Start::Oldest);
    assert!(kept.len() > 5 << 10 && expected.ends_with(&kept));
    assert_eq!(fs::read_dir(scratch.log()).expect("list").count(), 3);
}

#[test]
fn a_reader_that_is_overtaken_counts_what_it_has_missed() {
    let scratch = Scratch::new();
    let mut log = Log::open(&scratch.log(), &spec(8 << 10, 2)).expect("open");
    let mut reader = Reader::open(scratch.directory(), Start::Oldest).expect("open");
    log.append(Stream::Out, b"begin\n");
    assert_eq!(rest(&mut reader)[0], b"begin\n");
    let line = [b"x".repeat(999).as_slice(), b"\n"].concat();
    for _ in 0..100 {
        log.append(Stream::Out, &line);
    }
    let [out, err, note] = texts(rest(&mut reader));
    assert!(err.is_empty() && out.len().is_multiple_of(1000) && out.len() < 100_000);
    // The file that was open is read to its end, so whole lines are missing, with their headers, and files' heads.
    let missing: u64 = note.split(' ').next().unwrap().parse().expect("a number");
    let lines = 100 - out.len() as u64 / 1000;
    assert_eq!(missing / (1000 + HEADER), lines, "{note}");
    assert_eq!(note.lines().count(), 1);
}

#[test]
fn the_last_lines_are_counted_over_both_streams() {
    let check = |records: &[(Stream, &str)], lines: u64, expected: [&str; 2]| {
        let scratch = Scratch::new();
        let mut log = open(&scratch);
        records.iter().for_each(|(stream, text)| log.append(*stream, text.as_bytes()));
        let [out, err, _] = texts(read(&scratch, Start::Lines(lines)));
        assert_eq!([out.as_str(), err.as_str()], expected, "{records:?}, {lines}");
    };
    use Stream::{Err, Out};
    check(&[], 1, ["", ""]);
    check(&[(Out, "a\nb\nc\n")], 0, ["", ""]);
    check(&[(Out, "a\nb\nc\n")], 1, ["c\n", ""]);
    check(&[(Out, "a\nb\nc\n")], 2, ["b\nc\n", ""]);
    check(&[(Out, "a\nb\nc\n")], 3, ["a\nb\nc\n", ""]);
    check(&[(Out, "a\nb\nc\n")], 9, ["a\nb\nc\n", ""]);
    check(&[(Out, "a\nb\nc")], 1, ["c", ""]);
    check(&[(Out, "a\nb\nc")], 2, ["b\nc", ""]);
    check(&[(Out, "a\nb"), (Out, "c\nd"), (Out, "e\n")], 2, ["bc\nde\n", ""]);
    check(&[(Out, "a\n"), (Err, "b\n"), (Out, "c\n")], 1, ["c\n", ""]);
    check(&[(Out, "a\n"), (Err, "b\n"), (Out, "c\n")], 2, ["c\n", "b\n"]);
    check(&[(Out, "x\nab"), (Err, "e\n"), (Out, "cd\n")], 1, ["abcd\n", ""]);
    check(&[(Out, "x\nab"), (Err, "e\n"), (Out, "cd\n")], 2, ["abcd\n", "e\n"]);
    check(&[(Out, "\n\n\n")], 2, ["\n\n", ""]);
}

#[test]
fn the_last_lines_are_found_across_files_with_little_reading() {
    let scratch = Scratch::new();
    let mut log = Log::open(&scratch.log(), &spec(8 << 10, 4)).expect("open");
    let lines: Vec<String> = (0..2000).map(|number| format!("line {number}\n")).collect();
    lines.iter().for_each(|line| log.append(Stream::Out, line.as_bytes()));
    for count in [1, 10, 300, 500] {
        let expected = lines[lines.len() - count..].concat();
        assert_eq!(texts(read(&scratch, Start::Lines(count as u64))), [expected.as_str(), "", ""], "{count}");
    }
}

#[test]
fn damage_costs_what_is_damaged() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    for text in ["one\n", "two\n", "three\n"] {
        log.append(Stream::Out, text.as_bytes());
    }
    let mut whole = fs::read(scratch.newest()).expect("the file");
    let second = usize::try_from(HEAD + HEADER).unwrap() + 4;
    whole[second..second + 10].fill(0xff);
    fs::write(scratch.newest(), &whole).expect("write");
    let [out, _, note] = texts(read(&scratch, Start::Oldest));
    assert_eq!((out.as_str(), note.as_str()), ("one\nthree\n", "28 damaged bytes of the log are left out\n"));
    // The writer goes on behind it, or in a new file.
    open(&scratch).append(Stream::Out, b"four\n");
    assert_eq!(texts(read(&scratch, Start::Oldest))[0], "one\nthree\nfour\n");
    whole[second..].fill(0);
    fs::write(scratch.newest(), &whole).expect("write");
    let mut log = open(&scratch);
    log.complete(None);
    log.append(Stream::Out, b"five\n");
    assert_eq!(texts(read(&scratch, Start::Oldest))[0], "one\nfive\n");
}

#[test]
fn whatever_is_in_a_file_a_reader_ends_and_a_writer_goes_on() {
    let scratch = Scratch::new();
    let mut log = Log::open(&scratch.log(), &spec(8 << 10, 2)).expect("open");
    (0..60).for_each(|number| log.append(Stream::Out, format!("{number}\n").repeat(20).as_bytes()));
    let path = scratch.newest();
    let whole = fs::read(&path).expect("the file");
    let mut seed = 7_u64;
    let mut random = move |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes.truncate(at.max(1)),
                2 => bytes[at..].fill(0),
                _ => drop(bytes.splice(at..at, vec![0xa5; random(300)])),
            }
        }
        fs::write(&path, &bytes).expect("write");
        for start in [Start::Oldest, Start::Lines(3), Start::Lines(1000), Start::End, Start::Time(u64::MAX)] {
            let all = read(&scratch, start);
            assert!(all[0].len() <= 60 * 60 + bytes.len() && all[2].len() < 4096);
        }
        let mut reader = Reader::open(scratch.directory(), Start::Oldest).expect("open");
        rest(&mut reader);
        let mut log = Log::open(&scratch.log(), &spec(8 << 10, 2)).expect("open");
        log.complete(None);
        log.append(Stream::Out, b"the end\n");
        assert!(rest(&mut reader)[0].ends_with(b"the end\n"));
        assert!(read(&scratch, Start::Lines(1))[0].ends_with(b"the end\n"));
        // As it was.
        while scratch.newest() > path {
            fs::remove_file(scratch.newest()).expect("remove");
        }
    }
}

#[test]
fn what_a_container_writes_does_not_pass_for_a_header() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    log.append(Stream::Out, b"one\n");
    let file = fs::read(scratch.newest()).expect("the file");
    // A header of this very log, at another place.
    let header = &file[usize::try_from(HEAD).unwrap()..][..usize::try_from(HEADER).unwrap()];
    log.append(Stream::Out, header);
    let killed = fs::read(scratch.newest()).expect("the file");
    assert_eq!(read(&scratch, Start::Oldest)[0], [b"one\n", header].concat());
    assert_eq!(read(&scratch, Start::Lines(1))[0], header);
    drop(open(&scratch));
    assert_eq!(fs::read(scratch.newest()).expect("the file"), killed);
}

/// What `show` prints on both outputs.
fn shown(directory: OwnedFd, query: &Query) -> [String; 2] {
    let (mut out, out_end) = io::pipe().expect("pipe");
    let (mut err, err_end) = io::pipe().expect("pipe");
    show(directory, query, out_end.as_fd(), err_end.as_fd(), None).expect("show");
    drop((out_end, err_end));
    let mut texts = [String::new(), String::new()];
    out.read_to_string(&mut texts[0]).expect("read");
    err.read_to_string(&mut texts[1]).expect("read");
    texts
}

#[test]
fn lines_are_shown_with_their_times_and_within_limits_of_time() {
    let scratch = Scratch::new();
    let mut log = open(&scratch);
    log.append(Stream::Out, b"one\ntw");
    std::thread::sleep(std::time::Duration::from_millis(2));
    log.append(Stream::Out, b"o\nthree\n");
    log.append(Stream::Err, b"err\n");
    let mut reader = Reader::open(scratch.directory(), Start::Oldest).expect("open");
    let first = reader.next_piece().expect("read").expect("a piece").time_ns;
    let second = reader.next_piece().expect("read").expect("a piece").time_ns;
    assert!(first < second);
    let query = Query { timestamps: true, ..Query::default() };
    let (at_first, at_second) = (stamp::rfc3339(first), stamp::rfc3339(second));
    let [out, err] = shown(scratch.directory(), &query);
    assert_eq!(out, format!("{at_first} one\n{at_first} two\n{at_second} three\n"));
    assert!(err.ends_with("Z err\n"), "{err}");
    let since = Query { since_ns: Some(second), ..Query::default() };
    assert_eq!(shown(scratch.directory(), &since), ["o\nthree\n", "err\n"]);
    let until = Query { until_ns: Some(first), ..Query::default() };
    assert_eq!(shown(scratch.directory(), &until), ["one\ntw", ""]);
    let tail = Query { tail: Some(2), ..Query::default() };
    assert_eq!(shown(scratch.directory(), &tail), ["three\n", "err\n"]);
}

/// A runtime as the daemon has one, and a thread of writers.
fn with_thread<F: Future>(work: impl FnOnce(Thread) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(work(Thread::start(1).expect("thread")))
}

fn target(directory: &Path, driver: LogDriver, journal: &Path) -> Target {
    Target {
        directory: directory.into(),
        id: "0123456789abcdef".into(),
        name: "web".into(),
        image: "busybox".into(),
        spec: LogSpec { driver, ..LogSpec::default() },
        journal: journal.into(),
    }
}

#[test]
fn two_pipes_are_carried_to_their_end() {
    let scratch = Scratch::new();
    let (stdout, mut out) = io::pipe().expect("pipe");
    let (stderr, mut err) = io::pipe().expect("pipe");
    with_thread(async |thread| {
        let streams = Streams::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        let target = target(&scratch.log(), LogDriver::File, Path::new(JOURNAL));
        let writer = thread.write(target, streams, Origin::New);
        let feed = std::thread::spawn(move || {
            for number in 0..20_000 {
                writeln!(out, "{number}").expect("write");
            }
            err.write_all(b"done\n").expect("write");
        });
        writer.finished().await;
        feed.join().expect("feed");
    });
    let expected: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    assert!(texts(read(&scratch, Start::Oldest)) == [expected.as_str(), "done\n", ""]);
}

#[test]
fn a_writer_that_is_dropped_leaves_the_rest_for_the_next() {
    let scratch = Scratch::new();
    let (stdout, mut out) = io::pipe().expect("pipe");
    let (stderr, err) = io::pipe().expect("pipe");
    let streams = || Streams::Pipes {
        stdout: stdout.try_clone().expect("dup").into(),
        stderr: stderr.try_clone().expect("dup").into(),
    };
    let feed = std::thread::spawn(move || {
        for number in 0..50_000 {
            writeln!(out, "{number}").expect("write");
        }
    });
    drop(err);
    with_thread(async |thread| {
        let target = || target(&scratch.log(), LogDriver::File, Path::new(JOURNAL));
        for turn in 0..20 {
            let writer = thread.write(target(), streams(), Origin::Adopted);
            tokio::time::sleep(std::time::Duration::from_micros(turn * 50)).await;
            drop(writer);
            // What a task has begun at once it also ends at once, on the thread; wait for that.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        thread.write(target(), streams(), Origin::Adopted).finished().await;
    });
    feed.join().expect("feed");
    let expected: String = (0..50_000).map(|number| format!("{number}\n")).collect();
    assert!(texts(read(&scratch, Start::Oldest)) == [expected.as_str(), "", ""]);
}

#[test]
fn a_terminal_is_carried_too() {
    let scratch = Scratch::new();
    let pair = nix::pty::openpty(None, None).expect("openpty");
    with_thread(async |thread| {
        let target = target(&scratch.log(), LogDriver::File, Path::new(JOURNAL));
        let mut slave = File::from(pair.slave);
        let writer = thread.write(target, Streams::Terminal(pair.master), Origin::New);
        slave.write_all(b"hello\n").expect("write");
        drop(slave);
        writer.finished().await;
    });
    assert_eq!(texts(read(&scratch, Start::Oldest)), ["hello\r\n", "", ""]);
}

#[test]
fn without_a_log_there_is_one_for_those_who_look_on() {
    let scratch = Scratch::new();
    let (stdout, mut out) = io::pipe().expect("pipe");
    let (stderr, err) = io::pipe().expect("pipe");
    with_thread(async |thread| {
        let streams = Streams::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        let target = target(&scratch.log(), LogDriver::None, Path::new(JOURNAL));
        let writer = thread.write(target, streams, Origin::New);
        out.write_all(&[b'x'; 200 << 10]).expect("nobody reads, and nothing waits");
        assert!(!scratch.log().exists());
        let live = writer.live().await.expect("live");
        out.write_all(b"seen\n").expect("write");
        drop((out, err));
        writer.finished().await;
        let mut reader = Reader::open(live.directory, Start::Oldest).expect("open");
        assert!(rest(&mut reader)[0].ends_with(b"seen\n"));
        writer.live().await.expect_err("the streams have ended");
    });
}

#[test]
fn a_journal_gets_each_line_with_its_fields() {
    let scratch = Scratch::new();
    let path = scratch.0.join("journal");
    let journal = std::os::unix::net::UnixDatagram::bind(&path).expect("bind");
    let (stdout, mut out) = io::pipe().expect("pipe");
    let (stderr, mut err) = io::pipe().expect("pipe");
    let receive = || {
        let mut bytes = [0; 4096];
        let count = journal.recv(&mut bytes).expect("receive");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    };
    with_thread(async |thread| {
        let streams = Streams::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        let writer = thread.write(target(&scratch.log(), LogDriver::Journald, &path), streams, Origin::New);
        out.write_all(b"hello\nunfinished").expect("write");
        let first = receive();
        for field in
            ["CONTAINER_ID=0123456789ab\n", "CONTAINER_NAME=web\n", "PRIORITY=6\n", "MESSAGE=hello\n"]
        {
            assert!(first.contains(field), "{first}");
        }
        err.write_all(b"bad\n").expect("write");
        let second = receive();
        assert!(second.contains("PRIORITY=3\n") && second.contains("MESSAGE=bad\n"), "{second}");
        drop((out, err));
        assert!(receive().contains("MESSAGE=unfinished\n"));
        writer.finished().await;
    });
}

#[test]
fn a_journal_that_is_not_there_costs_messages_and_no_time() {
    let scratch = Scratch::new();
    let path = scratch.0.join("journal");
    let (stdout, mut out) = io::pipe().expect("pipe");
    let (stderr, err) = io::pipe().expect("pipe");
    drop(err);
    with_thread(async |thread| {
        let streams = Streams::Pipes { stdout: stdout.into(), stderr: stderr.into() };
        let writer = thread.write(target(&scratch.log(), LogDriver::Journald, &path), streams, Origin::New);
        out.write_all(b"one\ntwo\n").expect("write");
        while ready(writer_end(&out)).expect("ready").bytes > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let journal = std::os::unix::net::UnixDatagram::bind(&path).expect("bind");
        out.write_all(b"three\n").expect("write");
        let mut bytes = [0; 4096];
        let count = journal.recv(&mut bytes).expect("receive");
        let note = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(
            note.contains("MESSAGE=2 messages of the container were not taken by the journal\n"),
            "{note}"
        );
        let count = journal.recv(&mut bytes).expect("receive");
        assert!(String::from_utf8_lossy(&bytes[..count]).contains("MESSAGE=three\n"));
        drop(out);
        writer.finished().await;
    });
}

/// A pipe tells how full it is at either end.
fn writer_end(pipe: &io::PipeWriter) -> std::os::fd::BorrowedFd<'_> {
    pipe.as_fd()
}
