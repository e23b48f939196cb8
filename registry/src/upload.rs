//! What is written to a repository: blobs, in parts that can be sent again, and manifests.
//!
//! A blob goes up in chunks that are kept until the registry has them. After a broken connection the registry is asked
//! how far it has come, and the rest of the chunk follows. An upload that the registry has lost begins anew; so does one
//! whose registry takes no more than one part, in a single part.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use skiff_store::{Digest, ImageName, ManifestRef, RemoteErrorKind};
use ureq::http::{Method, StatusCode, Uri};

use crate::error::{Result, cause, failed};
use crate::exchange::{Answer, Call, Payload, explanation, kind, value};
use crate::header::upload_range;
use crate::repository::{Endpoint, Repository, manifest_tail};
use crate::session::Scope;
use crate::url;

/// What is kept in memory of a blob that goes up, in bytes. S3 and its kin want parts of at least 5 MiB.
const CHUNK: usize = 8 << 20;
/// The most that a registry may ask a chunk to have, in bytes.
const CHUNK_MAX: usize = 64 << 20;
/// How often an upload begins anew.
const BEGINNINGS: u32 = 3;

/// Gives the same bytes each time it is called.
pub type Content<'a> = &'a (dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>> + Sync);

/// Why an upload did not come to its end.
enum Broken {
    /// It may go well from its beginning.
    Lost(skiff_store::RemoteError),
    /// As before; the registry does not like parts.
    Parts(skiff_store::RemoteError),
    For(skiff_store::RemoteError),
}

impl From<skiff_store::RemoteError> for Broken {
    fn from(error: skiff_store::RemoteError) -> Self {
        Self::For(error)
    }
}

impl Repository {
    /// The size of a blob in bytes, if the repository has it.
    pub fn has_blob(&self, digest: Digest) -> Result<Option<u64>> {
        let origin = self.origin()?;
        let answer = origin.send(&mut origin.call(Method::HEAD, &format!("blobs/{digest}"))?, u32::MAX)?;
        match answer.status() {
            StatusCode::OK => {
                Ok(Some(value(&answer, "content-length").and_then(|it| it.parse().ok()).unwrap_or(0)))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal(answer, &format!("{} blob {digest}", self.name.repository()))),
        }
    }

    /// Lets the repository have a blob of another one on the same host. Whether the registry did so.
    pub fn mount_blob(&self, digest: Digest, from: &ImageName) -> Result<bool> {
        let origin = self.origin()?;
        if from.host() != self.name.host() {
            return Ok(false);
        }
        let scope = Scope(format!("{} repository:{}:pull", origin.scope.0, from.path()));
        let tail = url::with_query("blobs/uploads/", "mount", &digest.to_string());
        let mut call = origin.call(Method::POST, &url::with_query(&tail, "from", from.path()))?;
        let answer = origin.host.send(&mut call, &scope, &origin.path, u32::MAX)?;
        if answer.status() == StatusCode::ACCEPTED {
            // Not mounted but an upload begun, which nobody needs.
            if let Some(location) = location(&call.uri, &answer) {
                let _abandoned =
                    origin.host.send(&mut Call::new(Method::DELETE, location), &scope, &origin.path, 1);
            }
        }
        Ok(answer.status() == StatusCode::CREATED)
    }

    /// Sends a blob up, and returns its digest and size in bytes. `sent` is told how many bytes have arrived.
    ///
    /// Errors: the content is not readable, or not what `expected` says; the registry does not take it.
    pub fn upload(
        &self,
        content: Content<'_>,
        expected: Option<Digest>,
        sent: &dyn Fn(u64),
    ) -> Result<(Digest, u64)> {
        let origin = self.origin()?;
        let mut in_parts = true;
        for beginning in 1.. {
            let upload = if in_parts { Self::upload_in_parts } else { Self::upload_whole };
            let error = match upload(self, origin, content, expected, sent) {
                Ok(done) => return Ok(done),
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Lost(error)) => error,
                Err(Broken::Parts(error)) => {
                    in_parts = false;
                    error
                }
            };
            if beginning == BEGINNINGS {
                return Err(error);
            }
            tracing::debug!(%error, "the upload begins anew");
        }
        unreachable!("beginnings are counted")
    }

    /// A document of a few bytes, unless the repository has it.
    pub(crate) fn upload_document(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.has_blob(digest)?.is_none() {
            self.upload(&|| Ok(Box::new(bytes)), Some(digest), &|_| {})?;
        }
        Ok(digest)
    }

    /// Puts a manifest or index, and returns its digest. Whether the registry took note of its subject, too.
    pub(crate) fn put(&self, which: &ManifestRef, media_type: &str, bytes: &[u8]) -> Result<(Digest, bool)> {
        let origin = self.origin()?;
        let mut call = origin
            .call(Method::PUT, &manifest_tail(which))?
            .with("content-type", media_type)
            .sending(Payload::Bytes(bytes));
        let answer = origin.send(&mut call, u32::MAX)?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                Ok((Digest::of(bytes), answer.headers().contains_key("oci-subject")))
            }
            _ => Err(self.refusal(answer, &self.manifest_name(which))),
        }
    }

    /// Puts a manifest or index there, word for word, and returns its digest. What it names must be there.
    pub fn put_manifest(&self, which: &ManifestRef, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        Ok(self.put(which, media_type, bytes)?.0)
    }

    /// Removes a manifest or index, by a tag for all tags that mean the same: that is what the specification has.
    pub fn delete(&self, which: &ManifestRef) -> Result<()> {
        let origin = self.origin()?;
        let what = self.manifest_name(which);
        let digest = match which {
            ManifestRef::Digest(digest) => *digest,
            ManifestRef::Tag(_) => {
                let digest = self.describe(which)?.digest;
                digest.ok_or_else(|| failed(format!("{what}: the registry does not say its digest")))?
            }
        };
        let answer =
            origin.send(&mut origin.call(Method::DELETE, &format!("manifests/{digest}"))?, u32::MAX)?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.refusal(answer, &what)),
        }
    }

    fn upload_in_parts(
        &self,
        origin: &Endpoint,
        content: Content<'_>,
        expected: Option<Digest>,
        sent: &dyn Fn(u64),
    ) -> Result<(Digest, u64), Broken> {
        let what = format!("upload to {}", self.name.repository());
        let unreadable = |error: io::Error| failed(format!("{what}: {}", cause(&error)));
        let mut content = content().map_err(unreadable)?;
        let mut upload = self.begin(origin, &what)?;
        let chunk = CHUNK.max(upload.least);
        let (mut hasher, mut buffer) = (Sha256::new(), Vec::new());
        loop {
            buffer.clear();
            (&mut content).take(chunk as u64).read_to_end(&mut buffer).map_err(unreadable)?;
            hasher.update(&buffer);
            if buffer.len() < chunk {
                break;
            }
            upload.chunk(Method::PATCH, None, &buffer)?;
            sent(upload.offset);
        }
        let digest = Digest::finish(hasher);
        upload.finish(digest, expected, &buffer)?;
        sent(upload.offset);
        Ok((digest, upload.offset))
    }

    /// Nothing of it can be sent again, so a broken connection loses all of it.
    fn upload_whole(
        &self,
        origin: &Endpoint,
        content: Content<'_>,
        expected: Option<Digest>,
        sent: &dyn Fn(u64),
    ) -> Result<(Digest, u64), Broken> {
        let what = format!("upload to {}", self.name.repository());
        let content = content().map_err(|error| failed(format!("{what}: {}", cause(&error))))?;
        let mut stream = Watched { content, hasher: Sha256::new(), read: 0, sent };
        let mut upload = self.begin(origin, &what)?;
        let mut call = Call::new(Method::PATCH, upload.location.clone())
            .with("content-type", "application/octet-stream")
            .sending(Payload::Stream(&mut stream));
        let answer = match origin.attempt(&mut call)? {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => answer,
            Ok(answer) => return Err(Broken::For(self.refusal(answer, &what))),
            Err(trouble) => return Err(Broken::Lost(failed(format!("{what}: {}", trouble.message)))),
        };
        upload.moved(&answer);
        upload.offset = stream.read;
        let digest = Digest::finish(stream.hasher);
        upload.finish(digest, expected, &[])?;
        Ok((digest, upload.offset))
    }

    fn begin<'a>(&'a self, origin: &'a Endpoint, what: &'a str) -> Result<Upload<'a>> {
        let mut call = origin.call(Method::POST, "blobs/uploads/")?;
        let answer = origin.send(&mut call, u32::MAX)?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(answer, what));
        }
        let least = value(&answer, "oci-chunk-min-length").and_then(|it| it.parse().ok());
        let location =
            location(&call.uri, &answer).ok_or_else(|| failed(format!("{what}: nowhere to go")))?;
        Ok(Upload {
            repository: self,
            origin,
            what,
            location,
            offset: 0,
            least: least.unwrap_or(0).min(CHUNK_MAX),
        })
    }
}

/// An upload that goes on.
struct Upload<'a> {
    repository: &'a Repository,
    origin: &'a Endpoint,
    what: &'a str,
    /// Where the next part goes.
    location: Uri,
    /// Bytes that the registry has.
    offset: u64,
    /// Least bytes of a part that is not the last.
    least: usize,
}

/// A stream that goes by.
struct Watched<'a> {
    content: Box<dyn Read + Send + 'a>,
    hasher: Sha256,
    read: u64,
    sent: &'a dyn Fn(u64),
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read += count as u64;
        (self.sent)(self.read);
        Ok(count)
    }
}

impl Upload<'_> {
    /// Sends the last part, unless the content was not what it should be.
    fn finish(&mut self, digest: Digest, expected: Option<Digest>, rest: &[u8]) -> Result<(), Broken> {
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            self.abandon();
            let what = self.what;
            return Err(Broken::For(failed(format!(
                "{what}: the content of {expected} has digest {digest}"
            ))));
        }
        self.chunk(Method::PUT, Some(digest), rest)
    }

    /// Sends one part: the last one if there is a digest.
    fn chunk(&mut self, method: Method, digest: Option<Digest>, bytes: &[u8]) -> Result<(), Broken> {
        let start = self.offset;
        let mut tries = self.origin.host.tries(u32::MAX);
        loop {
            let rest = usize::try_from(self.offset - start)
                .ok()
                .and_then(|done| bytes.get(done..))
                .unwrap_or_default();
            let mut call = self.part(method.clone(), digest, rest)?;
            let answer = match self.origin.attempt(&mut call)? {
                Ok(answer) => answer,
                Err(trouble) => {
                    tries.wait(&trouble)?;
                    if self.is_there(digest)? {
                        self.offset = start + bytes.len() as u64;
                        return Ok(());
                    }
                    self.ask_how_far(start, start + bytes.len() as u64)?;
                    continue;
                }
            };
            let status = answer.status();
            if matches!(status, StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT) {
                self.moved(&answer);
                self.offset = start + bytes.len() as u64;
                return Ok(());
            }
            let error = self.repository.refusal(answer, self.what);
            return Err(match status.as_u16() {
                // Registries that want a blob in one piece say so in many ways, to the second piece.
                400 | 405 | 411 | 416 | 501 if start > 0 => Broken::Parts(error),
                404 => Broken::Lost(error),
                _ => Broken::For(error),
            });
        }
    }

    fn part<'a>(&self, method: Method, digest: Option<Digest>, bytes: &'a [u8]) -> Result<Call<'a>> {
        let uri = match digest {
            None => self.location.clone(),
            Some(digest) => url::with_query(&self.location.to_string(), "digest", &digest.to_string())
                .parse()
                .map_err(|_| failed(format!("{}: nowhere to go", self.what)))?,
        };
        let mut call = Call::new(method, uri).with("content-type", "application/octet-stream");
        if let Some(last) = (self.offset + bytes.len() as u64).checked_sub(1).filter(|_| !bytes.is_empty()) {
            call = call.with("content-range", format!("{}-{last}", self.offset));
        }
        Ok(call.sending(Payload::Bytes(bytes)))
    }

    /// Whether a last part has arrived although nobody heard of it.
    fn is_there(&self, digest: Option<Digest>) -> Result<bool> {
        digest.map_or(Ok(false), |digest| Ok(self.repository.has_blob(digest)?.is_some()))
    }

    /// After a broken part: how much of it has arrived.
    fn ask_how_far(&mut self, start: u64, end: u64) -> Result<(), Broken> {
        let mut call = Call::get(self.location.clone());
        let answer = self.origin.send(&mut call, u32::MAX)?;
        let lost = |why: String| Broken::Lost(failed(format!("{}: {why}", self.what)));
        if !answer.status().is_success() {
            return Err(match kind(answer.status()) {
                RemoteErrorKind::Denied => Broken::For(self.repository.refusal(answer, self.what)),
                _ => lost(explanation(answer)),
            });
        }
        let offset = value(&answer, "range").and_then(upload_range).unwrap_or(0);
        if offset < start || offset > end {
            return Err(lost(format!("the registry has {offset} bytes of {start}")));
        }
        self.moved(&answer);
        self.offset = offset;
        Ok(())
    }

    fn moved(&mut self, answer: &Answer) {
        if let Some(location) = location(&self.location, answer) {
            self.location = location;
        }
    }

    fn abandon(&self) {
        let _abandoned = self.origin.send(&mut Call::new(Method::DELETE, self.location.clone()), 1);
    }
}

/// Where an upload goes on: what the registry says, and it alone knows what is in it.
fn location(asked: &Uri, answer: &Answer) -> Option<Uri> {
    url::resolve(asked, value(answer, "location")?)
}
