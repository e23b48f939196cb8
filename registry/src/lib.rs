//! The client's side of the OCI distribution specification 1.1 and of docker's registries.
//!
//! Speaks HTTP for the store, which does not: [`skiff_store::Remote`] is what they have in common. Synchronous: whoever
//! wants several things at once asks from several threads, and connections are shared between them.
//!
//! A request goes down this way: [`Repository`] (which places, which words) → `session` (who asks: tokens, passwords) →
//! `exchange` (redirects, waiting, trying again) → `connection` (TLS, proxies, pools). docs/registry.md says what comes
//! of it for users.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use skiff_store::ImageName;

mod config;
mod connection;
mod credentials;
mod error;
mod exchange;
pub mod header;
mod helper;
mod listing;
mod push;
mod repository;
mod rules;
mod session;
mod tls;
mod upload;
mod url;

pub use config::{Config, Patience};
pub use credentials::{CredentialFile, Credentials, Kept, Secret, parse_credentials};
pub use listing::{Hit, Referrer, parse_list};
pub use push::{Packing, PushEvent, PushProgress, Pushed, push};
pub use repository::{Access, Descriptor, Repository};
pub use rules::Rules;
pub use session::parse_token;
pub use upload::Content;

use error::Result;
use exchange::Exchange;
use repository::Endpoint;
use rules::{Place, Serves};
use session::Host;

/// All registries, as seen from here: connections, tokens and what is known of hosts are shared by all that it gives out.
#[derive(Debug)]
pub struct Registry {
    exchange: Arc<Exchange>,
    hosts: Mutex<HashMap<(String, bool), Arc<Host>>>,
}

impl Registry {
    /// Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        Self { exchange: Arc::new(Exchange::new(config)), hosts: Mutex::default() }
    }

    /// The repository of this name; its tag and digest do not matter. Mirrors are only read from. Errors: the rules
    /// forbid it.
    pub fn repository(&self, name: &ImageName, access: Access) -> Result<Repository> {
        let mut places = self.exchange.config.rules.places(name)?;
        if access != Access::Pull {
            places.drain(..places.len() - 1);
        }
        let endpoints = places.iter().map(|place| {
            let host = self.host(place);
            Endpoint::new(host, &place.path, access, place.serves)
        });
        Ok(Repository { name: name.clone(), endpoints: endpoints.collect() })
    }

    /// Proves a user to the registry `host`, and keeps the proof where docker would: in a helper, or in the file of
    /// credentials. Errors: the registry does not take it, or does not answer; nothing is kept then.
    pub fn login(&self, host: &str, credentials: &Credentials) -> Result<Kept> {
        let place = self.place(host)?;
        let host = Host::new(Arc::clone(&self.exchange), &place.host, place.authority(), place.is_insecure);
        let keep = match host.check(credentials)? {
            Some(token) => {
                Credentials { user: credentials.user.clone(), secret: Secret::IdentityToken(token) }
            }
            None => credentials.clone(),
        };
        self.exchange.config.credentials.store(&place.host, &keep)
    }

    /// Forgets the user at `host`. Whether there was one.
    pub fn logout(&self, host: &str) -> Result<bool> {
        self.exchange.config.credentials.erase(&self.place(host)?.host)
    }

    /// What is kept for `host`, for whoever wants to say it or to try it again.
    pub fn credentials(&self, host: &str) -> Result<Option<Credentials>> {
        self.exchange.config.credentials.get(&self.place(host)?.host, "")
    }

    /// A host as people write it: also with `https://` and a path, as docker takes it.
    fn place(&self, host: &str) -> Result<Place> {
        let bare = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or(host);
        let bare = bare.split('/').next().unwrap_or_default();
        let bare = match bare {
            "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other,
        };
        // Any path will do: what is asked for is the host.
        let name = ImageName::parse(&format!("{bare}/x/x")).ok().filter(|name| name.host() == bare);
        let name =
            name.ok_or_else(|| error::failed(format!("{:?} is not a registry", error::quoted(host))))?;
        let places = self.exchange.config.rules.places(&name)?;
        let is_insecure = places.last().is_some_and(|place| place.is_insecure);
        Ok(Place { host: bare.to_owned(), path: String::new(), is_insecure, serves: Serves::All })
    }

    fn host(&self, place: &Place) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry((place.host.clone(), place.is_insecure)).or_insert_with(|| {
            Arc::new(Host::new(Arc::clone(&self.exchange), &place.host, place.authority(), place.is_insecure))
        });
        Arc::clone(host)
    }
}
