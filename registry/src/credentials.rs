//! Who the user is at a registry: docker's `config.json` and the credential helpers that it names.
//!
//! One file is read and written: `$REGISTRY_AUTH_FILE`, as podman and skopeo call it, else `config.json` in
//! `$DOCKER_CONFIG` or `~/.docker`. The format is the same.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Result, cause, failed};
use crate::helper;

/// What docker keeps docker.io's credentials under.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Largest file of credentials, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// A user and what proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Empty if there is an identity token that says it.
    pub user: String,
    /// Never printed.
    pub secret: Secret,
}

/// What proves a user.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password, or a token in its place.
    Password(String),
    /// What an earlier login has got; exchanged for an access token by OAuth 2.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Credentials {
    /// A user with a password.
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), secret: Secret::Password(password.into()) }
    }

    /// The value of an `Authorization` field; `None` with an identity token, which is for the token server.
    pub(crate) fn basic(&self) -> Option<String> {
        match &self.secret {
            Secret::Password(password) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{}:{password}", self.user))))
            }
            Secret::IdentityToken(_) => None,
        }
    }
}

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In this file, readable to its owner, not encrypted.
    File(PathBuf),
    /// With this helper (`docker-credential-NAME`).
    Helper(String),
}

/// The file of credentials, and the helpers that it names.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    path: Option<PathBuf>,
}

impl CredentialFile {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(variable("HOME")?.join(".docker")));
        Self {
            path: variable("REGISTRY_AUTH_FILE").or_else(|| docker.map(|folder| folder.join("config.json"))),
        }
    }

    /// This one.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()) }
    }

    /// Credentials for a repository of this host: of a helper that is named for the host, of the file (the longest
    /// path of `HOST/PATH` counts), or of the helper for all hosts.
    pub fn get(&self, host: &str, path: &str) -> Result<Option<Credentials>> {
        let Some(document) = self.read()? else { return Ok(None) };
        let key = server_key(host);
        if let Some(name) = document.helper_for(host) {
            return helper::get(name, key);
        }
        if let Some(name) = document.helper_for_all()
            && let Some(found) = helper::get(name, key)?
        {
            return Ok(Some(found));
        }
        document.find(host, path).map_or(Ok(None), |(key, entry)| entry.credentials(key))
    }

    /// Keeps credentials for this host, where docker would.
    pub fn store(&self, host: &str, credentials: &Credentials) -> Result<Kept> {
        let document = self.read()?.unwrap_or_default();
        let key = server_key(host);
        if let Some(name) = document.keeper_for(host) {
            helper::store(name, key, credentials)?;
            return Ok(Kept::Helper(name.to_owned()));
        }
        let entry = match &credentials.secret {
            Secret::Password(password) => {
                json!({ "auth": STANDARD.encode(format!("{}:{password}", credentials.user)) })
            }
            Secret::IdentityToken(token) => json!({
                "auth": STANDARD.encode(format!("{}:", credentials.user)),
                "identitytoken": token,
            }),
        };
        self.rewrite(|auths| {
            auths.insert(key.to_owned(), entry);
        })?;
        Ok(Kept::File(self.path()?.to_owned()))
    }

    /// Forgets what is kept for this host. Whether there was something.
    pub fn erase(&self, host: &str) -> Result<bool> {
        let Some(document) = self.read()? else { return Ok(false) };
        let key = server_key(host);
        let mut found = false;
        if let Some(name) = document.keeper_for(host) {
            found = helper::get(name, key)?.is_some();
            if found {
                helper::erase(name, key)?;
            }
        }
        let is_this = |known: &str| known == key || host_of(known) == host_of(key);
        if document.auths.keys().any(|known| is_this(known)) {
            self.rewrite(|auths| auths.retain(|known, _| !is_this(known)))?;
            found = true;
        }
        Ok(found)
    }

    fn path(&self) -> Result<&Path> {
        self.path.as_deref().ok_or_else(|| failed("no place for credentials: $HOME is not set"))
    }

    fn read(&self) -> Result<Option<Document>> {
        let Some(path) = &self.path else { return Ok(None) };
        let Some(text) = read_bounded(path)? else { return Ok(None) };
        Document::parse(&text).map(Some).map_err(|reason| failed(format!("{}: {reason}", path.display())))
    }

    /// Changes the file's `auths` and nothing else of it. The new file appears complete, by rename, for its owner only.
    fn rewrite(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let path = self.path()?;
        let refuse = |what: &str| failed(format!("{}: {what}", path.display()));
        let text = read_bounded(path)?.unwrap_or_default();
        let mut document: Value = if text.trim().is_empty() {
            json!({})
        } else {
            serde_json::from_str(&text).map_err(|error| refuse(&error.to_string()))?
        };
        let object = document.as_object_mut().ok_or_else(|| refuse("not a JSON object"))?;
        let auths = object.entry("auths").or_insert_with(|| json!({}));
        change(auths.as_object_mut().ok_or_else(|| refuse("\"auths\" is not a JSON object"))?);
        let text = format!("{document:#}\n");
        // A link stays what it is: people keep their files elsewhere.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        replace(&target, text.as_bytes()).map_err(|error| refuse(&cause(&error)))
    }
}

/// `config.json`, as far as it is about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    #[serde(deserialize_with = "null_is_empty")]
    auths: BTreeMap<String, Entry>,
    #[serde(deserialize_with = "null_is_empty")]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Document {
    /// Errors: one line without the file's name, and without what is in it.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // The position only: the rest of a message may repeat a secret.
        serde_json::from_str(text).map_err(|error| {
            format!("not a file of credentials (line {}, column {})", error.line(), error.column())
        })
    }

    fn helper_for(&self, host: &str) -> Option<&str> {
        let name = self.cred_helpers.get(host).or_else(|| self.cred_helpers.get(server_key(host)))?;
        (!name.is_empty()).then_some(name.as_str())
    }

    fn helper_for_all(&self) -> Option<&str> {
        self.creds_store.as_deref().filter(|name| !name.is_empty())
    }

    /// The helper that keeps what is stored for this host; without one, the file does.
    fn keeper_for(&self, host: &str) -> Option<&str> {
        self.helper_for(host).or_else(|| self.helper_for_all())
    }

    /// The entry for the longest path, then that for the host, however it is written.
    fn find(&self, host: &str, path: &str) -> Option<(&str, &Entry)> {
        let mut key = format!("{host}/{path}");
        loop {
            if let Some((key, entry)) = self.auths.get_key_value(&key) {
                return Some((key, entry));
            }
            match key.rfind('/') {
                Some(slash) => key.truncate(slash),
                None => break,
            }
        }
        let exact = self.auths.get_key_value(server_key(host));
        let (key, entry) = exact.or_else(|| self.auths.iter().find(|(key, _)| host_of(key) == host))?;
        Some((key, entry))
    }
}

impl Entry {
    fn credentials(&self, key: &str) -> Result<Option<Credentials>> {
        let mut user = self.username.clone().unwrap_or_default();
        let mut password = self.password.clone().unwrap_or_default();
        if let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let unreadable =
                || failed(format!("credentials for {}: \"auth\" is not readable", crate::error::quoted(key)));
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| unreadable())?;
            let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
            let (left, right) = decoded.split_once(':').ok_or_else(unreadable)?;
            user = left.to_owned();
            password = right.trim_matches('\0').to_owned();
        }
        if let Some(token) = self.identitytoken.clone().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials { user, secret: Secret::IdentityToken(token) }));
        }
        Ok((!user.is_empty()).then(|| Credentials::password(user, password)))
    }
}

/// Reads a `config.json` for credentials of a host, as the fuzzer does.
#[doc(hidden)]
pub fn parse_credentials(text: &str, host: &str, path: &str) -> Result<Option<Credentials>> {
    let document = Document::parse(text).map_err(failed)?;
    let _helper = document.helper_for(host);
    document.find(host, path).map_or(Ok(None), |(key, entry)| entry.credentials(key))
}

/// What the credentials of this host are kept under.
fn server_key(host: &str) -> &str {
    if host == "docker.io" { DOCKER_HUB } else { host }
}

/// The host of a key that may be a whole address, as old files have it.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = rest.split('/').next().unwrap_or(rest);
    if host == "index.docker.io" { "docker.io" } else { host }
}

fn null_is_empty<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn read_bounded(path: &Path) -> Result<Option<String>> {
    let refuse = |reason: String| failed(format!("{}: {reason}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(cause(&error))),
    };
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| refuse(cause(&error)))?;
    if text.len() as u64 > FILE_MAX {
        return Err(refuse(format!("more than {FILE_MAX} bytes")));
    }
    Ok(Some(text))
}

/// Puts a new file in the place of `path`, or makes it, with directories that only their owner may enter.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _removed = fs::remove_file(&unfinished);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check(text: &str, host: &str, path: &str, expect: &str) {
        let found = match parse_credentials(text, host, path) {
            Err(error) => format!("error: {}", error.message),
            Ok(None) => "none".to_owned(),
            Ok(Some(Credentials { user, secret: Secret::Password(password) })) => {
                format!("{user} {password}")
            }
            Ok(Some(Credentials { user, secret: Secret::IdentityToken(token) })) => {
                format!("{user} <{token}>")
            }
        };
        assert_eq!(found, expect, "{text} {host}");
    }

    #[test]
    fn entries_are_found_by_path_host_and_old_address() {
        let auth = |text: &str| STANDARD.encode(text);
        let file = json!({ "auths": {
            "a.b": { "auth": auth("all:1") },
            "a.b/team": { "auth": auth("team:2:3") },
            "https://c.d/v2/": { "username": "old", "password": "p" },
            "https://index.docker.io/v1/": { "auth": auth("hub:"), "identitytoken": "t" },
            "empty": {},
        }, "other": 1 })
        .to_string();
        check(&file, "a.b", "x", "all 1");
        check(&file, "a.b", "team/app", "team 2:3");
        check(&file, "a.b", "teams/app", "all 1");
        check(&file, "c.d", "x", "old p");
        check(&file, "docker.io", "library/x", "hub <t>");
        check(&file, "empty", "x", "none");
        check(&file, "b", "x", "none");
    }

    #[test]
    fn what_is_damaged_is_said_without_its_secrets() {
        check("", "a", "b", "none");
        check("{}", "a", "b", "none");
        check(r#"{"auths":null,"credHelpers":null}"#, "a", "b", "none");
        check(
            r#"{"auths":{"a":"geheim"}}"#,
            "a",
            "b",
            "error: not a file of credentials (line 1, column 22)",
        );
        check(
            r#"{"auths":{"a":{"auth":"!"}}}"#,
            "a",
            "b",
            "error: credentials for a: \"auth\" is not readable",
        );
        check(
            r#"{"auths":{"a":{"auth":"YQ=="}}}"#,
            "a",
            "b",
            "error: credentials for a: \"auth\" is not readable",
        );
        let secret = Credentials::password("me", "geheim");
        assert!(!format!("{secret:?}").contains("geheim"));
    }

    #[test]
    fn what_is_stored_is_found_again_and_the_rest_stays() {
        let folder = std::env::temp_dir().join(format!("skiff-credentials-{}", std::process::id()));
        let file = CredentialFile::at(folder.join("deep/config.json"));
        assert_eq!(file.get("a", "b"), Ok(None));
        assert_eq!(file.erase("a"), Ok(false));
        let mine = Credentials::password("me", "p:w");
        let path = folder.join("deep/config.json");
        assert_eq!(file.store("a", &mine), Ok(Kept::File(path.clone())));
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, r#"{"auths":{"a":{"auth":"bTpw"}},"proxies":{"x":[1,2]}}"#).expect("write");
        let token = Credentials { user: String::new(), secret: Secret::IdentityToken("t".to_owned()) };
        file.store("docker.io", &token).expect("store");
        assert_eq!(file.get("docker.io", "library/x"), Ok(Some(token)));
        assert_eq!(file.get("a", "x"), Ok(Some(Credentials::password("m", "p"))));
        assert_eq!((file.erase("docker.io"), file.erase("docker.io")), (Ok(true), Ok(false)));
        let text = fs::read_to_string(&path).expect("read");
        let left: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(left, json!({ "auths": { "a": { "auth": "bTpw" } }, "proxies": { "x": [1, 2] } }));
        assert_eq!(fs::read_dir(path.parent().expect("a folder")).expect("list").count(), 1);
        // An empty name is no helper's.
        fs::write(&path, r#"{"credsStore":"","credHelpers":{"a":""}}"#).expect("write");
        assert_eq!(file.store("a", &mine), Ok(Kept::File(path.clone())));
        assert_eq!((file.get("a", "x"), file.erase("a")), (Ok(Some(mine)), Ok(true)));
        fs::remove_dir_all(&folder).expect("clean up");
    }
}
