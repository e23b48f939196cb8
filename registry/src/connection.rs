//! Connections: one pool for all hosts that the system's certificate authorities vouch for, one for each host that has
//! certificates of its own, and one for plain HTTP.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use crate::config::Config;
use crate::error::{Result, cause, failed, quoted};
use crate::tls::{Encrypt, Identity, Session};
use crate::url;

/// Idle connections kept for one host: as many as layers are fetched at once.
const IDLE_MAX: usize = 16;
/// Largest header of an answer, in bytes.
const HEADER_MAX: usize = 64 << 10;

/// The pools.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    agents: Mutex<HashMap<Kind, Agent>>,
    roots: OnceLock<Vec<CertificateDer<'static>>>,
}

/// What connections of one pool have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    trust: Trust,
    /// Address of the proxy, if one stands between.
    proxy: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// No TLS with the host.
    Plain,
    System,
    /// With what is kept for this `HOST[:PORT]`.
    Own(String),
    /// Whoever answers.
    Anybody,
}

impl Connections {
    /// The pool for requests to `uri`. Errors: certificates or the proxy's address are not readable.
    pub(crate) fn to(&self, uri: &Uri, is_insecure: bool, config: &Config) -> Result<Agent> {
        let authority = uri.authority().map(|it| it.as_str()).unwrap_or_default();
        let has_own = || config.certificates.iter().any(|folder| folder.join(authority).is_dir());
        let trust = match uri.scheme_str() {
            Some("https") if is_insecure => Trust::Anybody,
            Some("https") if has_own() => Trust::Own(authority.to_owned()),
            Some("https") => Trust::System,
            _ => Trust::Plain,
        };
        let kind = Kind { trust, proxy: proxy_for(uri) };
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&kind) {
            return Ok(agent.clone());
        }
        let agent = self.make(&kind, config)?;
        agents.insert(kind, agent.clone());
        Ok(agent)
    }

    fn make(&self, kind: &Kind, config: &Config) -> Result<Agent> {
        let patience = &config.patience;
        let proxy = kind.proxy.as_deref().map(|address| {
            // The address may hold a password.
            ureq::Proxy::new(address)
                .map_err(|_| failed("the proxy that the environment names is not an address"))
        });
        let builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy.transpose()?)
            .user_agent(concat!("skiff/", env!("CARGO_PKG_VERSION")))
            .accept("")
            .max_response_header_size(HEADER_MAX)
            .max_idle_connections(4 * IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .timeout_connect(Some(patience.connect))
            .timeout_per_read(Some(patience.idle))
            .timeout_per_write(Some(patience.idle));
        // A proxy is none of the host's: it may be told a password, whatever is trusted behind it.
        let proxy = kind.proxy.as_ref().map(|_| self.session(&Trust::System, config));
        let encrypt = Encrypt { host: self.session(&kind.trust, config)?, proxy: proxy.transpose()? };
        let connector =
            ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default()).chain(encrypt);
        Ok(Agent::with_parts(builder.build(), connector, DefaultResolver::default()))
    }

    fn session(&self, trust: &Trust, config: &Config) -> Result<Session> {
        let wrong = |error| failed(quoted(&format!("TLS: {error}")));
        let (mut known, mut own) = (Vec::new(), None);
        match trust {
            Trust::Anybody => return Session::with_anybody().map_err(wrong),
            Trust::Plain | Trust::System => known.clone_from(self.system_roots()),
            Trust::Own(authority) => {
                known.clone_from(self.system_roots());
                for folder in &config.certificates {
                    let (more, identity) = read_folder(&folder.join(authority))?;
                    known.extend(more);
                    own = identity.or(own);
                }
            }
        }
        Session::new(known, own).map_err(wrong)
    }

    /// `$SSL_CERT_FILE`, `$SSL_CERT_DIR`, else where the distribution keeps them. What is not readable is left out:
    /// the connection says whom it does not know.
    fn system_roots(&self) -> &Vec<CertificateDer<'static>> {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "certificate authorities of the system");
            }
            found.certs
        })
    }
}

/// Authorities, and what the client proves itself by, of one host's folder.
fn read_folder(folder: &Path) -> Result<(Vec<CertificateDer<'static>>, Option<Identity>)> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    paths.sort();
    let (mut known, mut own) = (Vec::new(), None);
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => known.extend(certificates(&path)?),
            Some("cert") => {
                let key = key(&path.with_extension("key"))?;
                own = Some(Identity { chain: certificates(&path)?, key });
            }
            _ => {}
        }
    }
    Ok((known, own))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| unreadable(path))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| unreadable(path))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| failed(format!("{}: {}", path.display(), cause(&error))))
}

fn unreadable(path: &Path) -> skiff_store::RemoteError {
    failed(format!("{}: no PEM of the kind that its name says", path.display()))
}

/// The proxy that the environment names for `uri`, as curl reads it.
fn proxy_for(uri: &Uri) -> Option<String> {
    let authority = uri.authority()?;
    if url::is_loopback(authority.as_str()) {
        return None;
    }
    let variable = |names: [&str; 2]| {
        names.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
    };
    let own = match uri.scheme_str() {
        Some("https") => variable(["https_proxy", "HTTPS_PROXY"]),
        // In upper case it could be a header of the request, where this runs as a CGI program; but all clients read it.
        _ => variable(["http_proxy", "HTTP_PROXY"]),
    };
    let address = own.or_else(|| variable(["all_proxy", "ALL_PROXY"]))?;
    let exceptions = variable(["no_proxy", "NO_PROXY"]).unwrap_or_default();
    (!is_exempt(authority.host(), authority.port_u16(), &exceptions)).then_some(address)
}

/// Whether `NO_PROXY` names the host: itself, a domain above it, `*`, an address, or a range of addresses.
fn is_exempt(host: &str, port: Option<u16>, exceptions: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    exceptions.split(',').map(str::trim).filter(|word| !word.is_empty()).any(|word| {
        if word == "*" {
            return true;
        }
        if let (Some((network, bits)), Ok(address)) = (word.split_once('/'), host.parse::<IpAddr>()) {
            return is_within(address, network, bits);
        }
        let (name, only) = match word.rsplit_once(':') {
            Some((name, only)) if !name.contains(':') => (name, Some(only)),
            _ => (word, None),
        };
        let domain = name.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
        let is_below = host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        !domain.is_empty() && is_below && only.is_none_or(|only| only.parse().ok() == port)
    })
}

fn is_within(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let as_number = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((address, width), (network, other)) = (as_number(address), as_number(network));
    let shift = width - bits.min(width);
    width == other && (shift == 128 || address >> shift == network >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_from_the_proxy_are_names_domains_and_ranges() {
        let check = |host: &str, exceptions: &str, expect: bool| {
            assert_eq!(is_exempt(host, Some(5000), exceptions), expect, "{host} in {exceptions}");
        };
        check("a.b.c", "", false);
        check("a.b.c", "*", true);
        check("a.b.c", "x, b.c", true);
        check("a.b.c", ".B.c", true);
        check("a.b.c", "*.b.c", true);
        check("ab.c", "b.c", false);
        check("a.b", "a.b:5000", true);
        check("a.b", "a.b:80", false);
        check("10.1.2.3", "10.0.0.0/8", true);
        check("11.1.2.3", "10.0.0.0/8", false);
        check("10.1.2.3", "0.0.0.0/0", true);
        check("[fd00::1]", "fd00::/8", true);
        check("fd00::1", "::/0", true);
        check("10.1.2.3", "fd00::/8,x/y,10.0.0.0/99", false);
    }
}
