//! Where a repository is looked for: the subset of `registries.conf` (version 2) that says so.
//!
//! Read are `prefix`, `location`, `insecure`, `blocked`, `mirror-by-digest-only`, and of mirrors `location`,
//! `insecure` and `pull-from-mirror`. Names are completed as docker does, so `unqualified-search-registries` and
//! short-name aliases mean nothing here.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skiff_store::ImageName;

use crate::error::{Result, cause, failed, quoted};

/// Where docker.io's repositories really are.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What the administrator and the user say about registries.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    registries: Vec<Registry>,
}

/// One place where a repository may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host and port, by the name that credentials are kept under.
    pub(crate) host: String,
    pub(crate) path: String,
    /// Plain HTTP and unknown certificates will do.
    pub(crate) is_insecure: bool,
    pub(crate) serves: Serves,
}

/// Which manifests are asked of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    All,
    Digests,
    Tags,
}

#[derive(Debug, Default, Deserialize)]
struct Document {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Rules {
    /// What `$CONTAINERS_REGISTRIES_CONF` names, else `containers/registries.conf` of the user, else of `/etc`; and
    /// the files beside it in `registries.conf.d`. Errors: one of them is not readable.
    pub fn from_environment() -> Result<Self> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = variable("CONTAINERS_REGISTRIES_CONF") {
            return Self::read(&[path]);
        }
        let user = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let system = Path::new("/etc/containers");
        let folders = user.map(|folder| folder.join("containers")).into_iter().chain([system.to_owned()]);
        let main = folders.clone().map(|folder| folder.join("registries.conf")).find(|path| path.exists());
        let mut paths: Vec<PathBuf> = main.into_iter().collect();
        // The user's come last, and the last word about a prefix counts.
        for folder in folders.collect::<Vec<_>>().iter().rev() {
            let mut more: Vec<PathBuf> = fs::read_dir(folder.join("registries.conf.d"))
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            more.sort();
            paths.extend(more);
        }
        Self::read(&paths)
    }

    fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut rules = Self::default();
        for path in paths {
            let refuse = |reason: String| failed(format!("{}: {reason}", path.display()));
            let text = match fs::metadata(path) {
                Ok(about) if about.len() > FILE_MAX => Err(refuse(format!("more than {FILE_MAX} bytes"))),
                _ => fs::read_to_string(path).map_err(|error| refuse(cause(&error))),
            }?;
            rules.add(&text).map_err(refuse)?;
        }
        Ok(rules)
    }

    /// Adds what a file says. Errors: one line without the file's name.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let document: Document = toml::from_str(text).map_err(|error| quoted(error.message()))?;
        for mut registry in document.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.prefix.is_empty() {
                return Err("a [[registry]] has neither prefix nor location".to_owned());
            }
            if registry.location.is_empty() && !registry.prefix.starts_with("*.") {
                registry.location.clone_from(&registry.prefix);
            }
            if registry.mirror.iter().any(|mirror| mirror.location.is_empty()) {
                return Err(format!("a mirror of {:?} has no location", quoted(&registry.prefix)));
            }
            self.registries.retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        Ok(())
    }

    /// Mirrors in their order, then the place itself. Errors: the repository is blocked.
    pub(crate) fn places(&self, name: &ImageName) -> Result<Vec<Place>> {
        let whole = name.repository();
        let matching =
            self.registries.iter().filter_map(|registry| Some((registry, rest(&registry.prefix, &whole)?)));
        // The longest prefix is the most specific one, and a host more so than its domain. What is left of the name would
        // not tell: that of `*.domain` is the same for each of them.
        let specific =
            |(registry, _): &(&Registry, &str)| (registry.prefix.len(), !registry.prefix.starts_with('*'));
        let Some((registry, rest)) = matching.max_by_key(specific) else {
            return Ok(vec![Place::new(&whole, false, Serves::All)]);
        };
        if registry.blocked {
            return Err(failed(format!("{whole}: blocked by registries.conf")));
        }
        let mirrors = registry.mirror.iter().map(|mirror| {
            let serves = match mirror.pull_from_mirror.as_str() {
                "digest-only" => Serves::Digests,
                "tag-only" => Serves::Tags,
                _ if registry.mirror_by_digest_only => Serves::Digests,
                _ => Serves::All,
            };
            Place::new(&format!("{}{rest}", mirror.location), mirror.insecure, serves)
        });
        let own = match registry.location.as_str() {
            "" => whole.clone(),
            location => format!("{location}{rest}"),
        };
        Ok(mirrors.chain([Place::new(&own, registry.insecure, Serves::All)]).collect())
    }
}

impl Place {
    fn new(whole: &str, is_insecure: bool, serves: Serves) -> Self {
        let (host, path) = whole.split_once('/').unwrap_or((whole, ""));
        Self { host: host.to_owned(), path: path.to_owned(), is_insecure, serves }
    }

    /// Host and port to connect to.
    pub(crate) fn authority(&self) -> &str {
        if self.host == "docker.io" { DOCKER_HUB } else { &self.host }
    }
}

/// What follows the prefix in a whole name, if it is one: at the end of a word, or for `*.host` below a domain.
fn rest<'a>(prefix: &str, whole: &'a str) -> Option<&'a str> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let (host, _) = whole.split_once('/')?;
        return (domain.starts_with('.') && host.ends_with(domain)).then(|| &whole[host.len()..]);
    }
    whole.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        unqualified-search-registries = ["quay.io"]
        [aliases]
        "x" = "y/x"

        [[registry]]
        prefix = "docker.io"
        location = "docker.io"
        [[registry.mirror]]
        location = "localhost:5001/hub"
        [[registry.mirror]]
        location = "m.example"
        insecure = true
        pull-from-mirror = "digest-only"

        [[registry]]
        prefix = "a.b/old"
        location = "c.d/new"
        insecure = true

        [[registry]]
        prefix = "*.corp"
        insecure = true

        [[registry]]
        location = "bad.example"
        blocked = true
    "#;

    fn check(rules: &Rules, name: &str, expect: &str) {
        let name = ImageName::parse(name).expect(name);
        let found = rules.places(&name).map(|places| {
            let words = places.iter().map(|place| {
                let insecure = if place.is_insecure { "!" } else { "" };
                let serves = if place.serves == Serves::All { "" } else { "#" };
                format!("{}/{}{insecure}{serves}", place.authority(), place.path)
            });
            words.collect::<Vec<_>>().join(" ")
        });
        assert_eq!(found.unwrap_or_else(|error| error.message), expect);
    }

    #[test]
    fn the_most_specific_rule_says_where_to_look() {
        let mut rules = Rules::default();
        rules.add(FILE).expect("rules");
        check(
            &rules,
            "alpine",
            "localhost:5001/hub/library/alpine m.example/library/alpine!# registry-1.docker.io/library/alpine",
        );
        check(&rules, "a.b/old/app", "c.d/new/app!");
        check(&rules, "a.b/older/app", "a.b/older/app");
        check(&rules, "x.corp/app", "x.corp/app!");
        check(
            &rules,
            "corp/app",
            "localhost:5001/hub/corp/app m.example/corp/app!# registry-1.docker.io/corp/app",
        );
        rules.add("[[registry]]\nprefix = '*.b.corp'\nblocked = true").expect("rules");
        rules.add("[[registry]]\nprefix = 'a.b.corp'\nlocation = 'a.b.corp'").expect("rules");
        rules.add("[[registry]]\nprefix = '*.ab.corp'\nlocation = 'c.d'").expect("rules");
        check(&rules, "x.b.corp/app", "x.b.corp/app: blocked by registries.conf");
        check(&rules, "a.b.corp/app", "a.b.corp/app");
        check(&rules, "x.ab.corp/app", "c.d/app");
        check(&rules, "bad.example/x", "bad.example/x: blocked by registries.conf");
        check(&rules, "localhost:5000/x", "localhost:5000/x");
        // A later file has the last word about a prefix.
        rules.add("[[registry]]\nprefix = 'docker.io'\nlocation = 'e.f'").expect("rules");
        check(&rules, "alpine", "e.f/library/alpine");
    }

    #[test]
    fn what_is_no_rule_is_refused_in_one_line() {
        let check = |text: &str| {
            let error = Rules::default().add(text).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{error:?}");
        };
        check("[[registry]]");
        check("[[registry]]\nprefix = 1");
        check("[[registry]]\nprefix = 'a'\n[[registry.mirror]]\ninsecure = true");
        check("registry = \n");
    }
}
