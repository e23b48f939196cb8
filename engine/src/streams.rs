//! What a container's program reads from and writes to where no client's streams are its own.
//!
//! The engine's ends outlive the daemon: the spawner holds them too, with a note that says which is which.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};

/// The engine's ends of a container's streams.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Where its input is written.
    pub(crate) input: Option<OwnedFd>,
    /// Where its output and errors are read.
    pub(crate) output: Option<[OwnedFd; 2]>,
    /// The master of its terminal, in the place of all three.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Words of a note.
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const ERRORS: &str = "errors";
const TERMINAL: &str = "terminal";

/// Makes the streams of a program of this user, who may open them again (`/dev/stdout`), and the engine's ends.
pub(crate) fn pipes(is_interactive: bool, uid: u32, gid: u32) -> io::Result<([OwnedFd; 3], Ends)> {
    let (stdin, input) = if is_interactive {
        let (stdin, input) = pipe(uid, gid)?;
        (stdin, Some(input))
    } else {
        (OwnedFd::from(File::open("/dev/null")?), None)
    };
    let (output, stdout) = pipe(uid, gid)?;
    let (errors, stderr) = pipe(uid, gid)?;
    Ok(([stdin, stdout, stderr], Ends { input, output: Some([output, errors]), terminal: None }))
}

fn pipe(uid: u32, gid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // One inode for both ends. Without root the user is another than the host's; nothing is lost then.
    if uid != 0 || gid != 0 {
        let _refused = fchown(&read, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    }
    Ok((read, write))
}

impl Ends {
    /// The note by which they are known again, and them.
    pub(crate) fn kept(&self) -> (String, Vec<BorrowedFd<'_>>) {
        let output = |index: usize| self.output.as_ref().map(|output| &output[index]);
        let all = [
            (INPUT, self.input.as_ref()),
            (OUTPUT, output(0)),
            (ERRORS, output(1)),
            (TERMINAL, self.terminal.as_ref()),
        ];
        let (words, descriptors): (Vec<&str>, Vec<_>) =
            all.into_iter().filter_map(|(word, end)| Some((word, end?.as_fd()))).unzip();
        (words.join(" "), descriptors)
    }

    /// What was kept with such a note.
    pub(crate) fn restore(note: &str, descriptors: Vec<OwnedFd>) -> Self {
        let mut ends = Self::default();
        let (mut output, mut errors) = (None, None);
        for (word, descriptor) in note.split(' ').zip(descriptors) {
            match word {
                INPUT => ends.input = Some(descriptor),
                OUTPUT => output = Some(descriptor),
                ERRORS => errors = Some(descriptor),
                TERMINAL => ends.terminal = Some(descriptor),
                _ => {}
            }
        }
        ends.output = output.zip(errors).map(|(output, errors)| [output, errors]);
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn ends_are_known_again_by_their_note() {
        for is_interactive in [false, true] {
            let (streams, ends) = pipes(is_interactive, 0, 0).expect("pipes");
            let (note, kept) = ends.kept();
            let copies = kept.iter().map(|end| end.try_clone_to_owned().expect("dup")).collect();
            let restored = Ends::restore(&note, copies);
            drop(ends);
            let [stdin, stdout, stderr] = streams.map(File::from);
            assert_eq!(restored.input.is_some(), is_interactive);
            for (mut from, to, text) in restored
                .output
                .map(|[output, errors]| [(stdout, output, "out"), (stderr, errors, "err")])
                .expect("two pipes")
            {
                from.write_all(text.as_bytes()).expect("write");
                drop(from);
                let mut read = String::new();
                File::from(to).read_to_string(&mut read).expect("read");
                assert_eq!(read, text);
            }
            drop(restored.input);
            let mut rest = String::new();
            File::read_to_string(&mut { stdin }, &mut rest).expect("the input has ended");
        }
    }

    #[test]
    fn a_note_that_is_not_understood_keeps_nothing() {
        let ends = Ends::restore("", vec![File::open("/dev/null").expect("open").into()]);
        assert!(ends.input.is_none() && ends.output.is_none() && ends.terminal.is_none());
    }
}
