use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

use super::*;
use crate::entries::Input;

/// A file in memory, as it were.
fn temporary() -> File {
    let name = format!("skiff-recipe-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

fn holding(content: &[u8]) -> File {
    let file = temporary();
    file.write_all_at(content, 0).unwrap();
    file
}

fn bytes(file: &File) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut all, 0).unwrap();
    all
}

/// The recipe of `archive`, in which the ranges `files` are contents of `a`, `b`, …
fn record(archive: &[u8], files: &[(usize, usize)], lost: &[Lost], now: &'static [u8]) -> Vec<u8> {
    let out = temporary();
    let mut tap = Tap::new(Cursor::new(archive), Some(Recorder::new(out.try_clone().unwrap()).unwrap()));
    let mut at = 0;
    for (number, &(start, end)) in files.iter().enumerate() {
        tap.skip((start - at) as u64).unwrap();
        tap.recorder().unwrap().begin(&[b'a' + u8::try_from(number).unwrap()]);
        tap.skip((end - start) as u64).unwrap();
        tap.recorder().unwrap().end();
        at = end;
    }
    io::copy(&mut tap, &mut io::sink()).unwrap();
    let (_, recorder) = tap.into_parts();
    let mut find = |_: Place, _: &[u8]| Ok(holding(now));
    recorder.unwrap().finish(lost, &mut find, &mut || Ok(temporary())).unwrap();
    bytes(&out)
}

/// What the recipe makes where all files hold `content`.
fn replay(recipe: &[u8], content: &'static [u8]) -> io::Result<Vec<u8>> {
    let mut replay = Replay::new(recipe, Box::new(move |_| Ok(holding(content))))?;
    let length = replay.left();
    let mut all = Vec::new();
    replay.read_to_end(&mut all)?;
    assert_eq!(all.len() as u64, length);
    Ok(all)
}

#[test]
fn what_was_recorded_comes_again() {
    for archive in
        [&b""[..], b"x", &[0; 200_000], &[7; 200_000], b"\0\0\0\0\0\0\0\0\0\0x\0\0\0\0\0\0\0\0\0\0"]
    {
        assert_eq!(replay(&record(archive, &[], &[], b""), b"").unwrap(), archive);
    }
    let archive = b"head hello tail hello";
    let recipe = record(archive, &[(5, 10), (16, 21)], &[], b"");
    assert_eq!(replay(&recipe, b"hello").unwrap(), archive);
    assert_eq!(replay(&recipe, b"HELLO").unwrap(), b"head HELLO tail HELLO");
}

#[test]
fn only_what_was_there_before_the_loss_is_lost() {
    let archive = b"head hello tail hello";
    let lost = |path: &[u8], files| Lost { path: path.to_vec(), files, place: Place::Trash(0) };
    let check = |lost: &[Lost], expect: &[u8]| {
        let recipe = record(archive, &[(5, 10), (16, 21)], lost, b"hELLO");
        assert_eq!(replay(&recipe, b"hello").unwrap(), expect);
    };
    check(&[lost(b"a", 1)], b"head hELLO tail hello");
    check(&[lost(b"a", 0), lost(b"b", 1)], archive);
    check(&[lost(b"", 2)], b"head hELLO tail hELLO");
    check(&[lost(b"ab", 2)], archive);
}

#[test]
fn a_recipe_that_was_given_up_is_empty() {
    let out = temporary();
    let mut recorder = Recorder::new(out.try_clone().unwrap()).unwrap();
    recorder.give_up();
    recorder.finish(&[], &mut |_, _| unreachable!(), &mut || unreachable!()).unwrap();
    assert_eq!(bytes(&out), b"");
}

#[test]
fn damage_is_an_error() {
    let archive = b"head hello tail hello";
    let recipe = record(archive, &[(5, 10), (16, 21)], &[], b"");
    for at in 0..recipe.len() {
        assert!(replay(&recipe[..at], b"hello").is_err(), "cut at {at}");
        let mut spoilt = recipe.clone();
        spoilt[at] ^= 0x10;
        // Of one bit in the frame's header zstd takes no notice.
        let got = replay(&spoilt, b"hello");
        assert!(got.as_ref().map_or(true, |got| got == archive), "bit in byte {at}: {got:?}");
    }
    assert!(
        replay(&recipe, b"hell").unwrap_err().to_string().contains("file \"a\": the data ends too early")
    );
}

/// Steps that no recorder writes.
#[test]
fn steps_that_lie_are_refused() {
    let check = |length: u64, steps: &[u8], expect: &str| {
        let mut recipe = [&MAGIC[..], &length.to_le_bytes()].concat();
        recipe.extend(zstd::encode_all(steps, 1).unwrap());
        let error = replay(&recipe, b"x").unwrap_err().to_string();
        assert!(error.contains(expect), "{error}, expected {expect}");
    };
    check(0, &[9], "no step of a recipe is called 9");
    check(0, &[], "fill whole buffer");
    check(0, &[ZEROS, 0x80], "fill whole buffer");
    check(0, &[[ZEROS].as_slice(), &[0xff; 10]].concat(), "a number out of range");
    check(0, &[LITERAL, 0x81, 0x80, 0x04, 1], "a step that is too long");
    check(0, &[FILE, 0x81, 0x20, 1], "a step that is too long");
    check(2, &[CONTENT, 0, 1, END], "content of no file");
    check(2, &[FILE, 1, b'a', CONTENT, 0, 1, END], "makes less than it says");
    check(2, &[ZEROS, 3, END], "makes more than it says");
    check(2, &[FILE, 1, b'a', CONTENT, 1, 1, END], "the data ends too early");
}
