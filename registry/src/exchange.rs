//! One request and its answer: redirects are followed, and what fails for reasons that pass is tried again.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use skiff_store::{RemoteError, RemoteErrorKind};
use ureq::SendBody;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};

use crate::config::{Config, Patience};
use crate::connection::Connections;
use crate::error::{Result, cause, failed, quoted};
use crate::tls::is_authoritys;
use crate::{header as field, url};

/// Redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Most that is read of an answer that only explains a failure, in bytes.
const EXPLANATION_MAX: u64 = 64 << 10;

pub(crate) type Answer = Response<ureq::Body>;

/// What is asked.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Payload<'a>,
}

/// What is sent along.
pub(crate) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// A stream to its end, which cannot be sent twice.
    Stream(&'a mut dyn Read),
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: Vec::new(), body: Payload::Nothing }
    }

    pub(crate) fn get(uri: Uri) -> Self {
        Self::new(Method::GET, uri)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.body, Payload::Stream(_))
    }

    pub(crate) fn sending(mut self, body: Payload<'a>) -> Self {
        self.body = body;
        self
    }
}

/// A request that got no answer, or one that only asks to come again.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// Whether the same request may be answered later.
    passes: bool,
    /// How long the server asks to wait.
    asked: Option<Duration>,
    /// Whether what answered does not speak TLS, or does not speak at all.
    pub(crate) is_not_tls: bool,
    /// Whether nothing listens there.
    pub(crate) is_nobody: bool,
    pub(crate) message: String,
}

/// Attempts at one request, and the time between them.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    patience: &'a Patience,
    host: String,
    done: u32,
    most: u32,
}

/// What all hosts have in common.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) config: Config,
    connections: Connections,
    /// Hosts that have answered once: what they do not answer later is tried again, while a host that has never
    /// answered is likely a wrong name.
    reached: Mutex<HashSet<String>>,
}

impl Exchange {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, connections: Connections::default(), reached: Mutex::default() }
    }

    /// Whether plain HTTP and unknown certificates will do for this host, which the rules call insecure or not.
    pub(crate) fn is_insecure(&self, by_rule: bool) -> bool {
        match self.config.tls_verify {
            Some(verify) => !verify,
            None => by_rule,
        }
    }

    /// Whether plain HTTP will do for `HOST[:PORT]` because it is this machine.
    pub(crate) fn is_near(&self, authority: &str) -> bool {
        self.config.tls_verify != Some(true) && url::is_loopback(authority)
    }

    /// Sends the request until there is an answer that is not for a reason that passes: any status but those.
    ///
    /// `authorization` goes to the request's own origin only. Errors: there was none in all attempts; the message
    /// begins with the host.
    pub(crate) fn persist(
        &self,
        call: &mut Call<'_>,
        authorization: Option<&str>,
        is_insecure: bool,
        attempts: u32,
    ) -> Result<Answer> {
        let mut tries = self.tries(authority(&call.uri), attempts);
        loop {
            match self.settled(call, authorization, is_insecure) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => tries.wait(&trouble)?,
            }
        }
    }

    /// At most so many attempts at a request to `host`, and no more than patience allows.
    pub(crate) fn tries(&self, host: &str, attempts: u32) -> Tries<'_> {
        let patience = &self.config.patience;
        Tries { patience, host: host.to_owned(), done: 0, most: attempts.min(patience.attempts) }
    }

    /// One attempt; an answer that asks to come again is trouble.
    pub(crate) fn settled(
        &self,
        call: &mut Call<'_>,
        authorization: Option<&str>,
        is_insecure: bool,
    ) -> Result<Answer, Trouble> {
        let answer = self.once(call, authorization, is_insecure)?;
        if !is_passing(answer.status()) {
            return Ok(answer);
        }
        let asked = value(&answer, "retry-after").and_then(|it| field::retry_after(it, SystemTime::now()));
        Err(Trouble { passes: true, asked, ..Trouble::lasting(explanation(answer)) })
    }

    /// One attempt, with redirects. What has a body is not sent to another origin, and a challenge of another origin is
    /// left out of the answer.
    pub(crate) fn once(
        &self,
        call: &mut Call<'_>,
        authorization: Option<&str>,
        is_insecure: bool,
    ) -> Result<Answer, Trouble> {
        let lasting = Trouble::lasting;
        let mut uri = call.uri.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_home = url::is_same_origin(&uri, &call.uri);
            let authorization = authorization.filter(|_| is_home);
            let mut answer =
                self.attempt(call, &uri, authorization, self.is_insecure(is_insecure && is_home))?;
            if !is_home {
                // It would be taken for the challenge of the host that was asked, and be answered with its secrets.
                answer.headers_mut().remove(header::WWW_AUTHENTICATE);
            }
            if !is_redirect(&call.method, answer.status()) || !call.is_repeatable() {
                return Ok(answer);
            }
            let target = value(&answer, "location").and_then(|location| url::resolve(&uri, location));
            let target = target.ok_or_else(|| lasting("redirects to what is no address".to_owned()))?;
            // A form may hold an identity token.
            if !matches!(call.body, Payload::Nothing) && !url::is_same_origin(&target, &call.uri) {
                return Err(lasting(format!("redirects what is sent to {}", authority(&target))));
            }
            let is_plain = target.scheme_str() == Some("http");
            if is_plain
                && !is_insecure
                && !(uri.scheme_str() == Some("http") && self.is_near(authority(&target)))
            {
                return Err(lasting(format!("redirects to {} without encryption", authority(&target))));
            }
            uri = target;
        }
        Err(lasting("redirects without end".to_owned()))
    }

    fn attempt(
        &self,
        call: &mut Call<'_>,
        uri: &Uri,
        authorization: Option<&str>,
        is_insecure: bool,
    ) -> Result<Answer, Trouble> {
        let lasting = Trouble::lasting;
        let agent = self
            .connections
            .to(uri, is_insecure, &self.config)
            .map_err(|error: RemoteError| lasting(error.message))?;
        let mut request = Request::builder().method(&call.method).uri(uri);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let build = |error: ureq::http::Error| lasting(error.to_string());
        let outcome = match &mut call.body {
            Payload::Nothing if call.method == Method::POST || call.method == Method::PUT => {
                agent.run(request.body(&[][..]).map_err(build)?)
            }
            Payload::Nothing => agent.run(request.body(()).map_err(build)?),
            Payload::Bytes(bytes) => agent.run(request.body(*bytes).map_err(build)?),
            Payload::Stream(stream) => {
                agent.run(request.body(SendBody::from_reader(*stream)).map_err(build)?)
            }
        };
        let host = authority(uri);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(answer) => {
                if !reached.contains(host) {
                    reached.insert(host.to_owned());
                }
                Ok(answer)
            }
            Err(error) => Err(trouble(&error, reached.contains(host))),
        }
    }
}

impl Trouble {
    /// What no waiting changes.
    pub(crate) fn lasting(message: String) -> Self {
        Self { passes: false, asked: None, is_not_tls: false, is_nobody: false, message }
    }
}

impl From<RemoteError> for Trouble {
    fn from(error: RemoteError) -> Self {
        Self::lasting(error.message)
    }
}

impl Tries<'_> {
    /// Waits until it is time for the next attempt. Errors: there is none; in words for the user.
    pub(crate) fn wait(&mut self, trouble: &Trouble) -> Result<()> {
        self.done += 1;
        let Self { patience, host, done, most } = self;
        let Trouble { passes, asked, message, .. } = trouble;
        let tries = if *done > 1 { format!(" ({done} attempts)") } else { String::new() };
        if !passes || done >= most {
            return Err(failed(format!("{host}: {message}{tries}")));
        }
        let wait = wait(patience, *done, *asked).ok_or_else(|| {
            let seconds = asked.unwrap_or_default().as_secs();
            failed(format!("{host}: {message}{tries}; it asks to wait for {seconds} s"))
        })?;
        tracing::debug!(%host, %message, ?wait, "trying again");
        thread::sleep(wait);
        Ok(())
    }
}

/// What an answer that is a failure says, in one line: the errors of the specification, else the status.
pub(crate) fn explanation(answer: Answer) -> String {
    let status = answer.status();
    let mut text = String::new();
    let body = answer.into_body().into_reader();
    let _read = body.take(EXPLANATION_MAX).read_to_string(&mut text);
    explain(status, &text)
}

/// Two shapes are in use: `{"errors":[{"code","message"}]}` and, of token servers, `{"details"}` or `{"message"}`.
fn explain(status: StatusCode, text: &str) -> String {
    let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let word = |value: &serde_json::Value, key: &str| {
        value[key].as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let one = |error: &serde_json::Value| match (word(error, "code"), word(error, "message")) {
        (Some(code), Some(message)) => Some(format!("{}: {message}", code.to_lowercase().replace('_', " "))),
        (code, message) => message.or(code),
    };
    let errors = document["errors"].as_array().into_iter().flatten().filter_map(one).collect::<Vec<_>>();
    let said = if errors.is_empty() {
        ["details", "error_description", "message", "error"].iter().find_map(|key| word(&document, key))
    } else {
        Some(errors.join("; "))
    };
    let reason = status.canonical_reason().unwrap_or_default().to_lowercase();
    match said {
        Some(said) => quoted(&said),
        None => format!("{} {reason}", status.as_u16()).trim_end().to_owned(),
    }
}

/// A header's value, if it is text.
pub(crate) fn value<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// The kind of failure that a status stands for.
pub(crate) fn kind(status: StatusCode) -> RemoteErrorKind {
    match status.as_u16() {
        401 | 403 => RemoteErrorKind::Denied,
        404 | 410 => RemoteErrorKind::NotFound,
        _ => RemoteErrorKind::Failed,
    }
}

/// Host and port, as written.
pub(crate) fn authority(uri: &Uri) -> &str {
    uri.authority().map(|it| it.as_str()).unwrap_or_default()
}

/// The body as text of at most `most` bytes.
pub(crate) fn read_bounded(answer: Answer, most: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut body = answer.into_body().into_reader().take(most + 1);
    body.read_to_end(&mut bytes).map_err(|error| failed(format!("{what}: {}", io_cause(&error))))?;
    if bytes.len() as u64 > most {
        return Err(failed(format!("{what}: more than {most} bytes")));
    }
    Ok(bytes)
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn is_redirect(method: &Method, status: StatusCode) -> bool {
    match status.as_u16() {
        301..=303 => matches!(*method, Method::GET | Method::HEAD),
        307 | 308 => true,
        _ => false,
    }
}

/// How long to wait after this attempt; `None` if the server asks for more than anybody would.
fn wait(patience: &Patience, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
    let doubled = patience.first_wait.saturating_mul(1 << (attempt - 1).min(16)).min(patience.longest_wait);
    let half = doubled / 2;
    let wait = half + half.mul_f64(random());
    match asked {
        // All that were refused at once ask again at once, unless each adds something of its own.
        Some(asked) if asked <= patience.longest_wait => Some(asked + half.mul_f64(random())),
        Some(_) => None,
        None => Some(wait),
    }
}

/// From 0 to 1; good enough to keep clients apart.
fn random() -> f64 {
    // The standard library seeds each of these anew.
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}

fn trouble(error: &ureq::Error, was_reached: bool) -> Trouble {
    if let Some(error) = tls(error) {
        let is_not_tls = matches!(error, rustls::Error::InvalidMessage(_));
        let message = match is_authoritys(error) {
            true => "the server's certificate is its own authority, which is not trusted".to_owned(),
            false => error.to_string(),
        };
        return Trouble { is_not_tls, ..Trouble::lasting(quoted(&format!("TLS: {message}"))) };
    }
    let (passes, message) = match error {
        ureq::Error::Io(error) => (is_passing_io(error, was_reached), io_cause(error)),
        ureq::Error::Timeout(what) => (was_reached, format!("no answer in time ({what})")),
        ureq::Error::HostNotFound => (was_reached, "no such host".to_owned()),
        ureq::Error::Protocol(error) => (true, quoted(&format!("not HTTP: {error}"))),
        other => (false, quoted(&other.to_string())),
    };
    let is_nobody =
        matches!(error, ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused);
    let is_not_tls = matches!(error, ureq::Error::Io(_)) && !is_nobody;
    Trouble { passes, is_not_tls, is_nobody, ..Trouble::lasting(message) }
}

fn is_passing_io(error: &io::Error, was_reached: bool) -> bool {
    use io::ErrorKind::*;
    match error.kind() {
        // Nobody is there: a wrong name or port rather than a bad moment, unless it has just worked.
        ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable => was_reached,
        InvalidInput | InvalidData | PermissionDenied | Unsupported => false,
        _ if error.to_string().contains("lookup address") => was_reached,
        _ => true,
    }
}

/// An error of a body's reader or of a request, in words.
pub(crate) fn io_cause(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(_)) => "no data in time".to_owned(),
        Some(ureq::Error::Io(inner)) => io_cause(inner),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "the connection ended too early".to_owned(),
        _ => cause(error),
    }
}

fn tls(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_explained_in_one_line() {
        let check = |text: &str, expect: &str| {
            assert_eq!(explain(StatusCode::NOT_FOUND, text), expect, "{text}");
        };
        check(
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown","detail":{}},{"code":"X"}]}"#,
            "manifest unknown: manifest unknown; X",
        );
        check(r#"{"details":"incorrect username or password"}"#, "incorrect username or password");
        check(r#"{"errors":[]}"#, "404 not found");
        check("<html>\u{1b}[2J", "404 not found");
        check("", "404 not found");
        assert!(explain(StatusCode::OK, &format!("{{\"message\":\"{}\"}}", "x".repeat(9999))).len() < 400);
    }

    #[test]
    fn waits_grow_differ_and_obey_the_server() {
        let patience = Patience::default();
        let second = Duration::from_secs(1);
        for attempt in 1..40 {
            let wait = wait(&patience, attempt, None).expect("a wait");
            assert!(wait >= patience.first_wait / 2 && wait <= patience.longest_wait, "{attempt} {wait:?}");
        }
        assert!(wait(&patience, 5, None).expect("a wait") >= 4 * second);
        let asked = wait(&patience, 1, Some(7 * second)).expect("a wait");
        assert!(asked >= 7 * second && asked < 8 * second, "{asked:?}");
        assert_eq!(wait(&patience, 1, Some(3600 * second)), None);
    }
}
