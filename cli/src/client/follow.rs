//! Learning of a container's end, whichever daemon tells of it: one that is killed or leaves meanwhile is followed by another, which has
//! the same containers.

use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{self, JoinHandle};

use skiff_engine::protocol::{Reply, Request};
use skiff_engine::{Client, Error};

use super::{connect, os, unexpected};
use crate::failure::Failure;

/// After so many daemons that have gone, something is wrong with them.
const DAEMONS_MAX: u32 = 100;

/// The end of one container, as something to poll.
#[derive(Debug)]
pub(super) struct End {
    /// Readable when it has come.
    told: io::PipeReader,
    thread: JoinHandle<(Result<u8, Failure>, PipeWriter)>,
}

impl End {
    /// That of the container `id`, of which the daemon at the other end of `client` is going to tell.
    pub(super) fn of(client: Client, id: String) -> Result<Self, Failure> {
        let (told, mut tell) = io::pipe().map_err(|error| os("make a pipe", &error))?;
        let wait = move || {
            let end = until_told(client, &id);
            // Nobody may listen any more. The pipe stays open, so that its end is not seen besides.
            let _told = tell.write_all(b".");
            (end, tell)
        };
        let thread = thread::Builder::new().stack_size(128 << 10).spawn(wait);
        Ok(Self { told, thread: thread.map_err(|error| os("start a thread", &error))? })
    }

    /// The exit code, once it is told.
    pub(super) fn code(self) -> Result<u8, Failure> {
        let (end, _tell) = self.thread.join().map_err(|_| Failure::engine("the thread has failed"))?;
        end
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// Waits for the end of a container that runs; its exit code.
pub(super) fn wait(container: &str) -> Result<u8, Failure> {
    let request = Request::Wait { containers: vec![container.to_owned()] };
    let mut daemons = 0;
    loop {
        let mut client = connect()?;
        client.request(&request, &[])?;
        daemons += 1;
        match client.reply() {
            Ok((Reply::Exited { code, .. }, _)) => return Ok(code),
            Ok((Reply::Leaving, _)) | Err(Error::Host(_)) if daemons < DAEMONS_MAX => {}
            Ok((other, _)) => return Err(unexpected(&other)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a daemon tells of the end; of one that has gone, the next is asked.
fn until_told(client: Client, id: &str) -> Result<u8, Failure> {
    let mut listening = Some(client);
    for _ in 0..DAEMONS_MAX {
        if let Some(mut client) = listening.take() {
            match client.reply() {
                Ok((Reply::Exited { code, .. }, _)) => return Ok(code),
                Ok((other, _)) => return Err(unexpected(&other)),
                Err(Error::Host(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // What it wrote last is in its log when the answer to this one comes.
        let request = Request::Logs { container: id.to_owned(), follow: true };
        let asked = connect().map(|mut client| {
            let answer = client.request(&request, &[]).and_then(|()| client.reply());
            (client, answer)
        });
        match asked {
            Ok((next, Ok((Reply::Log { .. }, _)))) => listening = Some(next),
            // That one goes, too.
            Ok((_, Ok((Reply::Leaving, _)) | Err(Error::Host(_)))) => {}
            // It has no log that could be followed, or is gone by now.
            _ => return wait(id),
        }
    }
    Err(Failure::engine("the daemon goes away again and again"))
}
