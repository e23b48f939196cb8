//! What a client of registries is told from outside.

use std::path::PathBuf;
use std::time::Duration;

use crate::credentials::CredentialFile;
use crate::error::Result;
use crate::rules::Rules;

/// How a [`Registry`](crate::Registry) works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where credentials are.
    pub credentials: CredentialFile,
    /// Mirrors, and which hosts are insecure.
    pub rules: Rules,
    /// Whether servers must prove who they are: `Some(false)` allows plain HTTP and unknown certificates everywhere,
    /// also where redirects and uploads lead; `Some(true)` nowhere, not even where the rules do or on loopback; `None`
    /// leaves it to the rules.
    pub tls_verify: Option<bool>,
    /// Folders with a folder `HOST[:PORT]` for each registry that has certificates of its own: `*.crt` are
    /// authorities, `*.cert` with `*.key` prove who the client is.
    pub certificates: Vec<PathBuf>,
    /// How long to wait, and how often to try.
    pub patience: Patience,
}

/// How long to wait, and how often to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Attempts at one request, with the first.
    pub attempts: u32,
    /// Before the second attempt; doubled each time, and shortened by up to half at random.
    pub first_wait: Duration,
    /// The longest single wait, also if the server asks for more: then the request fails.
    pub longest_wait: Duration,
    /// To connect, with the TLS handshake.
    pub connect: Duration,
    /// Between two bytes, or for an answer to begin.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// By environment variables and files, as docker and podman have them. Errors: a file is not readable.
    pub fn from_environment() -> Result<Self> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let users = user.into_iter().flat_map(|folder| [folder.join("containers"), folder.join("docker")]);
        let systems = ["/etc/containers", "/etc/docker"].map(PathBuf::from);
        Ok(Self {
            credentials: CredentialFile::from_environment(),
            rules: Rules::from_environment()?,
            tls_verify: None,
            certificates: users.chain(systems).map(|folder| folder.join("certs.d")).collect(),
            patience: Patience::default(),
        })
    }
}
