//! Names of containers, hosts, namespaces and networks; labels and sysctls.

use skiff_engine::spec::Restart;
use skiff_runtime::options::Namespace;

use super::Reason;

/// A container's name.
pub(crate) fn container(text: &str) -> Result<String, Reason> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match text.as_bytes() {
        [first, second, more @ ..] if first.is_ascii_alphanumeric() && rest(*second) => {
            more.iter().all(|&b| rest(b)).then(|| text.to_owned())
        }
        _ => None,
    }
    .ok_or_else(|| "a name is [a-zA-Z0-9][a-zA-Z0-9_.-]+".into())
}

/// A restart policy.
pub(crate) fn restart(text: &str) -> Result<Restart, Reason> {
    match text.split_once(':') {
        None => match text {
            "" | "no" => Ok(Restart::No),
            "always" => Ok(Restart::Always),
            "unless-stopped" => Ok(Restart::UnlessStopped),
            "on-failure" => Ok(Restart::OnFailure(None)),
            _ => Err("not no, on-failure[:TIMES], always or unless-stopped".into()),
        },
        Some(("on-failure", times)) => {
            let times: u32 = times.parse().map_err(|_| "not a whole number of times".to_owned())?;
            Ok(Restart::OnFailure(Some(times).filter(|times| *times > 0)))
        }
        Some(_) => Err("only on-failure takes a number of times".into()),
    }
}

/// A host or domain name: what sethostname(2) takes and `/etc/hosts` can hold.
pub(crate) fn host(text: &str) -> Result<Option<String>, Reason> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match text {
        "" => Ok(None),
        _ if text.len() > 64 => Err("longer than 64 bytes".into()),
        _ if text.bytes().all(legal) => Ok(Some(text.to_owned())),
        _ => Err("a host name is made of letters, digits, '-', '_' and '.'".into()),
    }
}

/// A namespace that is the host's or the container's own: `host` or, where `private` allows the word, `private`.
pub(crate) fn namespace(text: &str, private: bool) -> Result<Namespace, Reason> {
    match text {
        "host" => Ok(Namespace::Host),
        "" => Ok(Namespace::Private),
        "private" if private => Ok(Namespace::Private),
        "shareable" | "none" if private => Err("only 'host' and 'private' are supported yet".into()),
        _ if text.starts_with("container:") => Err("joining another container is not supported yet".into()),
        _ if private => Err("neither 'host' nor 'private'".into()),
        _ => Err("not 'host'".into()),
    }
}

/// `--network`: none or the host's.
pub(crate) fn network(text: &str) -> Result<Namespace, Reason> {
    match text {
        "none" => Ok(Namespace::Private),
        "host" => Ok(Namespace::Host),
        _ => Err("only 'none' and 'host' are supported yet".into()),
    }
}

/// `KEY[=VALUE]` of a label.
pub(crate) fn label(text: &str) -> Result<(String, String), Reason> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("a label needs a key".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE` of a kernel parameter. Which keys belong to a container is the runtime's affair.
pub(crate) fn sysctl(text: &str) -> Result<(String, String), Reason> {
    let (key, value) = text.split_once('=').ok_or("not of the form KEY=VALUE")?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !key.contains('.') || !key.bytes().all(legal) || key.split('.').any(str::is_empty) {
        return Err("the key is not of the form net.ipv4.ip_forward".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_are_docker_s() {
        for (text, expected) in [
            ("no", Restart::No),
            ("always", Restart::Always),
            ("unless-stopped", Restart::UnlessStopped),
            ("on-failure", Restart::OnFailure(None)),
            ("on-failure:0", Restart::OnFailure(None)),
            ("on-failure:3", Restart::OnFailure(Some(3))),
        ] {
            assert_eq!(restart(text), Ok(expected), "{text}");
        }
        for text in ["never", "on-failure:", "on-failure:-1", "always:3"] {
            assert!(restart(text).is_err(), "{text}");
        }
    }

    #[test]
    fn container_names_have_docker_s_form() {
        for text in ["ab", "a1_.-", "0x"] {
            assert_eq!(container(text), Ok(text.to_owned()));
        }
        for text in ["", "a", "-a", "_a", "a b", "a/b", "ä1", "a\n"] {
            assert!(container(text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_names_fit_the_kernel_and_etc_hosts() {
        assert_eq!(host("web-1.example_x"), Ok(Some("web-1.example_x".into())));
        assert_eq!(host(""), Ok(None));
        assert!(host(&"a".repeat(64)).is_ok());
        assert_eq!(host(&"a".repeat(65)), Err("longer than 64 bytes".into()));
        for text in ["a b", "a\nb", "a/b"] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn namespaces_are_private_or_the_host_s() {
        assert_eq!(namespace("host", false), Ok(Namespace::Host));
        assert_eq!(namespace("", false), Ok(Namespace::Private));
        assert_eq!(namespace("private", true), Ok(Namespace::Private));
        assert_eq!(namespace("private", false), Err("not 'host'".into()));
        assert_eq!(namespace("shareable", true), Err("only 'host' and 'private' are supported yet".into()));
        assert_eq!(
            namespace("container:x", true),
            Err("joining another container is not supported yet".into())
        );
        assert_eq!(network("none"), Ok(Namespace::Private));
        assert_eq!(network("host"), Ok(Namespace::Host));
        assert_eq!(network("bridge"), Err("only 'none' and 'host' are supported yet".into()));
    }

    #[test]
    fn labels_and_sysctls_are_pairs() {
        assert_eq!(label("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert!(label("=x").is_err());
        assert_eq!(sysctl("net.core.somaxconn=1"), Ok(("net.core.somaxconn".into(), "1".into())));
        for text in ["net.x", "net=1", "net/../x.y=1", "net..x=1", ".=1"] {
            assert!(sysctl(text).is_err(), "{text}");
        }
    }
}
