//! Where figures are to be had, and where they are sent to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use hyper::Uri;

/// The port of OTLP over HTTP.
const OTLP_PORT: u16 = 4318;

/// The path below which OTLP has metrics.
const OTLP_PATH: &str = "/v1/metrics";

/// Where the endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `PORT` or `:PORT` on the loopback interface, or `ADDRESS:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH`: a socket that its user alone may use.
    Unix(PathBuf),
}

/// A receiver of OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Whether it is spoken to over TLS.
    pub is_encrypted: bool,
    /// A name or an address, brackets and all.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it takes metrics.
    pub path: String,
}

impl Endpoint {
    /// Whether others than this host's can reach it.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Tcp(address) => !address.ip().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("{text}: the path of a socket begins with /"))
            };
        }
        let port = text.strip_prefix(':').or_else(|| text.strip_prefix("localhost:")).unwrap_or(text);
        if let Ok(port) = port.parse() {
            return Ok(Self::Tcp((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()));
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| format!("{text}: expected PORT, ADDRESS:PORT or unix:PATH"))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Collector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: expected http[s]://HOST[:PORT][/PATH]");
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong());
        }
        // Without a port that is a number there would be another one than was meant.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(port) if port > 0 => port,
            None if !has_port => OTLP_PORT,
            _ => return Err(wrong()),
        };
        let path = match uri.path() {
            "" | "/" => OTLP_PATH,
            path => path,
        };
        Ok(Self { is_encrypted, host: authority.host().to_owned(), port, path: path.to_owned() })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_on_the_loopback_interface_unless_an_address_says_otherwise() {
        let check = |text: &str, expected: &str, is_open: bool| {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!((endpoint.to_string().as_str(), endpoint.is_open()), (expected, is_open), "{text}");
        };
        check("9323", "127.0.0.1:9323", false);
        check(":9323", "127.0.0.1:9323", false);
        check("localhost:9323", "127.0.0.1:9323", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
        check("[::1]:9323", "[::1]:9323", false);
        check("0.0.0.0:9323", "0.0.0.0:9323", true);
        check("[::]:9323", "[::]:9323", true);
        check("10.0.0.1:9323", "10.0.0.1:9323", true);
        check("unix:/run/skiff/metrics.sock", "unix:/run/skiff/metrics.sock", false);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "web", "web:9323", "127.0.0.1", "70000", "127.0.0.1:70000", "unix:", "unix:here"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn collectors_have_the_port_and_path_of_otlp() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Collector>().expect(text).to_string(), expected, "{text}");
        };
        check("http://host", "http://host:4318/v1/metrics");
        check("http://host:99/", "http://host:99/v1/metrics");
        check("http://[::1]:99/own", "http://[::1]:99/own");
        check("https://host", "https://host:4318/v1/metrics");
        for text in [
            "",
            "host:4318",
            "ftp://host",
            "http://",
            "http://u@host",
            "http://host?x",
            "http://host:0",
            "http://host:x",
        ] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
    }
}
