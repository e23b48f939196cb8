//! The little of URLs that a registry's client needs: references to resolve, queries to write, hosts to compare.

use ureq::http::Uri;

/// What `reference` means in an answer from `base`. RFC 3986, 5.2, without dot segments: servers do not send any here.
pub(crate) fn resolve(base: &Uri, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return Some(base.clone());
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?.as_str();
    let path = base.path();
    let absolute = if is_absolute(reference) {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{path}{reference}")
    } else {
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        format!("{scheme}://{authority}{folder}{reference}")
    };
    let uri: Uri = absolute.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    (is_http && uri.host().is_some_and(|host| !host.is_empty()) && !has_user).then_some(uri)
}

/// `base` with another query parameter behind those it has.
pub(crate) fn with_query(base: &str, name: &str, value: &str) -> String {
    let separator = if base.contains('?') { '&' } else { '?' };
    format!("{base}{separator}{}", form(&[(name, value)]))
}

/// Names and values as forms and queries have them.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", encode(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Percent-encodes all but what RFC 3986 calls unreserved, and `:` and `/`, which are plain text in a query.
pub(crate) fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let digits = [byte >> 4, byte & 15].map(|nibble| char::from(DIGITS[usize::from(nibble)]));
            encoded.extend(['%', digits[0], digits[1]]);
        }
    }
    encoded
}

/// Whether what is secret for one may be shown to the other: scheme, host and port are the same.
pub(crate) fn is_same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        (
            uri.scheme_str().unwrap_or_default().to_owned(),
            uri.host().unwrap_or_default().to_ascii_lowercase(),
            uri.port_u16().unwrap_or(default),
        )
    };
    origin(a) == origin(b)
}

/// Whether `HOST[:PORT]` is this machine. With a user before it, it is nobody's.
pub(crate) fn is_loopback(authority: &str) -> bool {
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_absolute(reference: &str) -> bool {
    reference.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_against_what_answered() {
        let base: Uri = "https://a.b:5/v2/x/blobs/1?q=1".parse().expect("a url");
        let check = |reference: &str, expect: &str| {
            let found = resolve(&base, reference).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), (!expect.is_empty()).then_some(expect), "{reference:?}");
        };
        check("http://c/d?e=f#g", "http://c/d?e=f");
        check("//c/d", "https://c/d");
        check("/d?u=http://e/", "https://a.b:5/d?u=http://e/");
        check("?n=1", "https://a.b:5/v2/x/blobs/1?n=1");
        check("", "https://a.b:5/v2/x/blobs/1?q=1");
        check("d", "https://a.b:5/v2/x/blobs/d");
        check("ftp://c/d", "");
        check("file:///etc/passwd", "");
        check("https://me@c/d", "");
        check("http://", "");
        check("/a b", "");
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let check = |a: &str, b: &str, expect: bool| {
            let [a, b] = [a, b].map(|text| text.parse::<Uri>().expect(text));
            assert_eq!(is_same_origin(&a, &b), expect, "{a} {b}");
        };
        check("https://a/x", "https://A:443/y", true);
        check("https://a/x", "http://a/x", false);
        check("https://a/x", "https://a:444/x", false);
        check("https://a/x", "https://a.b/x", false);
    }

    #[test]
    fn loopback_is_by_name_or_address() {
        for local in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(local), "{local}");
        }
        let others = [
            "localhost.example",
            "128.0.0.1",
            "[::2]:1",
            "10.0.0.1:127",
            "127.0.0.1.example:80",
            "127.0.0.1:1@a.example",
            "[::1]@a.example",
            "",
        ];
        for other in others {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            with_query("https://a/t", "scope", "repository:a/b:pull,push"),
            "https://a/t?scope=repository:a/b:pull%2Cpush"
        );
        assert_eq!(with_query("https://a/t?x=1", "q", "a&b é"), "https://a/t?x=1&q=a%26b%20%C3%A9");
    }
}
