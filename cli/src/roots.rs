//! Where skiff keeps things: what survives a boot below the state root, what does not below the run root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The two directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roots {
    /// Images: `$SKIFF_ROOT`, else `/var/lib/skiff` for root, else `skiff` in the user's data directory.
    pub(crate) state: PathBuf,
    /// Running containers: `$SKIFF_RUN_ROOT`, else `/run/skiff` for root, else `skiff` in the user's runtime directory
    /// or, where there is none, `run` below `state`.
    pub(crate) run: PathBuf,
}

impl Roots {
    /// Those of the caller.
    ///
    /// Errors: neither a home nor a data directory is known.
    pub(crate) fn find() -> Result<Self, Failure> {
        Self::find_with(nix::unistd::geteuid().is_root(), &|name| std::env::var_os(name))
    }

    fn find_with(root: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = match (path("SKIFF_ROOT"), root) {
            (Some(state), _) => state,
            (None, true) => PathBuf::from("/var/lib/skiff"),
            (None, false) => path("XDG_DATA_HOME")
                .or_else(|| path("HOME").map(|home| home.join(".local/share")))
                .ok_or_else(|| {
                    Failure::engine("no place for images: none of SKIFF_ROOT, XDG_DATA_HOME and HOME is set")
                })?
                .join("skiff"),
        };
        let run = match (path("SKIFF_RUN_ROOT"), root) {
            (Some(run), _) => run,
            (None, true) => PathBuf::from("/run/skiff"),
            (None, false) => {
                path("XDG_RUNTIME_DIR").map_or_else(|| state.join("run"), |dir| dir.join("skiff"))
            }
        };
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { state: absolute(&state), run: absolute(&run) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_follow_the_user_and_the_environment() {
        let check = |root: bool, variables: &[(&str, &str)], expected: Option<(&str, &str)>| {
            let found = Roots::find_with(root, &|name| {
                variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into())
            });
            let expected = expected.map(|(state, run)| Roots { state: state.into(), run: run.into() });
            assert_eq!(found.ok(), expected, "{root} {variables:?}");
        };
        check(true, &[("HOME", "/root")], Some(("/var/lib/skiff", "/run/skiff")));
        check(true, &[("SKIFF_ROOT", "/s")], Some(("/s", "/run/skiff")));
        check(true, &[("SKIFF_ROOT", "/s"), ("SKIFF_RUN_ROOT", "/r")], Some(("/s", "/r")));
        check(true, &[("SKIFF_ROOT", "")], Some(("/var/lib/skiff", "/run/skiff")));
        check(false, &[("HOME", "/h")], Some(("/h/.local/share/skiff", "/h/.local/share/skiff/run")));
        check(
            false,
            &[("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_RUNTIME_DIR", "/run/user/7")],
            Some(("/d/skiff", "/run/user/7/skiff")),
        );
        check(false, &[], None);
    }
}
