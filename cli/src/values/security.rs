//! `--security-opt` and `--device`.

use std::path::{Path, PathBuf};

use skiff_runtime::Options;
use skiff_runtime::options::{Device, Seccomp};

use super::{Reason, boolean, cause};

/// Applies one `--security-opt` to `options`.
///
/// No security module's labels are set, so `apparmor=unconfined` and `label=disable` say what happens anyway; a
/// profile or a label of either is refused.
pub(crate) fn apply(text: &str, options: &mut Options) -> Result<(), Reason> {
    let (key, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    match (key, value) {
        ("no-new-privileges", "") => options.no_new_privileges = true,
        ("no-new-privileges", value) => options.no_new_privileges = boolean(value)?,
        ("seccomp", "unconfined") => options.seccomp = Seccomp::Unconfined,
        ("seccomp", "builtin") => options.seccomp = Seccomp::Default,
        ("seccomp", "") => return Err("seccomp needs a file or 'unconfined'".into()),
        ("seccomp", file) => options.seccomp = Seccomp::Profile(profile(file)?),
        ("systempaths", "unconfined") => options.systempaths_unconfined = true,
        ("apparmor", "unconfined") | ("label", "disable") => {}
        ("apparmor" | "label", _) => return Err(format!("{key} is not supported yet")),
        _ => return Err("no such option (there are no-new-privileges, seccomp and systempaths)".into()),
    }
    Ok(())
}

/// `SRC[:DST][:rwm]`; access is `rwm` unless given.
pub(crate) fn device(text: &str) -> Result<Device, Reason> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match *parts.as_slice() {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, target] => (source, target, "rwm"),
        [source, target, access] if is_access(access) => (source, target, access),
        [_, _, access] => return Err(format!("'{access}' is not made of r, w and m")),
        _ => return Err("not of the form SRC[:DST][:rwm]".into()),
    };
    if !source.starts_with('/') {
        return Err(format!("the device '{source}' is not an absolute path"));
    }
    let target = skiff_runtime::options::container_path(target)?;
    Ok(Device { source: PathBuf::from(source), target, access: access.to_owned() })
}

fn is_access(text: &str) -> bool {
    let once = |c| text.matches(c).count() <= 1;
    !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b)) && ['r', 'w', 'm'].into_iter().all(once)
}

fn profile(file: &str) -> Result<String, Reason> {
    std::fs::read_to_string(Path::new(file)).map_err(|error| format!("read {file}: {}", cause(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> Result<Options, Reason> {
        let mut options = Options::default();
        apply(text, &mut options).map(|()| options)
    }

    #[test]
    fn security_options_reach_the_options() -> Result<(), Reason> {
        assert!(applied("no-new-privileges")?.no_new_privileges);
        assert!(applied("no-new-privileges:true")?.no_new_privileges);
        assert!(!applied("no-new-privileges=false")?.no_new_privileges);
        assert_eq!(applied("seccomp=unconfined")?.seccomp, Seccomp::Unconfined);
        assert_eq!(applied("seccomp=builtin")?.seccomp, Seccomp::Default);
        assert!(applied("systempaths=unconfined")?.systempaths_unconfined);
        applied("apparmor=unconfined")?;
        applied("label=disable").map(drop)
    }

    #[test]
    fn bad_security_options_are_explained() {
        let check =
            |text: &str, expected: &str| assert_eq!(applied(text).err().as_deref(), Some(expected), "{text}");
        check("no-new-privileges=maybe", "neither true nor false");
        check("seccomp", "seccomp needs a file or 'unconfined'");
        check("seccomp=/nowhere/x.json", "read /nowhere/x.json: no such file or directory");
        check("apparmor=docker-default", "apparmor is not supported yet");
        check("label=type:x", "label is not supported yet");
        check("systempaths=x", "no such option (there are no-new-privileges, seccomp and systempaths)");
    }

    #[test]
    fn devices_have_a_target_and_an_access() {
        let check = |text: &str, source: &str, target: &str, access: &str| {
            let expected = Device { source: source.into(), target: target.into(), access: access.into() };
            assert_eq!(device(text), Ok(expected), "{text}");
        };
        check("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm");
        check("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r");
        check("/dev/fuse:/dev/f", "/dev/fuse", "/dev/f", "rwm");
        check("/dev/fuse:/dev/f:wm", "/dev/fuse", "/dev/f", "wm");
    }

    #[test]
    fn bad_devices_are_explained() {
        let check = |text: &str, expected: &str| assert_eq!(device(text), Err(expected.to_owned()), "{text}");
        check("fuse", "the device 'fuse' is not an absolute path");
        check("/dev/fuse:/x:rr", "'rr' is not made of r, w and m");
        check("/dev/fuse:x", "the container path 'x' is not absolute");
        check("a:b:c:d", "not of the form SRC[:DST][:rwm]");
    }
}
