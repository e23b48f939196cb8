//! A host and what it knows of its user: the challenge it made, and the tokens that answer it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use skiff_store::RemoteErrorKind;
use ureq::http::{StatusCode, Uri};

use crate::credentials::{Credentials, Secret};
use crate::error::{Result, denied, failed, quoted};
use crate::exchange::{
    Answer, Call, Exchange, Payload, Tries, Trouble, authority, explanation, kind, read_bounded,
};
use crate::header::{Challenge, challenges};
use crate::url;

/// How this client calls itself to token servers.
const CLIENT: &str = "skiff";
/// Largest answer of a token server, in bytes.
const TOKEN_MAX: u64 = 1 << 20;
/// How long a token is good for that does not say: by docker's specification.
const LIFE_DEFAULT: u64 = 60;
/// A token that ends sooner is renewed before it is used.
const LIFE_MIN: Duration = Duration::from_secs(10);

/// A host that is spoken to.
#[derive(Debug)]
pub(crate) struct Host {
    exchange: Arc<Exchange>,
    /// What credentials are kept under.
    name: String,
    authority: String,
    is_insecure: bool,
    /// `https` or `http`, once it is known.
    scheme: OnceLock<&'static str>,
    /// Held while a token is fetched: who else needs one waits for it.
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    challenge: Option<Challenge>,
    /// By scope.
    tokens: HashMap<String, Token>,
    /// The value of the `Authorization` field for basic challenges, by path: helpers are slow to ask.
    basics: HashMap<String, String>,
}

#[derive(Debug, Clone)]
struct Token {
    /// The value of the `Authorization` field.
    authorization: String,
    ends: Instant,
}

/// What a token server answers.
#[derive(Debug, Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// What is to be allowed, in the words of docker's token specification: `repository:PATH:pull,push`, several separated
/// by blanks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope(pub(crate) String);

impl Host {
    pub(crate) fn new(exchange: Arc<Exchange>, name: &str, authority: &str, is_insecure: bool) -> Self {
        let is_insecure = exchange.is_insecure(is_insecure);
        Self {
            exchange,
            name: name.to_owned(),
            authority: authority.to_owned(),
            is_insecure,
            scheme: OnceLock::new(),
            session: Mutex::default(),
        }
    }

    /// What credentials are kept under.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `path` (from the slash on) on this host. Errors: nobody answers.
    pub(crate) fn uri(&self, path: &str) -> Result<Uri> {
        let scheme = self.scheme()?;
        let text = format!("{scheme}://{}{path}", self.authority);
        text.parse().map_err(|_| failed(format!("{}: not an address", quoted(&text))))
    }

    /// Sends a request with what the host wants to see for `scope`: asks for a token when challenged, and once more
    /// when the one it has is not taken any more. No more than `attempts`, and no more than patience allows.
    pub(crate) fn send(
        &self,
        call: &mut Call<'_>,
        scope: &Scope,
        path: &str,
        attempts: u32,
    ) -> Result<Answer> {
        let mut tries = self.tries(attempts);
        loop {
            match self.attempt(call, scope, path)? {
                Ok(answer) => return Ok(answer),
                Err(trouble) => tries.wait(&trouble)?,
            }
        }
    }

    /// Attempts at a request to this host.
    pub(crate) fn tries(&self, attempts: u32) -> Tries<'_> {
        self.exchange.tries(&self.authority, attempts)
    }

    /// One attempt of [`Host::send`]. The outer errors are about tokens, which have had their own attempts.
    pub(crate) fn attempt(
        &self,
        call: &mut Call<'_>,
        scope: &Scope,
        path: &str,
    ) -> Result<Result<Answer, Trouble>> {
        if !self.is_own(&call.uri)? {
            return Ok(self.exchange.settled(call, None, self.exchange.is_insecure(false)));
        }
        let authorization = self.authorization(scope, path)?;
        let answer = match self.exchange.settled(call, authorization.as_deref(), self.is_insecure) {
            Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && call.is_repeatable() => answer,
            other => return Ok(other),
        };
        if !self.challenged(&answer, scope, authorization.as_deref()) {
            return Ok(Ok(answer));
        }
        match self.authorization(scope, path)? {
            None => Ok(Ok(answer)),
            authorization => Ok(self.exchange.settled(call, authorization.as_deref(), self.is_insecure)),
        }
    }

    /// Whether `uri`, which the host may have named, is its own: only then is it shown what is secret. Errors: it is
    /// somewhere else and not encrypted.
    fn is_own(&self, uri: &Uri) -> Result<bool> {
        let is_own = url::is_same_origin(uri, &self.uri("/")?);
        if !is_own && !self.is_insecure && uri.scheme_str() != Some("https") && self.scheme()? == "https" {
            return Err(failed(format!("{}: sends to {} without encryption", self.name, authority(uri))));
        }
        Ok(is_own)
    }

    /// Hosts that may be plain are asked once; all others speak TLS.
    fn scheme(&self) -> Result<&'static str> {
        if let Some(scheme) = self.scheme.get() {
            return Ok(scheme);
        }
        let may_be_plain = self.is_insecure || self.exchange.is_near(&self.authority);
        let found = if may_be_plain { self.probe()? } else { "https" };
        Ok(self.scheme.get_or_init(|| found))
    }

    /// TLS first, as docker does. A certificate that is not trusted is no reason to go without.
    fn probe(&self) -> Result<&'static str> {
        let ask = |scheme: &str| {
            let uri = format!("{scheme}://{}/v2/", self.authority).parse();
            let uri: Uri = uri.map_err(|_| failed(format!("{}: not a host", self.authority)))?;
            Ok::<_, skiff_store::RemoteError>(self.exchange.once(&mut Call::get(uri), None, self.is_insecure))
        };
        match ask("https")? {
            Err(trouble) if trouble.is_not_tls => Ok("http"),
            // Without a port, the two are at different ones.
            Err(trouble) if trouble.is_nobody && ask("http")?.is_ok() => Ok("http"),
            // Whatever it is, it is said when the request itself is made.
            _ => Ok("https"),
        }
    }

    /// What to say for `scope`, as far as the host has asked before.
    fn authorization(&self, scope: &Scope, path: &str) -> Result<Option<String>> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(challenge) = session.challenge.clone() else { return Ok(None) };
        let credentials = || self.exchange.config.credentials.get(&self.name, path);
        if challenge.scheme == "basic" {
            if let Some(known) = session.basics.get(path) {
                return Ok(Some(known.clone()));
            }
            let basic = credentials()?.and_then(|known| known.basic());
            if let Some(basic) = &basic {
                session.basics.insert(path.to_owned(), basic.clone());
            }
            return Ok(basic);
        }
        let known = session.tokens.get(&scope.0).filter(|token| token.ends > Instant::now() + LIFE_MIN);
        if let Some(token) = known {
            return Ok(Some(token.authorization.clone()));
        }
        let (token, _) = self.fetch(&challenge, scope, credentials()?.as_ref(), false)?;
        let authorization = token.authorization.clone();
        session.tokens.insert(scope.0.clone(), token);
        Ok(Some(authorization))
    }

    /// Takes note of what the host asks for. Whether there is something new to try.
    fn challenged(&self, answer: &Answer, scope: &Scope, used: Option<&str>) -> bool {
        let Some(challenge) = chosen(answer) else { return false };
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stale =
            session.tokens.get(&scope.0).is_some_and(|token| Some(token.authorization.as_str()) == used);
        if is_stale {
            session.tokens.remove(&scope.0);
        }
        let is_refused = challenge.scheme == "basic" && used.is_some();
        if is_refused {
            session.basics.clear();
        }
        session.challenge = Some(challenge);
        !is_refused
    }

    /// Asks the token server that the challenge names. Also the identity token, if there is one and it was wanted.
    fn fetch(
        &self,
        challenge: &Challenge,
        scope: &Scope,
        credentials: Option<&Credentials>,
        for_login: bool,
    ) -> Result<(Token, Option<String>)> {
        let realm = self.realm(challenge)?;
        let service = challenge.get("service").unwrap_or_default();
        let scopes = wanted(scope, challenge);
        let form;
        let mut call;
        let authorization;
        if let Some(Credentials { secret: Secret::IdentityToken(token), .. }) = credentials {
            form = url::form(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT),
                ("scope", &scopes.join(" ")),
                ("refresh_token", token),
            ]);
            authorization = None;
            call = Call::new(ureq::http::Method::POST, realm)
                .with("content-type", "application/x-www-form-urlencoded")
                .sending(Payload::Bytes(form.as_bytes()));
        } else {
            let mut address = realm.to_string();
            if !service.is_empty() {
                address = url::with_query(&address, "service", service);
            }
            for scope in &scopes {
                address = url::with_query(&address, "scope", scope);
            }
            authorization = credentials.and_then(Credentials::basic);
            if let Some(Credentials { user, .. }) = credentials {
                address = url::with_query(&address, "account", user);
            }
            if for_login {
                address =
                    url::with_query(&url::with_query(&address, "offline_token", "true"), "client_id", CLIENT);
            }
            let uri = address
                .parse()
                .map_err(|_| failed(format!("{}: its token server has no address", self.name)))?;
            call = Call::get(uri);
        }
        let server = authority(&call.uri).to_owned();
        let attempts = self.exchange.config.patience.attempts;
        let answer =
            self.exchange.persist(&mut call, authorization.as_deref(), self.is_insecure, attempts)?;
        let status = answer.status();
        if !status.is_success() {
            let message = format!("{server}: no token for {}: {}", self.name, explanation(answer));
            let is_denied = kind(status) == RemoteErrorKind::Denied || status == StatusCode::BAD_REQUEST;
            return Err(if is_denied { denied(message) } else { failed(message) });
        }
        let bytes = read_bounded(answer, TOKEN_MAX, &server)?;
        granted(&bytes).ok_or_else(|| failed(format!("{server}: its answer is no token")))
    }

    /// The token server's address. It is shown credentials, so it is reached by TLS, or is as near as the host itself.
    fn realm(&self, challenge: &Challenge) -> Result<Uri> {
        let text = challenge.get("realm").unwrap_or_default();
        let refuse =
            |why: &str| Err(failed(format!("{}: its token server {:?} {why}", self.name, quoted(text))));
        let uri: Option<Uri> = text.parse().ok();
        let Some(uri) = uri.filter(|uri| uri.scheme().is_some() && uri.host().is_some()) else {
            return refuse("has no address");
        };
        // What stands before it looks like a host and is none.
        if authority(&uri).contains('@') {
            return refuse("has a user in its address");
        }
        let is_near = |authority| self.exchange.is_near(authority);
        let may_be_plain = self.is_insecure || (is_near(&self.authority) && is_near(authority(&uri)));
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if may_be_plain => Ok(uri),
            _ => refuse("is reached without encryption"),
        }
    }

    /// Proves the given user to the host. The identity token that it may give for it.
    pub(crate) fn check(&self, credentials: &Credentials) -> Result<Option<String>> {
        let uri = self.uri("/v2/")?;
        let attempts = self.exchange.config.patience.attempts;
        let mut call = Call::get(uri);
        let answer = self.exchange.persist(&mut call, None, self.is_insecure, attempts)?;
        let (mut authorization, mut identity) = (credentials.basic(), None);
        if answer.status() == StatusCode::UNAUTHORIZED {
            let Some(challenge) = chosen(&answer) else {
                return Err(denied(format!(
                    "{}: it asks for no kind of proof that is known here",
                    self.name
                )));
            };
            if challenge.scheme == "bearer" {
                let (token, refresh) =
                    self.fetch(&challenge, &Scope(String::new()), Some(credentials), true)?;
                (authorization, identity) = (Some(token.authorization), refresh);
            }
        }
        let answer =
            self.exchange.persist(&mut call, authorization.as_deref(), self.is_insecure, attempts)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(identity);
        }
        let message = format!("{}: {}", self.name, explanation(answer));
        Err(if kind(status) == RemoteErrorKind::Denied { denied(message) } else { failed(message) })
    }
}

/// The challenge that is answered: a token rather than the password itself.
fn chosen(answer: &Answer) -> Option<Challenge> {
    let fields = answer.headers().get_all("www-authenticate").iter().filter_map(|field| field.to_str().ok());
    let all: Vec<Challenge> = fields.flat_map(challenges).collect();
    let of = |scheme: &str| all.iter().find(|challenge| challenge.scheme == scheme);
    let bearer = of("bearer").filter(|challenge| challenge.get("realm").is_some());
    bearer.or_else(|| of("basic")).cloned()
}

/// What is asked for: the scope, and what the host adds to it on its own account.
fn wanted(scope: &Scope, challenge: &Challenge) -> Vec<String> {
    let mut scopes: Vec<String> = scope.0.split_ascii_whitespace().map(str::to_owned).collect();
    let subject = |scope: &str| scope.rsplit_once(':').map_or(scope, |(subject, _)| subject).to_owned();
    for more in challenge.get("scope").unwrap_or_default().split_ascii_whitespace() {
        if !scopes.iter().any(|known| subject(known) == subject(more)) {
            scopes.push(more.to_owned());
        }
    }
    scopes
}

fn granted(bytes: &[u8]) -> Option<(Token, Option<String>)> {
    let granted: Granted = serde_json::from_slice(bytes).ok()?;
    let text = granted.token.filter(|text| !text.is_empty()).or(granted.access_token)?;
    let is_fit = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    // Some say 0 and mean that they do not say.
    let life = granted.expires_in.filter(|seconds| *seconds > 0).unwrap_or(LIFE_DEFAULT).min(86_400);
    let token =
        Token { authorization: format!("Bearer {text}"), ends: Instant::now() + Duration::from_secs(life) };
    is_fit.then_some((token, granted.refresh_token.filter(|token| !token.is_empty())))
}

/// Unused headers are no answer to anything; kept beside the rest for the fuzzer.
#[doc(hidden)]
pub fn parse_token(bytes: &[u8]) -> bool {
    granted(bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_the_host_are_added_to_ours() {
        let check = |ours: &str, theirs: &str, expect: &str| {
            let parameters = vec![("scope".to_owned(), theirs.to_owned())];
            let challenge = Challenge { scheme: "bearer".to_owned(), parameters };
            assert_eq!(wanted(&Scope(ours.to_owned()), &challenge).join(" "), expect);
        };
        check("repository:a:pull", "", "repository:a:pull");
        check("repository:a:pull,push", "repository:a:pull", "repository:a:pull,push");
        check("repository:a:pull", "aws other:x:*", "repository:a:pull aws other:x:*");
        check("", "registry:catalog:*", "registry:catalog:*");
    }

    #[test]
    fn tokens_must_fit_into_a_header() {
        let check = |text: &str, expect: Option<&str>| {
            let found = granted(text.as_bytes()).map(|(token, _)| token.authorization);
            assert_eq!(found.as_deref(), expect, "{text}");
        };
        check(r#"{"token":"a.b"}"#, Some("Bearer a.b"));
        check(r#"{"token":"","access_token":"c","expires_in":0}"#, Some("Bearer c"));
        check(r#"{"token":"a\r\nHost: x"}"#, None);
        check(r#"{"expires_in":300}"#, None);
        check("[]", None);
        check(r#"{"token":"a","expires_in":18446744073709551615}"#, Some("Bearer a"));
    }
}
