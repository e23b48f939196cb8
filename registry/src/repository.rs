//! What is read of a repository: manifests and blobs, of mirrors first if there are any.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skiff_store::{Digest, Document, ImageName, ManifestRef, Remote, RemoteError, RemoteErrorKind};
use ureq::http::{Method, StatusCode};

use crate::error::{Result, failed};
use crate::exchange::{Answer, Call, Trouble, explanation, io_cause, kind, read_bounded, value};
use crate::header::content_range;
use crate::rules::Serves;
use crate::session::{Host, Scope};

/// Largest manifest or index, in bytes: what the specification asks registries to take at least.
const MANIFEST_MAX: u64 = 4 << 20;
/// Attempts at a mirror; what it does not have, the next one may.
const MIRROR_ATTEMPTS: u32 = 2;

/// What a manifest or an index may be. Docker's first schema is not among them.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
                              application/vnd.oci.image.manifest.v1+json, \
                              application/vnd.docker.distribution.manifest.list.v2+json, \
                              application/vnd.docker.distribution.manifest.v2+json, \
                              */*;q=0.1";

/// What is going to be done with a repository: what tokens are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
    /// Read, write and delete.
    Delete,
}

/// One repository of a registry.
#[derive(Debug)]
pub struct Repository {
    /// Host and path as the user knows them.
    pub(crate) name: ImageName,
    /// Mirrors, and last the repository itself.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A place where the repository is, or a copy of it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) host: Arc<Host>,
    /// Path of the repository there.
    pub(crate) path: String,
    pub(crate) scope: Scope,
    serves: Serves,
    /// Set once it does not answer: it is not asked again.
    is_silent: AtomicBool,
}

/// What a registry says of a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// As the registry says it.
    pub media_type: String,
    /// `None` if the registry does not say, or in another algorithm.
    pub digest: Option<Digest>,
    /// In bytes, if the registry says so.
    pub size: Option<u64>,
}

impl Access {
    /// For `repository:PATH:` in a scope.
    pub(crate) fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
            Self::Delete => "pull,push,delete",
        }
    }
}

impl Endpoint {
    pub(crate) fn new(host: Arc<Host>, path: &str, access: Access, serves: Serves) -> Self {
        let scope = Scope(format!("repository:{path}:{}", access.actions()));
        Self { host, path: path.to_owned(), scope, serves, is_silent: AtomicBool::new(false) }
    }

    /// Sends a request about something below the repository: `tail` is what follows `/v2/PATH/`.
    pub(crate) fn call<'a>(&self, method: Method, tail: &str) -> Result<Call<'a>> {
        Ok(Call::new(method, self.host.uri(&format!("/v2/{}/{tail}", self.path))?))
    }

    pub(crate) fn send(&self, call: &mut Call<'_>, attempts: u32) -> Result<Answer> {
        self.host.send(call, &self.scope, &self.path, attempts)
    }

    pub(crate) fn attempt(&self, call: &mut Call<'_>) -> Result<Result<Answer, Trouble>> {
        self.host.attempt(call, &self.scope, &self.path)
    }
}

impl Repository {
    /// Host and path as the user knows them.
    pub fn name(&self) -> &ImageName {
        &self.name
    }

    /// The repository itself, which is what is written to.
    pub(crate) fn origin(&self) -> Result<&Endpoint> {
        self.endpoints
            .last()
            .ok_or_else(|| failed(format!("{}: nowhere to be found", self.name.repository())))
    }

    /// What the registry says of a manifest or index. Errors: as for [`Remote::manifest`].
    pub fn describe(&self, which: &ManifestRef) -> Result<Descriptor> {
        self.first(Some(which), |endpoint, attempts| {
            let mut call = endpoint.call(Method::HEAD, &manifest_tail(which))?.with("accept", MANIFEST_TYPES);
            let answer = endpoint.send(&mut call, attempts)?;
            if answer.status() != StatusCode::OK {
                return Err(self.refusal(answer, &self.manifest_name(which)));
            }
            Ok(Descriptor {
                media_type: media_type(&answer),
                digest: said_digest(&answer).or(match which {
                    ManifestRef::Digest(digest) => Some(*digest),
                    ManifestRef::Tag(_) => None,
                }),
                size: value(&answer, "content-length").and_then(|length| length.parse().ok()),
            })
        })
    }

    /// Asks one place after the other, and answers with the first success, or with what the last one says.
    fn first<'a, T>(
        &'a self,
        which: Option<&ManifestRef>,
        ask: impl Fn(&'a Endpoint, u32) -> Result<T>,
    ) -> Result<T> {
        let (origin, mirrors) = match self.endpoints.split_last() {
            Some(all) => all,
            None => return Err(self.origin().err().unwrap_or_else(|| failed("no place"))),
        };
        for mirror in mirrors.iter().filter(|mirror| mirror.serves(which)) {
            match ask(mirror, MIRROR_ATTEMPTS) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    tracing::debug!(mirror = mirror.host.name(), %error, "the next place is asked");
                    let is_silent = error.kind == RemoteErrorKind::Failed;
                    mirror.is_silent.fetch_or(is_silent, Ordering::Relaxed);
                }
            }
        }
        ask(origin, u32::MAX)
    }

    fn manifest_of(&self, endpoint: &Endpoint, attempts: u32, which: &ManifestRef) -> Result<Document> {
        let mut call = endpoint.call(Method::GET, &manifest_tail(which))?.with("accept", MANIFEST_TYPES);
        let answer = endpoint.send(&mut call, attempts)?;
        let what = self.manifest_name(which);
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer, &what));
        }
        let media_type = media_type(&answer);
        let said = match which {
            ManifestRef::Digest(digest) => Some(*digest),
            ManifestRef::Tag(_) => said_digest(&answer),
        };
        let bytes = read_bounded(answer, MANIFEST_MAX, &what)?;
        let found = Digest::of(&bytes);
        match said.filter(|said| *said != found) {
            Some(said) => {
                Err(failed(format!("{what}: {} says {said} and sends {found}", endpoint.host.name())))
            }
            None => Ok(Document { media_type, bytes }),
        }
    }

    fn blob_of<'a>(
        &self,
        endpoint: &'a Endpoint,
        attempts: u32,
        digest: Digest,
        offset: u64,
    ) -> Result<Content<'a>> {
        let mut call = endpoint.call(Method::GET, &format!("blobs/{digest}"))?;
        if offset > 0 {
            call = call.with("range", format!("bytes={offset}-"));
        }
        let answer = endpoint.send(&mut call, attempts)?;
        let what = format!("{} blob {digest}", self.name.repository());
        let range = value(&answer, "content-range").and_then(content_range);
        let skip = match answer.status() {
            // It knows no ranges, or would rather not.
            StatusCode::OK => offset,
            StatusCode::PARTIAL_CONTENT => match range.and_then(|range| range.start) {
                Some(start) if start <= offset => offset - start,
                _ => {
                    return Err(failed(format!(
                        "{what}: the registry sends another part than was asked for"
                    )));
                }
            },
            // All of it has been fetched.
            StatusCode::RANGE_NOT_SATISFIABLE if range.and_then(|range| range.total) == Some(offset) => {
                return Ok(Content { body: None, skip: 0, endpoint });
            }
            _ => return Err(self.refusal(answer, &what)),
        };
        Ok(Content { body: Some(answer.into_body().into_reader()), skip, endpoint })
    }

    pub(crate) fn manifest_name(&self, which: &ManifestRef) -> String {
        match which {
            ManifestRef::Tag(tag) => format!("{}:{tag}", self.name.repository()),
            ManifestRef::Digest(digest) => format!("{}@{digest}", self.name.repository()),
        }
    }

    /// What an answer that is no success means for `what`.
    pub(crate) fn refusal(&self, answer: Answer, what: &str) -> RemoteError {
        let kind = kind(answer.status());
        let said = explanation(answer);
        let message = match kind {
            RemoteErrorKind::NotFound => format!("{what} not found: {said}"),
            RemoteErrorKind::Denied => format!(
                "access to {} denied, it does not exist or needs 'skiff login': {said}",
                self.name.repository()
            ),
            RemoteErrorKind::Failed => format!("{what}: {said}"),
        };
        RemoteError { kind, message }
    }
}

impl Endpoint {
    fn serves(&self, which: Option<&ManifestRef>) -> bool {
        let fits = match which {
            Some(ManifestRef::Tag(_)) => self.serves != Serves::Digests,
            Some(ManifestRef::Digest(_)) => self.serves != Serves::Tags,
            None => true,
        };
        fits && !self.is_silent.load(Ordering::Relaxed)
    }
}

impl Remote for Repository {
    fn manifest(&self, which: &ManifestRef) -> Result<Document> {
        self.first(Some(which), |endpoint, attempts| self.manifest_of(endpoint, attempts, which))
    }

    fn blob(&self, digest: Digest, offset: u64) -> Result<Box<dyn Read + Send + '_>> {
        let content =
            self.first(None, |endpoint, attempts| self.blob_of(endpoint, attempts, digest, offset))?;
        Ok(Box::new(content))
    }
}

/// A blob's bytes, from where they were asked for.
struct Content<'a> {
    body: Option<ureq::BodyReader<'static>>,
    /// Bytes that were not asked for and come first.
    skip: u64,
    /// Where it comes from: if that breaks off and is a mirror, the rest is asked of the next place.
    endpoint: &'a Endpoint,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(body) = &mut self.body else { return Ok(0) };
        let endpoint = self.endpoint;
        let in_words = |error: io::Error| {
            if error.kind() != io::ErrorKind::Interrupted {
                endpoint.is_silent.store(true, Ordering::Relaxed);
            }
            io::Error::new(error.kind(), io_cause(&error))
        };
        while self.skip > 0 {
            let most = buffer.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            match body.read(&mut buffer[..most]).map_err(in_words)? {
                0 => return Ok(0),
                count => self.skip -= count as u64,
            }
        }
        body.read(buffer).map_err(in_words)
    }
}

pub(crate) fn manifest_tail(which: &ManifestRef) -> String {
    match which {
        ManifestRef::Tag(tag) => format!("manifests/{tag}"),
        ManifestRef::Digest(digest) => format!("manifests/{digest}"),
    }
}

fn media_type(answer: &Answer) -> String {
    let field = value(answer, "content-type").unwrap_or_default();
    field.split(';').next().unwrap_or_default().trim().to_owned()
}

fn said_digest(answer: &Answer) -> Option<Digest> {
    Digest::try_from(value(answer, "docker-content-digest")?.to_owned()).ok()
}
