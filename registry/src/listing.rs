//! What registries list: tags, repositories, what refers to a manifest, and what is found by a word.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use skiff_store::{Digest, ManifestRef, Remote, RemoteErrorKind};
use ureq::http::{Method, StatusCode};

use crate::Registry;
use crate::error::{Result, denied, failed};
use crate::exchange::{Answer, Call, explanation, kind, read_bounded, value};
use crate::header::next_link;
use crate::repository::Repository;
use crate::session::{Host, Scope};
use crate::{rules, url};

/// Largest page of a list, in bytes.
const PAGE_MAX: u64 = 8 << 20;
/// Largest list, all of its pages together, in bytes.
const LIST_MAX: u64 = 16 << 20;
/// Most pages of a list that are asked for.
const PAGES_MAX: usize = 1000;
/// What is asked for in one page; registries give less if they like.
const PER_PAGE: &str = "1000";

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The configuration of what needs none, by the image specification.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// A manifest that refers to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Of the manifest.
    pub media_type: String,
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: u64,
    /// What it is, such as `application/vnd.skiff.prefetch.v1+json`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// What its maker wrote about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A repository that was found by a word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hit {
    /// As docker.io writes it, without its host.
    pub name: String,
    /// One line, or empty.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub description: String,
    /// How many like it.
    #[serde(default, rename = "star_count")]
    pub stars: u64,
    /// Whether docker.io vouches for it.
    #[serde(default)]
    pub is_official: bool,
    /// Whether docker.io has built it.
    #[serde(default)]
    pub is_automated: bool,
}

#[derive(Debug, Deserialize)]
struct Tags {
    // `null` if there are none.
    tags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Catalogue {
    repositories: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Hits {
    results: Option<Vec<Hit>>,
}

#[derive(Debug, Default, Deserialize)]
struct Index {
    manifests: Option<Vec<Referrer>>,
}

impl Repository {
    /// All tags, in the registry's order.
    pub fn tags(&self) -> Result<Vec<String>> {
        let origin = self.origin()?;
        let mut call = origin.call(Method::GET, &url::with_query("tags/list", "n", PER_PAGE))?;
        let what = format!("tags of {}", self.name.repository());
        let mut tags = Vec::new();
        let ask = |call: &mut Call<'_>| {
            let answer = origin.send(call, u32::MAX)?;
            if answer.status() == StatusCode::OK { Ok(answer) } else { Err(self.refusal(answer, &what)) }
        };
        pages(&mut call, &what, ask, |page: Tags| tags.extend(page.tags.unwrap_or_default()))?;
        Ok(tags)
    }

    /// What refers to the manifest `subject`, only of one artifact type if it is given. Registries that have no such
    /// list keep it below a tag made of the digest.
    pub fn referrers(&self, subject: Digest, artifact_type: Option<&str>) -> Result<Vec<Referrer>> {
        let origin = self.origin()?;
        let mut tail = format!("referrers/{subject}");
        if let Some(artifact_type) = artifact_type {
            tail = url::with_query(&tail, "artifactType", artifact_type);
        }
        let mut call = origin.call(Method::GET, &tail)?.with("accept", INDEX_TYPE);
        let what = format!("what refers to {}@{subject}", self.name.repository());
        let answer = origin.send(&mut call, u32::MAX)?;
        let is_list = media_type_is_index(&answer);
        let mut found = Vec::new();
        match answer.status() {
            StatusCode::OK if is_list => {
                let mut first = Some(answer);
                let ask = |call: &mut Call<'_>| {
                    if let Some(answer) = first.take() {
                        return Ok(answer);
                    }
                    let answer = origin.send(call, u32::MAX)?;
                    if answer.status() == StatusCode::OK {
                        Ok(answer)
                    } else {
                        Err(self.refusal(answer, &what))
                    }
                };
                pages(&mut call, &what, ask, |page: Index| found.extend(page.manifests.unwrap_or_default()))?;
            }
            // Some answer a path that they do not know with a page for people.
            StatusCode::OK
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::BAD_REQUEST => {
                found = self.referrers_by_tag(subject)?;
            }
            _ => return Err(self.refusal(answer, &what)),
        }
        // To filter is the registry's good will.
        found.retain(|referrer| artifact_type.is_none_or(|wanted| referrer.artifact_type == wanted));
        Ok(found)
    }

    /// Puts a document there that says something about the manifest `subject`, and returns the digest of the manifest
    /// that holds it.
    pub fn attach(
        &self,
        subject: Digest,
        artifact_type: &str,
        media_type: &str,
        bytes: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Digest> {
        let about = self.describe(&ManifestRef::Digest(subject))?;
        let size = match about.size {
            Some(size) => size,
            None => self.manifest(&ManifestRef::Digest(subject))?.bytes.len() as u64,
        };
        let empty = self.upload_document(EMPTY)?;
        let blob = self.upload_document(bytes)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": artifact_type,
            "config": { "mediaType": EMPTY_TYPE, "digest": empty, "size": EMPTY.len() },
            "layers": [{ "mediaType": media_type, "digest": blob, "size": bytes.len() }],
            "subject": { "mediaType": about.media_type, "digest": subject, "size": size },
            "annotations": annotations,
        });
        let manifest = manifest.to_string();
        let digest = Digest::of(manifest.as_bytes());
        let which = ManifestRef::Digest(digest);
        let (_, is_noted) = self.put(&which, MANIFEST_TYPE, manifest.as_bytes())?;
        if !is_noted {
            self.note(
                subject,
                Referrer {
                    media_type: MANIFEST_TYPE.to_owned(),
                    digest,
                    size: manifest.len() as u64,
                    artifact_type: artifact_type.to_owned(),
                    annotations: annotations.clone(),
                },
            )?;
        }
        Ok(digest)
    }

    /// Adds to the list that stands in for one of the registry's own. Two that do so at once may lose one entry: the
    /// specification has nothing against that.
    fn note(&self, subject: Digest, referrer: Referrer) -> Result<()> {
        let mut all = self.referrers_by_tag(subject)?;
        if all.iter().any(|known| known.digest == referrer.digest) {
            return Ok(());
        }
        all.push(referrer);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": all });
        self.put_manifest(&tag_for(subject), INDEX_TYPE, index.to_string().as_bytes())?;
        Ok(())
    }

    fn referrers_by_tag(&self, subject: Digest) -> Result<Vec<Referrer>> {
        match self.manifest(&tag_for(subject)) {
            // What is no index there is somebody's image of that name.
            Ok(document) => {
                let index: Index = serde_json::from_slice(&document.bytes).unwrap_or_default();
                Ok(index.manifests.unwrap_or_default())
            }
            Err(error) if error.kind == RemoteErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Registry {
    /// Repositories of `host` whose names or descriptions have to do with `term`, at most `limit`.
    ///
    /// docker.io searches by itself, by the first version of its interface; so do few others. Of the rest the list of all
    /// repositories is asked for, if the registry gives it to this user (many do not), and looked through here: it has
    /// neither stars nor descriptions.
    pub fn search(&self, host: &str, term: &str, limit: usize) -> Result<Vec<Hit>> {
        let place = self.place(host)?;
        let is_hub = place.host == "docker.io";
        let there =
            if is_hub { rules::Place { host: "index.docker.io".to_owned(), ..place.clone() } } else { place };
        let host = self.host(&there);
        let path =
            url::with_query(&url::with_query("/v1/search", "q", term), "n", &limit.clamp(1, 100).to_string());
        let answer = host.send(&mut Call::get(host.uri(&path)?), &Scope(String::new()), "", u32::MAX)?;
        let what = format!("search on {}", host.name());
        if answer.status() == StatusCode::OK {
            let bytes = read_bounded(answer, PAGE_MAX, &what)?;
            if let Ok(hits) = serde_json::from_slice::<Hits>(&bytes) {
                return Ok(hits.results.unwrap_or_default().into_iter().take(limit).collect());
            }
        } else if is_hub {
            return Err(refused(answer, &what));
        }
        let mut names = catalogue(&host, &what)?;
        names.retain(|name| name.contains(term));
        let hit = |name: String| Hit {
            name,
            description: String::new(),
            stars: 0,
            is_official: false,
            is_automated: false,
        };
        Ok(names.into_iter().take(limit).map(hit).collect())
    }

    /// All repositories of a host. Errors: it does not list them, at least not for this user.
    pub fn repositories(&self, host: &str) -> Result<Vec<String>> {
        let host = self.host(&self.place(host)?);
        catalogue(&host, &format!("repositories of {}", host.name()))
    }
}

fn catalogue(host: &Host, what: &str) -> Result<Vec<String>> {
    let scope = Scope("registry:catalog:*".to_owned());
    let mut call = Call::get(host.uri(&url::with_query("/v2/_catalog", "n", PER_PAGE))?);
    let mut names = Vec::new();
    let ask = |call: &mut Call<'_>| {
        let answer = host.send(call, &scope, "", u32::MAX)?;
        if answer.status() == StatusCode::OK { Ok(answer) } else { Err(refused(answer, what)) }
    };
    pages(&mut call, what, ask, |page: Catalogue| names.extend(page.repositories.unwrap_or_default()))?;
    Ok(names)
}

fn refused(answer: Answer, what: &str) -> skiff_store::RemoteError {
    let kind = kind(answer.status());
    let message = format!("{what}: {}", explanation(answer));
    if kind == RemoteErrorKind::Denied { denied(message) } else { failed(message) }
}

/// Goes from page to page by `Link`.
fn pages<T: DeserializeOwned>(
    call: &mut Call<'_>,
    what: &str,
    mut ask: impl FnMut(&mut Call<'_>) -> Result<Answer>,
    mut take: impl FnMut(T),
) -> Result<()> {
    let mut read = 0;
    for _ in 0..PAGES_MAX {
        let answer = ask(call)?;
        let next = value(&answer, "link").and_then(next_link).and_then(|link| url::resolve(&call.uri, link));
        let bytes = read_bounded(answer, PAGE_MAX, what)?;
        read += bytes.len() as u64;
        if read > LIST_MAX {
            return Err(failed(format!("{what}: more than {LIST_MAX} bytes")));
        }
        take(
            serde_json::from_slice(&bytes)
                .map_err(|_| failed(format!("{what}: the answer is no such list")))?,
        );
        // A link to itself would go round for ever.
        match next.filter(|next| *next != call.uri) {
            Some(next) => call.uri = next,
            None => return Ok(()),
        }
    }
    Err(failed(format!("{what}: more than {PAGES_MAX} pages")))
}

fn media_type_is_index(answer: &Answer) -> bool {
    value(answer, "content-type")
        .is_some_and(|field| field.split(';').next().unwrap_or_default().trim() == INDEX_TYPE)
}

/// The tag below which registries without a list of referrers have one.
fn tag_for(subject: Digest) -> ManifestRef {
    ManifestRef::Tag(format!("sha256-{}", subject.hex()))
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads any of the lists that registries give, as the fuzzer does.
#[doc(hidden)]
pub fn parse_list(bytes: &[u8]) -> bool {
    let is = |value: serde_json::Result<Value>| value.is_ok();
    let _ =
        serde_json::from_slice::<Tags>(bytes).is_ok() | serde_json::from_slice::<Catalogue>(bytes).is_ok();
    let _ = serde_json::from_slice::<Hits>(bytes).is_ok() | serde_json::from_slice::<Index>(bytes).is_ok();
    is(serde_json::from_slice(bytes))
}
