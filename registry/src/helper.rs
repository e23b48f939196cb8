//! Credential helpers: programs `docker-credential-NAME` that are given a word and standard input, and answer in JSON.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use crate::credentials::{Credentials, Secret};
use crate::error::{Result, cause, failed, quoted};

/// Most that is read of an answer, in bytes.
const ANSWER_MAX: u64 = 64 << 10;
/// Long enough for somebody to unlock a key ring.
const TIME_MAX: Duration = Duration::from_secs(60);
/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the helper keeps for this server.
pub(crate) fn get(name: &str, server: &str) -> Result<Option<Credentials>> {
    let (succeeded, answer) = run(name, "get", server.as_bytes())?;
    if !succeeded {
        // The protocol has no code for it, only this sentence.
        if answer.contains("credentials not found") {
            return Ok(None);
        }
        return Err(refused(name, &answer));
    }
    let answer: Answer = serde_json::from_str(&answer)
        .map_err(|_| failed(format!("credential helper {name}: its answer is not the JSON of a helper")))?;
    if answer.username == TOKEN_USER {
        return Ok(Some(Credentials { user: String::new(), secret: Secret::IdentityToken(answer.secret) }));
    }
    Ok((!answer.username.is_empty()).then(|| Credentials::password(answer.username, answer.secret)))
}

/// Has the helper keep this.
pub(crate) fn store(name: &str, server: &str, credentials: &Credentials) -> Result<()> {
    let (user, secret) = match &credentials.secret {
        Secret::Password(password) => (credentials.user.as_str(), password),
        Secret::IdentityToken(token) => (TOKEN_USER, token),
    };
    let words = json!({ "ServerURL": server, "Username": user, "Secret": secret });
    order(name, "store", words.to_string().as_bytes())
}

/// Has the helper forget what it keeps.
pub(crate) fn erase(name: &str, server: &str) -> Result<()> {
    order(name, "erase", server.as_bytes())
}

fn order(name: &str, verb: &str, input: &[u8]) -> Result<()> {
    let (succeeded, answer) = run(name, verb, input)?;
    if succeeded { Ok(()) } else { Err(refused(name, &answer)) }
}

fn refused(name: &str, answer: &str) -> skiff_store::RemoteError {
    failed(format!("credential helper {name}: {}", quoted(answer)))
}

/// Runs the helper to its end. Whether it succeeded, and what it printed.
fn run(name: &str, verb: &str, input: &[u8]) -> Result<(bool, String)> {
    run_within(TIME_MAX, name, verb, input)
}

fn run_within(most: Duration, name: &str, verb: &str, input: &[u8]) -> Result<(bool, String)> {
    // The name is looked up on the path; a slash would make it a path of its own.
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(failed(format!("credential helper {:?}: not a helper's name", quoted(name))));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("start {program}: {}", cause(&error))))?;
    let deadline = Instant::now() + most;
    let answer = converse(&mut child, input, most);
    let ended = wait_until(&mut child, if answer.is_some() { deadline } else { Instant::now() });
    let (Some(answer), Some(succeeded)) = (answer, ended) else {
        return Err(failed(format!("credential helper {name}: no answer within {} s", most.as_secs())));
    };
    Ok((succeeded, String::from_utf8_lossy(&answer).into_owned()))
}

/// Says `input` and hears the answer; `None` if that takes too long.
fn converse(child: &mut Child, input: &[u8], most: Duration) -> Option<Vec<u8>> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let input = input.to_owned();
    let (sender, receiver) = mpsc::channel();
    // Blocked for as long as something holds the pipe, which may be longer than anybody waits here.
    thread::spawn(move || {
        // One that has no need to read may close early.
        let _written = stdin.map(|mut stdin| stdin.write_all(&input));
        let mut answer = Vec::new();
        let _read = stdout.map(|stdout| stdout.take(ANSWER_MAX).read_to_end(&mut answer));
        let _heard = sender.send(answer);
    });
    receiver.recv_timeout(most).ok()
}

/// Whether it succeeded; kills it at the deadline.
fn wait_until(child: &mut Child, deadline: Instant) -> Option<bool> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            _ => break,
        }
    }
    let _killed = child.kill();
    let _reaped = child.wait();
    None
}
