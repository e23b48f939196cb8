//! Hooks. config.md, "POSIX-platform Hooks".

use std::time::Duration;

use super::{Bundle, c_text, invalid, spec};
use crate::Error;
use crate::plan::{Hook, Hooks, Subject};

/// The kinds, in the order in which they run.
pub(super) const NAMES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The hooks of `bundle`, for container `id`.
///
/// Errors: what is no hook.
pub fn hooks(bundle: &Bundle, id: &str) -> Result<Hooks, Error> {
    let given = &bundle.spec.hooks;
    let annotations = &bundle.spec.annotations;
    let [prestart, create_runtime, create_container, start_container, poststart, poststop] = NAMES;
    Ok(Hooks {
        prestart: list(&given.prestart, prestart)?,
        create_runtime: list(&given.create_runtime, create_runtime)?,
        create_container: list(&given.create_container, create_container)?,
        start_container: list(&given.start_container, start_container)?,
        poststart: list(&given.poststart, poststart)?,
        poststop: list(&given.poststop, poststop)?,
        subject: Subject {
            oci_version: bundle.spec.oci_version.clone(),
            id: id.to_owned(),
            bundle: bundle.path.clone(),
            annotations: annotations.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        },
    })
}

fn list(hooks: &[spec::Hook], kind: &str) -> Result<Vec<Hook>, Error> {
    hooks.iter().enumerate().map(|(index, given)| hook(given, &format!("hooks.{kind}[{index}]"))).collect()
}

fn hook(given: &spec::Hook, place: &str) -> Result<Hook, Error> {
    if !given.path.starts_with('/') {
        return Err(invalid(place, format!("path {:?} is not absolute", given.path)));
    }
    let timeout = match given.timeout {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
            _ => return Err(invalid(place, format!("timeout {seconds} is not greater than 0"))),
        },
    };
    c_text(&given.path, place)?;
    let texts = |list: &[String]| list.iter().map(|text| c_text(text, place)).collect::<Result<_, _>>();
    Ok(Hook { path: given.path.clone().into(), args: texts(&given.args)?, env: texts(&given.env)?, timeout })
}
